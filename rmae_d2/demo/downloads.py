"""Files that users take with them: masks as PNG, and regions in COCO's format."""

import io
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray
from PIL import Image

from ..inference.region_prompt import RegionPrediction


def mask_png(prediction: RegionPrediction) -> bytes:
    """One region: 255 in the mask, 0 elsewhere, at the image's size."""
    return _png(prediction.masks[0].astype(np.uint8) * np.uint8(255))


def label_png(predictions: Iterable[RegionPrediction]) -> bytes:
    """All regions in one image: 1 for the first, 2 for the second ..., 0 for none.

    Where masks overlap, the region of the higher probability has the pixel.
    """
    labels: NDArray[np.uint8] | None = None
    highest = np.zeros(())
    for number, prediction in enumerate(predictions, 1):
        if labels is None:
            labels = np.zeros(prediction.masks.shape[1:], np.uint8)
            highest = np.zeros(labels.shape, np.float32)
        wins = prediction.masks[0] & (prediction.probabilities[0] > highest)
        labels[wins] = number
        highest[wins] = prediction.probabilities[0][wins]
    assert labels is not None
    return _png(labels)


def coco_json(
    predictions: Iterable[RegionPrediction],
    *,
    name: str,
    size: tuple[int, int],
    threshold: float,
) -> bytes:
    """Regions as a data set in COCO's format that ``pycocotools.coco.COCO`` opens.

    Segmentations are compressed run lengths. Beside COCO's own keys each annotation has its ``score``, see
    :class:`~rmae_d2.inference.region_prompt.RegionPrediction`.

    Args:
        predictions: one region each.
        name: the image's file.
        size: (H, W).
        threshold: of the masks, repeated in ``info``.
    """
    annotations = [
        {"id": number, **_annotation(prediction)}
        for number, prediction in enumerate(predictions, 1)
    ]
    content = {
        "info": {"description": "regions predicted by R-MAE (rmae_d2)", "threshold": threshold},
        "images": [{"id": 1, "file_name": name, "height": size[0], "width": size[1]}],
        "categories": [{"id": 1, "name": "region"}],
        "annotations": annotations,
    }
    return json.dumps(content, indent=1).encode()


def _annotation(prediction: RegionPrediction) -> dict[str, Any]:
    encoded = mask_util.encode(np.asfortranarray(prediction.masks[0].astype(np.uint8)))
    return {
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "area": int(mask_util.area(encoded)),
        "bbox": [float(x) for x in mask_util.toBbox(encoded)],
        "score": round(float(prediction.scores[0]), 4),
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
    }


def _png(values: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()
