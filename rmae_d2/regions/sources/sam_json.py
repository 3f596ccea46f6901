"""Masks made by SAM elsewhere: SA-1B's json files, or those of SAM's own command line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...annotations.segmentation import run_counts
from ...errors import UserError
from ..record.masks import Ints
from ..record.record import RegionRecord, largest_first, record_of_counts
from .companions import check_folder, check_size, find_companion

#: Number of masks kept per image. SA-1B has about 100 per image, SAM's default settings rarely more.
MAX_MASKS = 256

_REMEDY = "Name the folder of SAM's json files for this data set."
_SMALLER = "Masks are for the photo as SA-1B has it: where photos were made smaller, let SAM segment those."


class SamJsonSource:
    """Region source for overlapping masks from one json per image, named like the image.

    Accepts SA-1B's files, `{"image": {...}, "annotations": [{"segmentation": ...}, ...]}`, and the output of
    `amg.py --convert-to-rle` of segment-anything, a list of `{"segmentation": ...}`.
    Masks are ordered by decreasing area, then by position, whatever their order in the file.

    Attributes:
        params: what the regions depend on besides the image and its file.
    """

    blind = True  # to pixels, see blind.py

    def __init__(self, folder: str | os.PathLike[str], max_masks: int | None = MAX_MASKS) -> None:
        """Takes a folder as in `NpySource`; the largest `max_masks` masks are kept, None for all."""
        self.folder = check_folder(folder, _REMEDY)
        self.max_masks = check_max_masks(max_masks)
        self.params: dict[str, Any] = {"source": "sam json", "max_masks": max_masks}

    def __repr__(self) -> str:
        return f"SAM masks of the .json files in {self.folder}, at most {self.max_masks}"

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord:
        """Make the record of an image's masks; the image is uint8 (H, W, C).

        Raises:
            FileNotFoundError: there is no file for the image.
            UserError: the file is damaged, or has other contents or another size.
        """
        path = find_companion(self.folder, dataset_dict, ".json", _REMEDY)
        size = (image_HWC.shape[0], image_HWC.shape[1])
        masks = _read_masks(path, size)
        return record_of_counts(largest_first(masks, self.max_masks), size, self.params)


def check_max_masks(max_masks: int | None) -> int | None:
    """Return the value if it is valid; otherwise raise UserError."""
    if max_masks is not None and max_masks < 1:
        raise UserError(f"max_masks={max_masks} must be positive, or None for all masks")
    return max_masks


def _read_masks(path: str, size: tuple[int, int]) -> list[Ints]:
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({error}): it is damaged or cut short, copy it again"
        ) from error
    annotations = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(annotations, list):
        raise UserError(
            f"{path} is neither SA-1B's format (a dict with a list `annotations`) nor that of "
            "amg.py --convert-to-rle (a list of masks): take files of one of them"
        )
    image = content.get("image") if isinstance(content, dict) else None
    if isinstance(image, dict) and "height" in image and "width" in image:
        check_size(path, (image["height"], image["width"]), size, _SMALLER)
    masks = []
    for number, annotation in enumerate(annotations):
        segmentation = annotation.get("segmentation") if isinstance(annotation, dict) else None
        try:
            if not segmentation:
                raise UserError("has no segmentation")
            counts = run_counts(segmentation, size)
        except ValueError as error:
            raise UserError(
                f"{path}: mask {number} {error}. Take the image and the json of the same size, "
                "and copy a damaged file again"
            ) from error
        if counts is not None:
            masks.append(counts)
    return masks
