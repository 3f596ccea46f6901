"""COCO's evaluation of boxes and masks."""

from collections.abc import Sequence
from typing import Any

from .average_precision import PYCOCOTOOLS, Curves, coco_curves
from .detection import DetectionEvaluator
from .ground_truth import load_ground_truth


class COCOEvaluator(DetectionEvaluator):
    """AP and AR by COCO's rules, in percent. Used as Detectron2's class of the same name.

    The numbers are pycocotools'; faster-coco-eval computes the same (the tests say so) in less time, and
    no compiled operator of Detectron2 is needed. Written to output_dir: ``coco_instances_results.json``
    and, per task, ``coco_TASK_per_class.csv``.

    It differs from Detectron2's in what it checks and says (see `GroundTruth` and `collect_results`), in
    that a model which detects nothing has AP 0 rather than nan, in AR among the results, and in that the
    class numbers of a json are known before its loader has run.

    Args:
        dataset_name: a registered dataset; one without ``json_file`` is converted to COCO's format.
        tasks: of "bbox", "segm" and "boundary" (Boundary AP, Cheng et al. 2021; faster-coco-eval only).
            Default: bbox, and segm where the model predicts masks.
        distributed: gather the detections of all processes; else each evaluates its own.
        output_dir: where results are written; default nowhere.
        max_dets_per_image: detections per image and category that count; default 100.
        library: "auto" (faster-coco-eval where it works, else pycocotools), or one of these names.
        allow_cached_coco: take the converted json of an earlier run. Off: the dataset may have changed.
        json: own data, as `detection_dataset` takes them; the name is then of no meaning.

    Raises:
        UserError: the json is not there; the message says how to get it.
        AnnotationError: the json cannot be used.
        UserError: an unknown dataset, task or library.
    """

    kind = "coco"
    reference = PYCOCOTOOLS

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | str | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        library: str = "auto",
        allow_cached_coco: bool = False,
        json: str | None = None,
    ) -> None:
        truth = load_ground_truth(
            dataset_name, output_dir, json=json, allow_cached=allow_cached_coco
        )
        most = 100 if max_dets_per_image is None else max_dets_per_image
        limits = [limit for limit in (1, 10) if limit < most] + [most]
        super().__init__(truth, tasks, distributed, output_dir, limits, library)

    def _curves(
        self,
        content: dict[str, Any],
        results: list[dict[str, Any]],
        task: str,
        image_ids: list[Any] | None,
    ) -> Curves:
        return coco_curves(content, results, task, self._library, self._limits, image_ids)

    def _class_metrics(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        if len(rows) < 2:
            return {}
        return {f"AP-{row['category']}": row["AP"] for row in rows}
