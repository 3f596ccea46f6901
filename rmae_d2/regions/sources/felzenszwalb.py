"""Felzenszwalb-Huttenlocher (FH) regions: the paper's region source.

R-MAE uses scales 500, 1000 and 1500 on COCO and only 1000 on ImageNet, with the minimum segment size equal
to the scale and sigma 0.8, on the image as stored, before any crop.
`fh_numba.py` (extra `fast`) gives scikit-image's partition 8 to 15 times faster, with a third of the memory.
"""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError, UserError
from ...extras import how_to_install
from ...files import atomic_file, check_file
from ..record.codec import FORMAT_VERSION, Labels, warm_up
from ..record.record import EncodedRecord, RegionRecord, narrow_labels

logger = logging.getLogger(__name__)

MAX_PIXELS = 4_000_000
#: Implementations of the partition; by default, the first one installed.
IMPLEMENTATIONS = ("numba", "scikit-image")
_BYTES_A_PIXEL = {"numba": 90, "scikit-image": 330}  # peaks, measured on colour photos
_SECONDS = {"numba": 0.06, "scikit-image": 0.8}  # 640x480 photo, three scales, rounded
_warned_large = False


def felzenszwalb(
    image_HWC: NDArray[np.uint8],
    scales: Sequence[int],
    *,
    sigma: float = 0.8,
    max_pixels: int | None = MAX_PIXELS,
    implementation: str | None = None,
) -> Labels:
    """Partition an image at each scale, exactly as scikit-image does with min_size = scale.

    Both implementations give the same partition of photographs; where edges have exactly equal weights, as in
    drawings, scikit-image's result depends on the processor and ours does not.

    scikit-image peaks at about 330 bytes per pixel, numba at about 90, in every worker. An image with more
    than `max_pixels` is therefore averaged down to that many, and its labels are enlarged by nearest
    neighbour. Scale and minimum size remain the same, in pixels of the smaller image.

    Args:
        image_HWC: uint8 (H, W, C) or (H, W), any number of channels, any size from 1x1.
        scales: FH scales for intensities 0..255; a larger one gives larger segments.
        sigma: Gaussian smoothing before segmentation, in pixels.
        max_pixels: largest image segmented at full size; None for no limit.
        implementation: "numba", "scikit-image", or None for numba if it is installed.

    Returns:
        (S, H, W) labels, uint8, or uint16 or uint32 if needed: 0..n-1 in the order in which
        segments appear in raster order.

    Raises:
        UserError: an argument is invalid, or numba was requested and cannot be imported.
    """
    implementation = resolve_implementation(implementation)
    if image_HWC.dtype != np.uint8 or image_HWC.ndim not in (2, 3) or 0 in image_HWC.shape:
        raise UserError(
            "felzenszwalb needs a non-empty uint8 (H, W) or (H, W, C) image, "
            f"got {image_HWC.dtype} {image_HWC.shape}"
        )
    if not scales or min(scales) <= 0:
        raise UserError(f"felzenszwalb needs one or more positive scales, got {scales}")
    if not 0 <= sigma < math.inf:
        raise UserError(f"felzenszwalb needs a finite sigma of 0 or more, got {sigma}")
    image = image_HWC if image_HWC.ndim == 3 else image_HWC[..., None]
    size = image.shape[:2]
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        image = _shrink(image, max_pixels, implementation)
    labels = narrow_labels(np.stack(_partitions(image, scales, sigma, implementation)))
    if labels.shape[1:] == size:
        return labels
    return RegionRecord.from_labels(labels).resize(size).labels


def resolve_implementation(name: str | None) -> str:
    """Resolve the name of an implementation; UserError if it is unknown or numba cannot be imported."""
    if name not in (None, *IMPLEMENTATIONS):
        raise UserError(f"implementation={name!r} must be one of {IMPLEMENTATIONS} or None")
    if name == "scikit-image":
        return name
    try:
        import numba  # noqa: F401  (it is absent, or refuses a numpy that is too new for it)
    except ImportError as error:
        if name == "numba":
            raise UserError(
                f"implementation='numba' needs numba ({error}): {how_to_install('fast')}"
            ) from error
        _warn_slow(str(error))
        return "scikit-image"
    return "numba"


@cache
def _warn_slow(error: str) -> None:
    logger.warning(
        "numba cannot be imported (%s): FH regions are computed by scikit-image, about 15 times "
        "slower (%s s instead of %s s for a 640x480 photo at three scales). Remedy: "
        "%s", error, _SECONDS["scikit-image"], _SECONDS["numba"], how_to_install("fast"),
    )  # fmt: skip


class RegionCache:
    """Caches a region source's records in a folder, so that regions need not be precomputed. Picklable.

    An entry is identified by what the regions depend on: pixels of the decoded image, parameters of the
    source, record format. Any number of processes and machines may share a folder; problems with it cost
    time, but never end a run. With `folder` below the given one, an entry is:

        folder = given/<hash of parameters and format>
        folder/<first two hex digits>/<hash of the image>.regions
    """

    def __init__(self, folder: str | os.PathLike[str], params: Mapping[str, Any]) -> None:
        """Must be created before worker processes start, which inherit the compiled decoder.

        Args:
            folder: may be shared by all sources; created with the first entry.
            params: everything besides the image that the regions depend on; JSON types.
        """
        text = json.dumps([FORMAT_VERSION, params], sort_keys=True)
        self.folder = Path(folder) / blake2b(text.encode(), digest_size=8).hexdigest()
        self._failed: set[str] = set()  # of "read", "write": what has been reported
        warm_up()

    def path(self, image_HWC: NDArray[np.uint8]) -> Path:
        """The file of an image's entry."""
        digest = blake2b(repr((image_HWC.shape, image_HWC.dtype.str)).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image_HWC).data)
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.regions"

    def get(
        self, image_HWC: NDArray[np.uint8], compute: Callable[[NDArray[np.uint8]], RegionRecord]
    ) -> RegionRecord | EncodedRecord:
        """The record of a whole image, uint8 (H, W, C) or (H, W): from disk, or computed and written.

        An entry that is cut short, damaged or of another size is reported and replaced. A folder that
        cannot be read or written is reported once per process; after the first failed write, records are
        computed without being cached. Errors of `compute` propagate.
        """
        path = self.path(image_HWC)
        size = image_HWC.shape[:2]
        kept = self._read(path, size)
        if kept is not None:
            return kept
        record = compute(image_HWC)
        if record.size != size:
            raise UserError(f"the source made a record of {record.size} for an image {size}")
        self._write(path, record)
        return record

    def _read(self, path: Path, size: tuple[int, ...]) -> EncodedRecord | None:
        try:
            check_file(path)
            record = EncodedRecord(path.read_bytes())
            if record.size != size:
                raise StoreError(f"it is of size {record.size}, the image of {size}")
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report("read", error)
            return None
        except StoreError as error:
            logger.warning(
                "Region cache entry %s is unusable (%s); computing it anew.", path, error
            )
            return None
        return record

    def _write(self, path: Path, record: RegionRecord) -> None:
        if "write" in self._failed:
            return
        # Readers see a complete entry or none; writers of the same entry write the same bytes, so
        # the last one wins. A power failure may leave a truncated file, which reading detects.
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, durable=False) as file:
                file.write(record.to_bytes())
        except (OSError, UserError) as error:
            self._report("write", error)

    def _report(self, action: str, error: OSError | UserError) -> None:
        if action not in self._failed:
            self._failed.add(action)
            logger.warning(
                "REGION CACHE: CANNOT %s %s (%s). The run goes on, but regions that are not there "
                "are computed again in every epoch, which is slow. Free space, correct the "
                "folder's permissions, or name another folder as cache_dir.",
                action.upper(), self.folder, error,
            )  # fmt: skip


class CachedSource:
    """Base of region sources that look at the whole image alone, and may keep its record. Picklable.

    Attributes:
        params: what the regions depend on; stands in each record and keys the cache.
        cache: None to compute each time.
    """

    params: dict[str, Any]
    cache: RegionCache | None

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord | EncodedRecord:
        """Make the record of the whole image, uint8 (H, W, C); `dataset_dict` is not used."""
        if self.cache is None:
            return self._compute(image_HWC)
        return self.cache.get(image_HWC, self._compute)

    def _keep_in(self, cache_dir: str | PathLike[str] | None) -> None:
        """Keep records below a folder, by ``params``; None to compute each time."""
        self.cache = None if cache_dir is None else RegionCache(cache_dir, self.params)

    @property
    def _kept(self) -> str:
        """Where records are kept, in words."""
        return f"kept in {self.cache.folder if self.cache else 'nowhere'}"

    def _compute(self, image_HWC: NDArray[np.uint8]) -> RegionRecord:
        raise NotImplementedError


class FelzenszwalbSource(CachedSource):
    """Region source for FH partitions, one label plane per scale. Picklable.

    Attributes:
        params: what the regions depend on; stored in each record and part of the cache key.
    """

    def __init__(
        self,
        scales: Sequence[int] = (500, 1000, 1500),
        sigma: float = 0.8,
        cache_dir: str | PathLike[str] | None = None,
        max_pixels: int | None = MAX_PIXELS,
        implementation: str | None = None,
    ) -> None:
        """Takes the arguments of `felzenszwalb`. Compiles, so that workers forked later need not.

        `cache_dir` keeps records between epochs and runs; with None they are always recomputed.
        """
        self.scales = tuple(int(scale) for scale in scales)
        self.implementation = resolve_implementation(implementation)
        self.params: dict[str, Any] = {
            "source": "felzenszwalb",
            "scales": list(self.scales),
            "sigma": float(sigma),
            "max_pixels": max_pixels,
            # Included because partitions differ where edges have equal weights.
            "implementation": self.implementation,
        }
        self._keep_in(cache_dir)
        if self.implementation == "numba":
            from . import fh_numba

            fh_numba.warm_up()

    def __repr__(self) -> str:
        return (
            f"FH at scales {self.scales}, sigma {self.params['sigma']}, computed when an image is first seen "
            f"by {self.implementation} (a 640x480 photo at three scales takes about "
            f"{_SECONDS[self.implementation]} s), {self._kept}"
        )

    def _compute(self, image_HWC: NDArray[np.uint8]) -> RegionRecord:
        names = ("sigma", "max_pixels", "implementation")
        labels = felzenszwalb(image_HWC, self.scales, **{name: self.params[name] for name in names})
        return RegionRecord.from_labels(labels, params=self.params)


def _partitions(
    image_HWC: NDArray[np.uint8], scales: Sequence[int], sigma: float, implementation: str
) -> list[NDArray[Any]]:
    """One (H, W) plane of labels per scale."""
    if implementation == "numba":
        from .fh_numba import segment  # imports numba

        return list(segment(image_HWC, scales, sigma))
    from skimage.segmentation import felzenszwalb as by_skimage

    with warnings.catch_warnings():
        # It warns that a third dimension other than 3 is treated as channels, which is what we want.
        warnings.filterwarnings("ignore", message=".*third dimension")
        return [by_skimage(image_HWC, scale, sigma, min_size=int(scale)) for scale in scales]


def _shrink(
    image_HWC: NDArray[np.uint8], max_pixels: int, implementation: str
) -> NDArray[np.uint8]:
    """Area-average down to at most `max_pixels`, keeping the aspect ratio up to whole pixels."""
    from PIL import Image  # scikit-image depends on it; its box filter works in uint8, in place

    global _warned_large
    height, width = image_HWC.shape[:2]
    factor = math.sqrt(max_pixels / (height * width))
    new_height = min(max(1, int(height * factor)), max_pixels)
    new_width = min(max(1, int(width * factor)), max_pixels // new_height)
    log = logger.debug if _warned_large else logger.warning
    log(
        "Image of %dx%d pixels: regions are computed at %dx%d, since %s would need "
        "%.1f GB at full size (max_pixels=%d). Further large images are not reported.",
        width, height, new_width, new_height, implementation,
        height * width * _BYTES_A_PIXEL[implementation] / 1e9, max_pixels,
    )  # fmt: skip
    _warned_large = True
    size = (new_width, new_height)
    channels = map(Image.fromarray, map(np.ascontiguousarray, np.moveaxis(image_HWC, -1, 0)))
    return np.stack([np.asarray(c.resize(size, Image.Resampling.BOX)) for c in channels], axis=-1)
