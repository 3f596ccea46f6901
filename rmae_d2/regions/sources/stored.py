"""The region source of the pre-training configs: a store, and another source for what it lacks."""

import functools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError
from ..record.codec import warm_up
from ..record.record import EncodedRecord, RegionRecord
from ..store.shards import REMEDY
from ..store.store import RegionStore, digest_file
from .blind import is_blind, regions_of

logger = logging.getLogger(__name__)

Fallback = Callable[[Mapping[str, Any], NDArray[np.uint8]], RegionRecord | EncodedRecord]

_COMMAND = "rmae-d2 regions --dataset NAME (or --images FOLDER) --output DIR"
_OPTION = "dataloader.train.mapper.regions.path"
#: Number of image files per process that are compared with those that the store was made of.
FILES_CHECKED = 8


class StoredRegions:
    """Region source: records of a store, and those of another source for images not in it.

    An image is looked up by its `image_id`, then by its file's name, then, if that is a number, by that
    number (COCO's 000000000139.jpg is image 139). The first few image files in a process are compared with
    those of the store, because another data set's ids may be present too. Picklable.

    Attributes:
        store: None if no path was given.
        fallback: any region source; None if every image must be in the store.
        params: of the store, or of the fallback if there is no store.
        blind: whether only images missing from the store are looked at.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, fallback: Fallback | None = None
    ) -> None:
        """Open the store, a folder, local or remote; without one, the fallback makes all regions.

        Raises:
            StoreError: the store cannot be opened, or neither argument is given.
        """
        if path is None and fallback is None:
            raise StoreError(
                f"regions have no source: set {_OPTION}=DIR, or for MAE without regions "
                "dataloader.train.mapper.regions=null"
            )
        self.fallback = fallback
        try:
            self.store = None if path is None else RegionStore(path)
        except StoreError as error:
            raise StoreError(f"{_OPTION}={path}: {error}") from error
        # Few images are missing from a store.
        self.blind = self.store is not None or is_blind(fallback)
        warm_up()  # once here, so that workers forked later need not compile
        fallback_params = dict(getattr(fallback, "params", {}))
        self.params = dict(self.store.params) if self.store else fallback_params
        self._missing = self._checked = 0
        if self.store is None:
            _log_once(
                logging.WARNING,
                f"No region store is given: regions are computed when an image is first seen. FH "
                "takes about 0.06 s (numba) or 0.8 s (scikit-image) of a core for a 640x480 image "
                f"at three scales. To compute them once for all runs: {_COMMAND}, then {_OPTION}=DIR",
            )
        elif fallback is not None:
            self._compare_params(fallback_params)

    def __repr__(self) -> str:
        if self.store is None:
            return repr(self.fallback)
        return f"{len(self.store)} records of {self.store.folder}, else {self.fallback!r}"

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord | EncodedRecord:
        """Get the record of the whole image, uint8 (H, W, C).

        Raises:
            StoreError: its record is damaged or has another size, or there is none and no fallback.
        """
        if self.store is None:
            assert self.fallback is not None
            return regions_of(self.fallback, dataset_dict, image_HWC)
        for key, exact in _keys(dataset_dict):
            try:
                data = self.store.get(key)
            except KeyError:
                continue
            if self._is_of(key, exact, dataset_dict["file_name"]):
                return self._decode(key, data, image_HWC.shape[:2], dataset_dict["file_name"])
        return self._replace_missing(dataset_dict, image_HWC)

    def _decode(
        self, key: str, data: bytes, size: tuple[int, ...], file_name: str
    ) -> EncodedRecord:
        assert self.store is not None
        try:
            record = EncodedRecord(data)
        except StoreError as error:
            raise StoreError(
                f"the record {key!r} in {self.store.where(key)} is unusable: {error}. Remove that "
                f"tar with its .idx.npz and {REMEDY}"
            ) from error
        if record.size != size:
            raise StoreError(
                f"the regions of {file_name} in {self.store.where(key)} (key {key!r}) are of "
                f"{record.size} pixels (height, width), the image of {size}: the store was made of "
                f"other images. Make one of these: {_COMMAND}"
            )
        return record

    def _is_of(self, key: str, exact: bool, file_name: str) -> bool:
        """Whether a key's record is this image's; compares file and store for the first few images."""
        assert self.store is not None
        if self._checked >= FILES_CHECKED:
            return True
        self._checked += 1
        try:
            same = digest_file(file_name) == self.store.image_digest(key)
        except OSError:  # unknown then; whoever reads the image will report it
            return True
        if exact and not same:
            _log_once(
                logging.WARNING,
                f"REGIONS MAY BE THOSE OF OTHER IMAGES: {file_name} is not the file that "
                f"{self.store.folder} has as {key!r}. If images were not just re-encoded, make a "
                f"store of these: {_COMMAND}",
            )
        elif same and not exact:
            _log_once(
                logging.INFO,
                f"Images are found in {self.store.folder} under other names than their ids: "
                f"{file_name} as {key!r}",
            )
        return exact or same

    def _replace_missing(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord | EncodedRecord:
        assert self.store is not None
        tried = ", ".join(repr(key) for key, _ in _keys(dataset_dict))
        lacks = f"{dataset_dict['file_name']} has no regions in {self.store.folder} (keys tried: {tried}): "
        remedy = f"it was made of other images, or failed on this one. Make another: {_COMMAND}"
        if not self.store.complete:
            there = f"it has {self.store.present} of {self.store.num_shards} shards"
            remedy = f"{there}; to complete it, {REMEDY}"
        if self.fallback is None:
            raise StoreError(lacks + remedy)
        start = time.perf_counter()
        record = regions_of(self.fallback, dataset_dict, image_HWC)
        seconds = time.perf_counter() - start
        self._missing += 1
        if self._missing & (self._missing - 1) == 0:  # with decreasing frequency
            logger.warning(
                "%scomputed in %.2f s. %d images so far in process %d. The store: %s",
                lacks, seconds, self._missing, os.getpid(), remedy,
            )  # fmt: skip
        return record

    def _compare_params(self, fallback: Mapping[str, Any]) -> None:
        assert self.store is not None
        ours, theirs = (json.loads(json.dumps(params)) for params in (self.params, fallback))
        different = "; ".join(
            f"{name} {ours.get(name)} (store) and {theirs.get(name)} (config)"
            for name in sorted({*ours, *theirs})
            if ours.get(name) != theirs.get(name)
        )
        if different:
            _log_once(
                logging.WARNING,
                f"THE REGION STORE {self.store.folder} WAS MADE WITH OTHER PARAMETERS THAN THE "
                f"CONFIG'S: {different}. Training uses the store's; images not in it, the config's",
            )


def _keys(dataset_dict: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Keys to try, each with whether it is the image's own id."""
    file_name = str(dataset_dict["file_name"])
    base = os.path.basename(file_name)
    stem = os.path.splitext(base)[0]
    keys = {str(dataset_dict.get("image_id", file_name)): True}
    keys.setdefault(base, False)
    if stem.isascii() and stem.isdecimal():
        keys.setdefault(str(int(stem)), False)
    yield from keys.items()


# A config creates its mapper twice, for training and for evaluation: one report is enough.
@functools.cache
def _log_once(level: int, message: str) -> None:
    logger.log(level, "%s", message)
