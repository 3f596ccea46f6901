"""What the evaluators of COCO and LVIS share: gathering, checking, the libraries, the tables."""

import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..errors import UserError
from .average_precision import (
    PYCOCOTOOLS,
    Curves,
    choose_library,
    library_label,
    metrics_of,
    nothing_found,
)
from .detection_report import (
    class_rows,
    class_table,
    frequency_table,
    size_table,
    write_class_csv,
)
from .detections import collect_results
from .ground_truth import GroundTruth

logger = logging.getLogger(__name__)

TASKS = ("bbox", "segm", "boundary")


class DetectionEvaluator(DatasetEvaluator):
    """AP and AR of boxes and masks against one json. See :class:`COCOEvaluator`, :class:`LVISEvaluator`."""

    kind = "coco"
    reference = PYCOCOTOOLS

    def __init__(
        self,
        truth: GroundTruth,
        tasks: Sequence[str] | str | None,
        distributed: bool,
        output_dir: str | None,
        limits: list[int],
        library: str,
    ) -> None:
        self._truth = truth
        self._tasks = None if tasks is None else _checked_tasks(tasks)
        self._distributed = distributed
        self._output_dir = output_dir
        if limits[-1] < 1:
            raise UserError(f"max_dets_per_image={limits[-1]} must be at least 1")
        self._limits = limits
        self._library = choose_library(
            library, self.reference, list(truth.image_sizes), self._tasks
        )
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._predictions: list[tuple[Any, list[dict[str, Any]]]] = []
        self._saw_masks = False

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes samples with ``image_id`` and a detector's outputs, ``{"instances": Instances}``."""
        for sample, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                raise UserError(
                    f"{type(self).__name__} needs the output 'instances', the model gives "
                    f"{', '.join(output) or 'nothing'}"
                )
            instances = output["instances"].to(torch.device("cpu"))
            self._saw_masks |= instances.has("pred_masks")
            detections = instances_to_coco_json(instances, sample["image_id"])
            self._predictions.append((sample["image_id"], detections))

    def evaluate(self, img_ids: Sequence[Any] | None = None) -> OrderedDict[str, dict[str, float]]:
        """Computes the metrics, on the main process; the others get an empty dict.

        Args:
            img_ids: to restrict the evaluation to; default all images of the json.

        Returns:
            task -> metric -> percent. nan: there is no such instance. A model that detects nothing has 0.
            Empty, with a warning, where no image was predicted or the json has no annotations.

        Raises:
            UserError: detections and ground truth do not belong together.
        """
        predictions, saw_masks = self._predictions, self._saw_masks
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather((predictions, saw_masks), dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            predictions = list(itertools.chain(*(members for members, _ in gathered)))
            saw_masks = any(saw for _, saw in gathered)
        if not predictions:
            logger.warning("NOTHING EVALUATED: no image was predicted")
            return OrderedDict()
        image_ids = None if img_ids is None else list(img_ids)
        results = collect_results(predictions, self._truth, image_ids)
        self._write_results(results)
        if not self._truth.annotations:
            logger.warning(
                "NOTHING EVALUATED: %s has no annotations. The detections are in COCO's results format, "
                "ready for an evaluation server",
                self._truth.path,
            )
            return OrderedDict()
        if not results:
            logger.warning(
                "%d images, and the model detects nothing in any of them: AP is 0", len(predictions)
            )
        tasks = self._tasks or (("bbox", "segm") if saw_masks else ("bbox",))
        metrics: OrderedDict[str, dict[str, float]] = OrderedDict()
        for task in tasks:
            if found := self._evaluate_task(task, results, image_ids):
                metrics[task] = found
        return metrics

    def _write_results(self, results: list[dict[str, Any]]) -> None:
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, f"{self.kind}_instances_results.json")
            with PathManager.open(path, "w") as file:
                json.dump(results, file)
            logger.info("%d detections written to %s", len(results), path)

    def _evaluate_task(
        self, task: str, results: list[dict[str, Any]], image_ids: list[Any] | None
    ) -> dict[str, float] | None:
        content = self._truth.for_task(task)
        if task != "bbox":
            if not content["annotations"]:
                self._report_no_masks(task)
                return None
            if any("segmentation" not in result for result in results):
                raise UserError(f"the task {task} needs masks, and the model predicts boxes only")
        counts_KA = self._truth.count(content, image_ids)
        logger.info(
            "%s with %s: %d images, %d instances, %d detections, at most %d per image",
            *(task, library_label(self._library), len(image_ids or content["images"])),
            *(counts_KA[:, 0].sum(), len(results), self._limits[-1]),
        )
        # Not both: the libraries would take the box's area for the mask's.
        other = "segmentation" if task == "bbox" else "bbox"
        results = [{k: v for k, v in result.items() if k != other} for result in results]
        if results:
            curves = self._curves(content, results, task, image_ids)
        else:
            curves = nothing_found(counts_KA, self._limits)
        frequencies = self._frequencies()
        metrics = metrics_of(curves, frequencies)
        truth = self._truth
        rows = class_rows(curves, counts_KA, truth.names, truth.category_ids, frequencies)
        tables = [size_table(metrics, counts_KA, self._limits[-1])]
        if frequencies is not None:
            tables.append(frequency_table(metrics, counts_KA, frequencies))
        if len(rows) > 1:
            tables.append(class_table(rows))
        if self._output_dir:
            path = os.path.join(self._output_dir, f"{self.kind}_{task}_per_class.csv")
            write_class_csv(rows, path)
            tables.append(f"all classes and metrics: {path}")
        logger.info("%s on %s:\n%s", task, truth.path, "\n\n".join(tables))
        return metrics | self._class_metrics(rows)

    def _report_no_masks(self, task: str) -> None:
        """The ground truth has no masks: an error where the task was asked for by name."""
        if self._tasks is not None:
            raise UserError(
                f"the task {task} needs masks, and {self._truth.path} has boxes only: evaluate with "
                "dataloader.evaluator.tasks=[bbox]"
            )
        logger.warning("%s has no masks: %s is not evaluated", self._truth.path, task)

    def _frequencies(self) -> list[str] | None:
        """LVIS: that of each category."""
        return None

    def _class_metrics(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """What of the classes is part of the results."""
        return {}

    def _curves(
        self,
        content: dict[str, Any],
        results: list[dict[str, Any]],
        task: str,
        image_ids: list[Any] | None,
    ) -> Curves:
        raise NotImplementedError


def _checked_tasks(tasks: Sequence[str] | str) -> tuple[str, ...]:
    named = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    unknown = [task for task in named if task not in TASKS]
    if unknown or not named:
        raise UserError(
            f"tasks={list(named)}: choose from {', '.join(TASKS)}. For keypoints and proposals use "
            "Detectron2's own evaluators"
        )
    return named
