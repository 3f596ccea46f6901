"""LVIS's evaluation of boxes and masks."""

from collections.abc import Sequence
from typing import Any

from .average_precision import LVIS, Curves, lvis_curves
from .detection import DetectionEvaluator
from .ground_truth import load_ground_truth


class LVISEvaluator(DetectionEvaluator):
    """AP and AR by LVIS's rules, in percent. Used as Detectron2's class of the same name.

    The numbers are those of the package lvis; with faster-coco-eval, which computes the same (the tests
    say so), that package and the OpenCV that it imports are not needed. Written to output_dir:
    ``lvis_instances_results.json`` and, per task, ``lvis_TASK_per_class.csv``; AP per class is there and,
    in part, in the log, not among the results, for there are 1203 of them.

    Results: AP, AP50, AP75, APs, APm, APl, APr, APc, APf (rare, common and frequent categories), AR@300,
    ARs@300, ARm@300, ARl@300. See :class:`COCOEvaluator` for how it differs from Detectron2's.

    Args:
        dataset_name: a registered dataset with a ``json_file`` in LVIS's format.
        tasks: of "bbox", "segm" and "boundary". Default: bbox, and segm where the model predicts masks.
        distributed: gather the detections of all processes; else each evaluates its own.
        output_dir: where results are written; default nowhere.
        max_dets_per_image: detections per image that count, over all categories; default LVIS's 300.
        library: "auto" (faster-coco-eval where it works, else lvis), or one of these names.
        json: own data in LVIS's format, as `detection_dataset` takes them; the name is then of no meaning.

    Raises:
        UserError: the json is not there; the message says how to get it.
        AnnotationError: the json cannot be used.
        UserError: an unknown dataset, task or library.
    """

    kind = "lvis"
    reference = LVIS

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | str | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        library: str = "auto",
        json: str | None = None,
    ) -> None:
        truth = load_ground_truth(dataset_name, output_dir, json=json, lvis=True)
        limits = [300 if max_dets_per_image is None else max_dets_per_image]
        super().__init__(truth, tasks, distributed, output_dir, limits, library)

    def _curves(
        self,
        content: dict[str, Any],
        results: list[dict[str, Any]],
        task: str,
        image_ids: list[Any] | None,
    ) -> Curves:
        return lvis_curves(content, results, task, self._library, self._limits[0], image_ids)

    def _frequencies(self) -> list[str]:
        return self._truth.frequencies
