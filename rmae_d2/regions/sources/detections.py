"""A detector's output as regions: COCO's results json, from any project that writes one."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...annotations.detections import Detection, read_detections
from ...annotations.segmentation import run_counts
from ...errors import UserError
from ..record.masks import Ints
from ..record.record import RegionRecord, record_of_counts
from .companions import check_size
from .sam_json import check_max_masks

logger = logging.getLogger(__name__)

_SIZE = "Give what was detected in these very images, in their upright pixels where EXIF turns one."


class DetectionSource:
    """Region source for a detector's masks: overlapping, the most confident first.

    Detections without a segmentation become filled boxes. An image in which nothing reaches the score has a
    record with 0 masks.

    Attributes:
        params: what the regions depend on, including a digest of the json.
    """

    blind = True  # to pixels, see blind.py

    def __init__(
        self,
        json_file: str | os.PathLike[str],
        images_json: str | os.PathLike[str] | None = None,
        min_score: float = 0.5,
        max_masks: int | None = 100,
    ) -> None:
        """Read the json; processes forked later share its contents.

        Args:
            json_file: a list of `{"image_id", "score", "segmentation" or "bbox"}`, as accepted by
                pycocotools' `loadRes` and written by Detectron2, MMDetection and others; local or remote.
            images_json: a json in COCO's format with the images' ids and file names, such as the annotations
                that the detector was tested on. None if the ids are those of the data set, paths below its
                folder (`clip1/0001.png` or `clip1/0001`), or numbers that are the files' names.
            min_score: detections below it are left out.
            max_masks: largest number of masks per image, the most confident ones; None for all.

        Raises:
            UserError: the file does not exist, or nothing in it reaches the score.
            AnnotationError: it cannot be used, see `read_detections`.
        """
        self.min_score = float(min_score)
        self.max_masks = check_max_masks(max_masks)
        listed = None if images_json is None else os.fspath(images_json)
        self.detections = read_detections(os.fspath(json_file), listed, self.min_score)
        self.params: dict[str, Any] = {
            "source": "detections",
            "detections": self.detections.digest,
            "min_score": self.min_score,
            "max_masks": max_masks,
        }
        logger.info(
            "%s: %d detections with a score of %g or more, %d of them boxes without a mask, in %d images",
            *(self.detections.path, self.detections.count, self.min_score),
            *(self.detections.count - self.detections.masked, len(self.detections)),
        )

    def __repr__(self) -> str:
        return (
            f"detections of {self.detections.path} with a score of {self.min_score:g} or more, at most "
            f"{self.max_masks} an image"
        )

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord:
        """Make the record of an image's masks; the image is uint8 (H, W, C).

        Raises:
            UserError: the image is not in the json or has another size there, or a detection is unreadable.
        """
        size = (image_HWC.shape[0], image_HWC.shape[1])
        path, name = self.detections.path, dataset_dict.get("file_name")
        found = self.detections.find(dataset_dict)
        if found is None:
            listed = self.detections.images_json
            remedy = (
                "give the json of this data set"
                if listed
                else "images_json= takes a json that lists it"
            )
            raise UserError(
                f"{listed or path} has no image {name} (image id {dataset_dict.get('image_id')!r}): "
                f"{remedy}, or leave the image out"
            )
        image, detections = found
        if image.height:
            label = f"the entry of {name} in {self.detections.images_json}"
            check_size(label, (image.height, image.width), size, _SIZE)
        counts = []
        for detection in detections[: self.max_masks]:
            try:
                mask = self._mask(detection, size)
            except UserError as error:
                raise UserError(
                    f"{path}: the detection in {name} with score {detection.score:g}: {error}. {_SIZE}"
                ) from error
            if mask is not None:
                counts.append(mask)
        return record_of_counts(counts, size, self.params)

    def _mask(self, detection: Detection, size: tuple[int, int]) -> Ints | None:
        """Run counts of a detection's mask, or else its box; None if it has no pixel."""
        instance = self.detections.read(detection, size)
        if detection.segmentation:
            return None if instance.mask is None else run_counts(instance.mask, size)
        x, y, width, height = instance.box
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        return run_counts([corners], size)
