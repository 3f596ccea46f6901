"""Predictions as ``supervision.Detections``, for its annotators, trackers, zones and metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UserError
from ..evaluation.semantic import class_numbers
from ..extras import needed


def detections(predictions: Any, names: Sequence[str] = ()) -> Any:
    """Converts a detector's or segmentor's predictions for one image to ``supervision.Detections``.

        predictor = Predictor(cfg, "output/detector/model_final.pth")
        found = rmae_d2.detections(predictor(image), names)

    Args:
        predictions: output of `Predictor`, or Detectron2's predictors, for one image: with
            ``instances``, or with ``sem_seg`` or ``sem_seg_labels``, of which each class present becomes one
            detection, without a confidence.
        names: class names for ``data["class_name"]``; omitted if empty.

    Returns:
        ``xyxy`` pixels, ``mask`` bool (N, H, W) or None, ``confidence``, ``class_id``.

    Raises:
        UserError: if supervision is not installed, or the predictions are of another type.
    """
    sv = needed("supervision", "supervision", "detections()")
    given = predictions if isinstance(predictions, Mapping) else {"instances": predictions}
    if hasattr(given.get("instances"), "pred_boxes"):
        found = sv.Detections.from_detectron2(given)
    elif "sem_seg" in given or "sem_seg_labels" in given:
        found = _classes(sv, given)
    else:
        raise UserError(
            f"predictions with {', '.join(map(str, given)) or 'nothing'}: detections takes instances, "
            "sem_seg or sem_seg_labels of one image"
        )
    if names:
        found.data["class_name"] = np.asarray([*names])[found.class_id]
    return found


def _classes(sv: Any, predictions: Mapping[str, Any]) -> Any:
    """Creates one detection per class present in the image."""
    value = predictions["sem_seg" if "sem_seg" in predictions else "sem_seg_labels"]
    labels_HW = class_numbers(value, value.shape[0] if value.dim() == 3 else int(value.max()) + 1)
    present = np.unique(labels_HW)
    masks = labels_HW == present[:, None, None]
    return sv.Detections(xyxy=sv.mask_to_xyxy(masks), mask=masks, class_id=present.astype(int))
