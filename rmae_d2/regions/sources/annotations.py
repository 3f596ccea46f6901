"""Ground truth as regions: instance masks of COCO and LVIS, segments of COCO panoptic.

Both are read during training; a store is possible but saves little.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...annotations.coco import Annotations, check_instances, read_annotations
from ...annotations.entries import Instance
from ...annotations.segmentation import run_counts
from ...errors import UserError
from ...files import check_file
from ..record.codec import Labels
from ..record.record import RegionRecord, narrow_labels, record_of_counts
from .companions import check_folder, check_size, find_companion

logger = logging.getLogger(__name__)

_TURNED = (
    "Annotations must be of this very image, and of its upright pixels where EXIF turns it: give "
    "the image in its original size, or the json made for it."
)

_PANOPTIC_REMEDY = "Give the folder of panoptic PNGs of this data set."


class InstanceSource:
    """Region source for instance masks, one overlapping mask per object, from COCO or LVIS.

    An image without annotations has a record with 0 masks. Annotations without a mask and masks without a
    pixel give no region; by default, neither do crowds, which are rough outlines of many objects.

    Attributes:
        params: what the regions depend on, including the digest of the json.
    """

    blind = True  # to pixels, see blind.py

    def __init__(
        self, json_file: str | os.PathLike[str] | None = None, include_crowd: bool = False
    ) -> None:
        """Read and check the json; processes forked later share its contents.

        Args:
            json_file: COCO or LVIS instance json, local or anything that Detectron2's PathManager can open.
                None uses `annotations` in the dataset dicts, as in Detectron2's datasets.
            include_crowd: also make regions of annotations with `iscrowd`.

        Raises:
            UserError: the file does not exist, or none of its annotations has a mask.
            AnnotationError: it cannot be used, see `read_annotations`.
        """
        self.include_crowd = bool(include_crowd)
        self.json = None if json_file is None else read_annotations(os.fspath(json_file))
        if self.json is not None:
            _check_masks(self.json, self.include_crowd)
        self.params: dict[str, Any] = {
            "source": "instances",
            "annotations": self.json.digest if self.json else "of the data set",
            "include_crowd": self.include_crowd,
        }
        self._empty_reported = False

    def __repr__(self) -> str:
        place = self.json.path if self.json else "the data set"
        return f"instance masks of {place}, {'with' if self.include_crowd else 'without'} crowds"

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord:
        """Make the record of an image's masks; the image is uint8 (H, W, C).

        Raises:
            UserError: the image is not in the json or has another size there.
        """
        size = (image_HWC.shape[0], image_HWC.shape[1])
        name = dataset_dict.get("file_name")
        if self.json is None:
            found = _of_data_set(dataset_dict, size)
        else:
            entry = self.json.find(dataset_dict)
            if entry is None:
                raise UserError(
                    f"{self.json.path} has no image {name} (image id {dataset_dict.get('image_id')!r}): "
                    "give the json of this data set, or leave the image out"
                )
            image, found = entry
            label = f"the entry of {name} in {self.json.path}"
            check_size(label, (image.height, image.width), size, _TURNED)
        masks = [i.mask for i in found if self.include_crowd or not i.iscrowd]
        counts = [run_counts(mask, size) for mask in masks if mask is not None]
        if any(c is None for c in counts) and not self._empty_reported:
            self._empty_reported = True
            logger.warning(
                "%s: masks without a pixel give no region, such as one of image %s. Further ones are not "
                "reported",
                *(self.json.path if self.json else "the data set", name),
            )
        return record_of_counts([c for c in counts if c is not None], size, self.params)


def _of_data_set(dataset_dict: Mapping[str, Any], size: tuple[int, int]) -> list[Instance]:
    """The validated annotations of a dataset dict, for an image of (H, W) pixels."""
    name = dataset_dict.get("file_name")
    if (entries := dataset_dict.get("annotations")) is None:
        raise UserError(
            f"the data set has no `annotations` for {name}: give InstanceSource a json_file, "
            "or take a data set that is registered with instances"
        )
    if "height" in dataset_dict and "width" in dataset_dict:
        said = (dataset_dict["height"], dataset_dict["width"])
        check_size(f"the data set's entry of {name}", said, size, _TURNED)
    found = check_instances(entries, size, f"the data set's annotations of {name}")
    return [instance for instance in found if instance is not None]


def _check_masks(annotations: Annotations, include_crowd: bool) -> None:
    """Log how many masks there are; UserError if there are none."""
    masks = bare = crowds = images = 0
    for _, instances in annotations:
        of_image = [i.iscrowd for i in instances if i.mask is not None]
        images += bool(of_image)
        crowds += sum(of_image)
        masks += len(of_image)
        bare += len(instances) - len(of_image)
    left_out = 0 if include_crowd else crowds
    if masks == left_out:
        raise UserError(
            f"{annotations.path}: none of its annotations has a mask{' but crowds' * bool(left_out)}, and "
            "boxes alone give no regions"
        )
    logger.info(
        "%s: %d masks of %d images, %d of which have none and give no regions; left out: %d crowd "
        "annotations, %d without segmentation",
        *(annotations.path, masks - left_out, len(annotations), len(annotations) - images),
        *(left_out, bare),
    )


class PanopticSource:
    """Region source for COCO's panoptic segments: one label plane, with a label per thing or stuff segment.

    Labels count from 1 in the order in which segments appear in raster order; void is 0, the
    record's `ignore_label`. Crowd segments are kept, like stuff segments.

    Attributes:
        params: what the regions depend on besides the image and its panoptic file.
    """

    blind = True  # to pixels, see blind.py

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Sets the folder of segments.

        Args:
            folder: panoptic PNGs named like the images (`000000000009.png`), local or anything that
                iopath's `g_pathmgr` can open. None uses `pan_seg_file_name` in the dataset dicts.

        Raises:
            UserError: a local folder does not exist.
        """
        self.folder = None if folder is None else check_folder(folder, _PANOPTIC_REMEDY)
        self.params: dict[str, Any] = {"source": "panoptic"}

    def __repr__(self) -> str:
        return f"panoptic segments of {self.folder or 'the data set'}"

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord:
        """Make the record of an image's segments; the image is uint8 (H, W, C).

        Raises:
            FileNotFoundError: there is no file for the image.
            UserError: the file is damaged or of another kind, or has another size.
        """
        path = self._path(dataset_dict)
        ids = _read_segment_ids(path)
        check_size(path, ids.shape, image_HWC.shape, _TURNED)
        return RegionRecord.from_labels(_canonical_labels(ids), ignore_label=0, params=self.params)

    def _path(self, dataset_dict: Mapping[str, Any]) -> str:
        if self.folder is not None:
            return find_companion(self.folder, dataset_dict, ".png", _PANOPTIC_REMEDY)
        if "pan_seg_file_name" not in dataset_dict:
            raise UserError(
                f"the data set has no `pan_seg_file_name` for {dataset_dict.get('file_name')}: give "
                "PanopticSource a folder, or take a data set that is registered with panoptic labels"
            )
        return str(dataset_dict["pan_seg_file_name"])


def _read_segment_ids(path: str) -> NDArray[np.int32]:
    """Ids, int32 (H, W), in COCO's panoptic PNG: R + 256 G + 65536 B; 0 is void."""
    from iopath.common.file_io import g_pathmgr
    from PIL import Image

    try:
        check_file(path)
        with g_pathmgr.open(path, "rb") as file, Image.open(file) as image:
            mode, pixels = image.mode, np.asarray(image)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's errors for damaged PNGs
        raise UserError(
            f"{path} is not a complete PNG ({error}): copy or unpack it again"
        ) from error
    if mode != "RGB":
        raise UserError(
            f"{path} has mode {mode}, COCO's panoptic PNGs are RGB with the segment id as colour: "
            "give the folder panoptic_*, not that of semantic labels or converted files"
        )
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    ids: NDArray[np.int32] = red + 256 * green + 65536 * blue
    return ids


def _canonical_labels(ids_HW: NDArray[np.int32]) -> Labels:
    """Labels 1.. in the order in which ids appear in raster order, and 0 for id 0."""
    flat = ids_HW.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    # There are a hundred times fewer runs than pixels, so sorting their ids is fast.
    ids, first, run_of = np.unique(flat[starts], return_index=True, return_inverse=True)
    order = np.argsort(first[ids > 0])
    labels = np.zeros(len(ids), np.int64)
    labels[np.flatnonzero(ids > 0)[order]] = np.arange(1, len(order) + 1)
    lengths = np.diff(starts, append=flat.size)
    return np.repeat(narrow_labels(labels)[run_of], lengths).reshape(ids_HW.shape)
