"""Precision and recall of detections: the three libraries that compute them, and the usual means.

Letters: T thresholds of IoU (0.5 to 0.95), R points of recall (0 to 1 by 0.01), K categories, A sizes
(all, small, medium, large), M limits of detections per image.
"""

import contextlib
import io
import logging
from collections import defaultdict
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import compat
from ..errors import UserError
from .ground_truth import AREAS, FREQUENCIES

FASTER = "faster-coco-eval"
PYCOCOTOOLS = "pycocotools"
LVIS = "lvis"

_T, _R = 10, 101
_T75 = 5  # position of IoU 0.75


@dataclass(frozen=True)
class Curves:
    """What the libraries compute. -1 where a category has no instance (of that size).

    Attributes:
        precision: (T, R, K, A) at the highest limit of detections, in [0, 1].
        recall: (T, K, A, M) in [0, 1].
        limits: detections per image, the M values.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    limits: list[int]


def choose_library(wanted: str, reference: str, image_ids: list[Any], tasks: Any) -> str:
    """The library that will be used.

    Args:
        wanted: "auto" (faster-coco-eval, else the reference) or a library's name.
        reference: pycocotools or lvis.
        image_ids: of the ground truth. faster-coco-eval takes integers only.
        tasks: names of tasks, or None.

    Raises:
        UserError: an unknown name, or a task that the library does not know.
        ImportError: the library that was asked for does not work here.
    """
    if wanted not in ("auto", FASTER, reference):
        raise UserError(f"library={wanted!r}: choose auto, {FASTER} or {reference}")
    integers = all(isinstance(identifier, int) for identifier in image_ids)
    chosen = wanted
    if wanted == "auto":
        chosen = FASTER if integers and _works() else reference
    elif wanted == FASTER:
        if not _works():
            raise ImportError(f"library={FASTER} does not import: pip install {FASTER}")
        if not integers:
            raise UserError(f"{FASTER} takes integer image ids only: choose library={reference}")
    if "boundary" in (tasks or ()) and chosen != FASTER:
        raise UserError(
            f"boundary AP needs {FASTER} (pip install {FASTER}) and integer image ids; {chosen} has none"
        )
    return chosen


def _works() -> bool:
    try:
        import_module("faster_coco_eval")
    except ImportError:  # absent, or its binary does not fit
        return False
    return True


def library_label(library: str) -> str:
    """Name and version, for the log."""
    return f"{library} {version(library)}"


def coco_curves(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    task: str,
    library: str,
    limits: list[int],
    image_ids: list[Any] | None = None,
) -> Curves:
    """Curves by COCO's rules.

    Args:
        truth: content of a json, written into.
        results: detections in COCO's results format, at least one, written into; with "bbox" or
            "segmentation", not both, whose area is the one that decides on the size.
        task: "bbox", "segm" or, with faster-coco-eval, "boundary".
        library: "faster-coco-eval" or "pycocotools".
        limits: detections per image and category, rising.
        image_ids: to evaluate; default all.
    """
    if library == FASTER:
        return _faster(truth, results, task, limits, image_ids, lvis=False)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), task)
        evaluation.params.maxDets = limits
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves(evaluation.eval["precision"][..., -1], evaluation.eval["recall"], limits)


def lvis_curves(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    task: str,
    library: str,
    limit: int,
    image_ids: list[Any] | None = None,
) -> Curves:
    """Curves by LVIS's rules.

    An image's detections of a category count only where the image is known to have it or not to have it,
    and none counts as wrong where the category is not annotated exhaustively.

    Args:
        truth: content of a json in LVIS's format, written into.
        results: see :func:`coco_curves`.
        task: see :func:`coco_curves`.
        library: "faster-coco-eval" or "lvis".
        limit: detections per image, over all categories: those of the highest scores.
        image_ids: to evaluate; default all.
    """
    results = limit_detections(results, limit)
    if library == FASTER:
        return _faster(truth, results, task, [limit], image_ids, lvis=True)
    compat.fix_lvis()
    import lvis

    ground_truth = lvis.LVIS.__new__(lvis.LVIS)  # its __init__ reads a file
    ground_truth.logger = logging.getLogger("lvis.lvis")
    ground_truth.dataset = truth
    ground_truth._create_index()
    detections = lvis.LVISResults(ground_truth, results, max_dets=-1)
    evaluation = lvis.LVISEval(ground_truth, detections, task)
    if image_ids is not None:
        evaluation.params.img_ids = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    return Curves(evaluation.eval["precision"], evaluation.eval["recall"][..., None], [limit])


def limit_detections(results: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The detections of highest score of each image, at most ``limit``; of equal ones the first."""
    by_image = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    return [
        result
        for members in by_image.values()
        for result in (
            sorted(members, key=lambda r: r["score"], reverse=True)[:limit]
            if len(members) > limit
            else members
        )
    ]


def _faster(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    task: str,
    limits: list[int],
    image_ids: list[Any] | None,
    lvis: bool,
) -> Curves:
    from faster_coco_eval import COCO, COCOeval_faster

    coco = COCO(truth)
    evaluation = COCOeval_faster(coco, coco.loadRes(results), task, lvis_style=lvis)
    evaluation.params.maxDets = limits
    if image_ids is not None:
        evaluation.params.imgIds = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])
    recall = np.asarray(evaluation.eval["recall"])
    shape = (_T, _R, len(truth["categories"]), len(AREAS), len(limits))
    return Curves(precision.reshape(shape)[..., -1], recall.reshape(shape[:1] + shape[2:]), limits)


def nothing_found(counts_KA: NDArray[np.int64], limits: list[int]) -> Curves:
    """The curves without a single detection, which the libraries do not take: 0 where there are instances."""
    zeros_KA = np.where(counts_KA > 0, 0.0, -1.0)
    return Curves(
        np.tile(zeros_KA, (_T, _R, 1, 1)),
        np.tile(zeros_KA[None, ..., None], (_T, 1, 1, len(limits))),
        limits,
    )


def _percent(values: NDArray[np.float64]) -> float:
    """Mean of what is defined, in percent; nan where nothing is."""
    defined = values[values > -1]
    return float(defined.mean() * 100) if defined.size else float("nan")


def metrics_of(curves: Curves, frequencies: list[str] | None = None) -> dict[str, float]:
    """The usual means, in percent, under Detectron2's names.

    Args:
        curves: of one task.
        frequencies: LVIS: each category's, for APr, APc and APf.

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


def category_metrics(curves: Curves, k: int) -> dict[str, float]:
    """The same for one category, by its position."""
    return metrics_of(
        Curves(curves.precision[:, :, k : k + 1], curves.recall[:, k : k + 1], curves.limits)
    )
