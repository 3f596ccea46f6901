"""Region maps of the R-MAE reference code: one `.npy` per image, a uint8 stack of label planes.

Its scripts write `<same relative path>.npy` with shape (S, H, W), one plane per FH scale, cast to 8
bits: with more than 256 segments per plane, labels have wrapped around and unrelated segments share one.
This cannot be undone; segmenting again (FelzenszwalbSource) keeps them apart.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ..record.codec import Labels
from ..record.masks import describe
from ..record.record import RegionRecord, narrow_labels
from .companions import check_folder, check_size, find_companion

logger = logging.getLogger(__name__)

_REMEDY = "Name the folder that the reference code's script wrote for this data set."


class NpySource:
    """Region source for a folder of `.npy` label planes. Every label is a region, including 0.

    Files are memory-mapped: a crop of the record reads only the rows that it needs.

    Attributes:
        params: what the regions depend on besides the image and its file.
    """

    blind = True  # to pixels, see blind.py

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Takes a folder with the sub-folders of the images, or with all files in one.

        It is local, or anything that iopath's `g_pathmgr` can open.

        Raises:
            UserError: a local folder does not exist.
        """
        self.folder = check_folder(folder, _REMEDY)
        self.params: dict[str, Any] = {"source": "npy"}
        self._wrap_reported = False

    def __repr__(self) -> str:
        return f"label planes of the .npy files in {self.folder}"

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord:
        """Make the record of an image's label planes; the image is uint8 (H, W, C).

        Raises:
            FileNotFoundError: there is no file for the image.
            UserError: the file is damaged, has another size, or holds something other than integer planes
                (S, H, W) or (H, W).
        """
        path = find_companion(self.folder, dataset_dict, ".npy", _REMEDY)
        labels = _read_planes(path)
        check_size(path, labels.shape[1:], image_HWC.shape)
        if labels.dtype == np.uint8 and not self._wrap_reported and (labels == 255).any():
            self._wrap_reported = True
            logger.warning(
                "%s uses label 255, the last of 8 bits: with more than 256 segments in a plane, "
                "unrelated ones were merged when the file was written, and that cannot be undone. "
                "FelzenszwalbSource makes them anew. Further files are not reported.", path,
            )  # fmt: skip
        return RegionRecord.from_labels(labels, params=self.params)


def _read_planes(path: str) -> Labels:
    """Label planes (S, H, W) in a file, memory-mapped if their dtype is one that records use."""
    again = "Write it again as an unsigned integer array of label planes (scales, height, width)"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(
            f"{path} is not a complete .npy file of numbers ({error}). {again}"
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise UserError(f"{path} is an .npz archive under another name. {again}")
    if array.dtype.kind not in "iu" or array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(f"{path} holds {describe(array)}. {again}")
    planes = np.asarray(array if array.ndim == 3 else array[None])
    try:
        return narrow_labels(planes)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
