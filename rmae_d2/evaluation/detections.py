"""What a model detected, checked against the ground truth and turned into COCO's results format."""

import logging
import math
from collections import Counter
from typing import Any

from ..annotations.coco_json import examples
from ..errors import UserError
from .ground_truth import GroundTruth

logger = logging.getLogger(__name__)


def collect_results(
    predictions: list[tuple[Any, list[dict[str, Any]]]],
    truth: GroundTruth,
    image_ids: list[Any] | None = None,
) -> list[dict[str, Any]]:
    """All detections, with the json's category ids.

    An image that was seen twice (a sampler that pads does that) counts once, with the detections that came
    first; an image that was not seen counts with none. Both are said loudly.

    Args:
        predictions: (image id, its detections with the model's class numbers).
        truth: the ground truth.
        image_ids: those to evaluate; default all.

    Raises:
        UserError: images or classes that the json does not have, scores or boxes that are not finite,
            masks of another size than their image.
    """
    unique: dict[Any, list[dict[str, Any]]] = {}
    for image_id, detections in predictions:
        unique.setdefault(image_id, detections)
    times = Counter(image_id for image_id, _ in predictions)
    double = [image_id for image_id in unique if times[image_id] > 1]
    sizes = truth.image_sizes
    strangers = [image_id for image_id in unique if image_id not in sizes]
    if strangers:
        raise UserError(
            f"{len(strangers)} of {len(unique)} predicted images are not in {truth.path}, such as the ids "
            f"{examples(strangers)}: do dataloader.test and dataloader.evaluator name the same dataset?"
        )
    if double:
        logger.warning(
            "%d images were predicted more than once, such as %s: the first predictions count",
            *(len(double), examples(double)),
        )
    wanted = list(sizes if image_ids is None else image_ids)
    unseen = [image_id for image_id in wanted if image_id not in unique]
    if unseen:
        logger.warning(
            "PARTIAL EVALUATION: %d of %d images of %s were not predicted, such as %s; all objects in "
            "them count as missed",
            *(len(unseen), len(wanted), truth.path, examples(unseen)),
        )
    return [
        _checked(detection, truth, sizes[image_id])
        for image_id, detections in unique.items()
        for detection in detections
    ]


def _checked(
    detection: dict[str, Any], truth: GroundTruth, size: tuple[int, int]
) -> dict[str, Any]:
    number, image_id = detection["category_id"], detection["image_id"]
    if number not in truth.classes:
        raise UserError(
            f"image {image_id}: the model predicts class {number}, {truth.path} has {len(truth.classes)} "
            f"({min(truth.classes)} to {max(truth.classes)}): is model.roi_heads.num_classes right?"
        )
    if not all(math.isfinite(x) for x in (detection["score"], *detection["bbox"])):
        raise UserError(
            f"image {image_id}: score {detection['score']}, box {detection['bbox']} are not finite: has the "
            "training diverged?"
        )
    mask = detection.get("segmentation")
    if mask is not None and tuple(mask["size"]) != tuple(size):
        raise UserError(
            f"image {image_id}: the predicted mask is {tuple(mask['size'])} (height, width), {truth.path} "
            f"says {tuple(size)}: is it the same image file, and not turned?"
        )
    return {**detection, "category_id": truth.classes[number]}
