"""Precision and recall of detections, as computed by faster-coco-eval, and the usual means.

Letters: T IoU thresholds (0.5 to 0.95), R recall points (0 to 1 by 0.01), K categories in order of
their ids, A sizes (all, small, medium, large), M limits of detections per image.
"""

import heapq
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ground_truth import AREAS, FREQUENCIES

_T75 = 5  # index of IoU 0.75


@dataclass(frozen=True)
class Curves:
    """Precision and recall; -1 for a category without instances (of that size).

    Attributes:
        precision: (T, R, K, A) at the highest limit of detections, in [0, 1].
        recall: (T, K, A, M) in [0, 1].
        limits: detections per image, the M values, ascending.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    limits: list[int]

    def of_category(self, k: int) -> "Curves":
        """Returns the curves of one category, by index."""
        return Curves(self.precision[:, :, k : k + 1], self.recall[:, k : k + 1], self.limits)


def curves_of(
    content: dict[str, Any],
    results: list[dict[str, Any]],
    task: str,
    limits: list[int],
    rules: str = "coco",
) -> Curves:
    """Matches detections with the ground truth.

    By LVIS's rules, an image's detections of a category count only if the image is known to have it or
    not to have it, and none counts as wrong if the category is not annotated exhaustively.

    Args:
        content: ``images``, ``categories``, and ``annotations`` with ``area`` and ``iscrowd``.
        results: detections in COCO's results format; those for other images are ignored.
        task: "bbox", "segm" or "boundary".
        limits: detections per image and category, ascending; by LVIS's rules one limit, over all categories.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # also imports OpenCV if installed

    # The library requires integer image ids, and treats an annotation id of 0 as "no match".
    known = sorted((i["id"] for i in content["images"]), key=lambda i: (isinstance(i, str), i))
    numbers = {identifier: n for n, identifier in enumerate(known, 1)}
    truth = {
        "images": [{**image, "id": numbers[image["id"]]} for image in content["images"]],
        "categories": content["categories"],
        "annotations": [
            {**annotation, "id": n, "image_id": numbers[annotation["image_id"]]}
            for n, annotation in enumerate(content["annotations"], 1)
        ],
    }
    # Never box and mask together: the box's area would determine the mask's size class.
    other = "segmentation" if task == "bbox" else "bbox"
    found = [
        {k: v for k, v in result.items() if k != other} | {"image_id": numbers[result["image_id"]]}
        for result in results
        if result["image_id"] in numbers
    ]
    if rules == "lvis":
        found = best_of_each_image(found, limits[-1])
    coco = COCO(truth)
    evaluation = COCOeval_faster(coco, coco.loadRes(found), task, lvis_style=rules == "lvis")
    evaluation.params.maxDets = limits
    evaluation.evaluate()
    evaluation.accumulate()
    T, R = len(evaluation.params.iouThrs), len(evaluation.params.recThrs)
    shape = (len(content["categories"]), len(AREAS), len(limits))
    precision = np.asarray(evaluation.eval["precision"]).reshape(T, R, *shape)
    recall = np.asarray(evaluation.eval["recall"]).reshape(T, *shape)
    return Curves(precision[..., -1], recall, limits)


def best_of_each_image(results: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Keeps at most ``limit`` highest-scoring detections per image; among equal scores the first."""
    by_image = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    return [
        result
        for members in by_image.values()
        for result in heapq.nlargest(limit, members, key=lambda r: r["score"])
    ]


def _percent(values: NDArray[np.float64]) -> float:
    """Mean of the defined values, in percent; NaN if there are none."""
    defined = values[values > -1]
    return float(defined.mean() * 100) if defined.size else float("nan")


def metrics_of(curves: Curves, frequencies: list[str] | None = None) -> dict[str, float]:
    """Computes the usual means, in percent, under Detectron2's names.

    Args:
        frequencies: LVIS: each category's frequency class, for APr, APc and APf.

    Returns:
        AP, AP50, AP75, APs, APm, APl (APr, APc, APf), AR@M for each limit, ARs, ARm and ARl at the highest.
    """
    precision, recall, limits = curves.precision, curves.recall, curves.limits
    metrics = {
        "AP": _percent(precision[..., 0]),
        "AP50": _percent(precision[0, ..., 0]),
        "AP75": _percent(precision[_T75, ..., 0]),
    }
    sizes = [name[0] for name in AREAS if name != "all"]
    metrics |= {f"AP{s}": _percent(precision[..., a]) for a, s in enumerate(sizes, 1)}
    if frequencies is not None:
        for letter in FREQUENCIES:
            chosen = np.array([f == letter for f in frequencies], bool)
            metrics[f"AP{letter}"] = _percent(precision[:, :, chosen, 0])
    metrics |= {f"AR@{m}": _percent(recall[..., 0, i]) for i, m in enumerate(limits)}
    metrics |= {f"AR{s}@{limits[-1]}": _percent(recall[..., a, -1]) for a, s in enumerate(sizes, 1)}
    return metrics
