"""AP and AR of boxes and masks, by COCO's and by LVIS's rules."""

import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..errors import UserError
from .average_precision import curves_of, metrics_of
from .detection_report import (
    class_rows,
    class_table,
    frequency_table,
    size_table,
    write_class_csv,
)
from .detections import collect_results
from .ground_truth import instance_counts, load_ground_truth

logger = logging.getLogger(__name__)

TASKS = ("bbox", "segm", "boundary")
#: Detections per image that count: COCO's for each category, LVIS's over all of them.
LIMITS = {"coco": [1, 10, 100], "lvis": [300]}


class DetectionEvaluator(DatasetEvaluator):
    """AP and AR in percent, in place of Detectron2's COCOEvaluator and LVISEvaluator.

    faster-coco-eval computes them: the numbers are those of pycocotools and of lvis, as the tests say.
    Written to output_dir: ``RULES_instances_results.json`` and, per task, ``RULES_TASK_per_class.csv``.

    Results of each task: AP, AP50, AP75, APs, APm, APl, AR@LIMIT, ARs@LIMIT, ARm@LIMIT, ARl@LIMIT. COCO's
    have AR@1, AR@10 and each class's AP too; LVIS's have APr, APc, APf (rare, common and frequent classes),
    while those of its 1203 classes are in the csv file only.

    It differs from Detectron2's in what it checks and says (see `GroundTruth` and `collect_results`), in
    that a model which detects nothing has AP 0 rather than nan, in AR among the results, and in that the
    class numbers of a json are known before its loader has run.

    Args:
        dataset_name: a registered dataset; one without ``json_file`` is converted to COCO's format.
        tasks: of "bbox", "segm" and "boundary" (Boundary AP, Cheng et al. 2021). Default: bbox, and segm
            where the model predicts masks.
        distributed: gather the detections of all processes; else each evaluates its own.
        output_dir: where results are written; default nowhere.
        rules: "coco" or "lvis", whose json says which categories are known to be absent from an image,
            and which are not annotated exhaustively.
        max_dets_per_image: detections per image that count, by COCO's rules for each category. Default:
            COCO's 100, LVIS's 300.
        allow_cached_coco: take the converted json of an earlier run. Off: the dataset may have changed.
        json: own data, as `detection_dataset` takes them; the name is then of no meaning.

    Raises:
        UserError: the json is not there; the message says how to get it.
        AnnotationError: the json cannot be used.
        UserError: an unknown dataset or task, unknown rules, or a limit below 1.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | str | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        rules: str = "coco",
        max_dets_per_image: int | None = None,
        allow_cached_coco: bool = False,
        json: str | None = None,
    ) -> None:
        if rules not in LIMITS:
            raise UserError(f"rules={rules!r}: choose from {', '.join(LIMITS)}")
        self.rules = rules
        named = [tasks] if isinstance(tasks, str) else tasks
        self._tasks = None if named is None else list(named)
        if self._tasks is not None and (not self._tasks or set(self._tasks) - set(TASKS)):
            raise UserError(
                f"tasks={self._tasks}: choose from {', '.join(TASKS)}. For keypoints and proposals use "
                "Detectron2's own evaluators"
            )
        self._distributed = distributed
        self._output_dir = output_dir
        *lower, usual = LIMITS[rules]
        most = usual if max_dets_per_image is None else max_dets_per_image
        if most < 1:
            raise UserError(f"max_dets_per_image={most} must be at least 1")
        self._limits = [limit for limit in lower if limit < most] + [most]
        self._truth = load_ground_truth(
            dataset_name,
            output_dir,
            json=json,
            lvis=rules == "lvis",
            allow_cached=allow_cached_coco,
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
        tasks = self._tasks or (["bbox", "segm"] if saw_masks else ["bbox"])
        metrics: OrderedDict[str, dict[str, float]] = OrderedDict()
        for task in tasks:
            if found := self._evaluate_task(task, results, image_ids):
                metrics[task] = found
        return metrics

    def _write_results(self, results: list[dict[str, Any]]) -> None:
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, f"{self.rules}_instances_results.json")
            with PathManager.open(path, "w") as file:
                json.dump(results, file)
            logger.info("%d detections written to %s", len(results), path)

    def _evaluate_task(
        self, task: str, results: list[dict[str, Any]], image_ids: list[Any] | None
    ) -> dict[str, float] | None:
        truth = self._truth
        content = truth.for_task(task, image_ids)
        if task != "bbox":
            if not content["annotations"]:
                if self._tasks is not None:
                    raise UserError(
                        f"the task {task} needs masks, and {truth.path} has boxes only: evaluate with "
                        "dataloader.evaluator.tasks=[bbox]"
                    )
                logger.warning("%s has no masks: %s is not evaluated", truth.path, task)
                return None
            if any("segmentation" not in result for result in results):
                raise UserError(f"the task {task} needs masks, and the model predicts boxes only")
        counts_KA = instance_counts(content)
        logger.info(
            "%s by the rules of %s with faster-coco-eval %s: %d images, %d instances, %d detections, at "
            "most %d per image",
            *(task, self.rules.upper(), version("faster-coco-eval"), len(content["images"])),
            *(counts_KA[:, 0].sum(), len(results), self._limits[-1]),
        )
        curves = curves_of(content, results, task, self._limits, self.rules)
        frequencies = truth.frequencies if self.rules == "lvis" else None
        metrics = metrics_of(curves, frequencies)
        rows = class_rows(curves, counts_KA, truth.names, truth.category_ids, frequencies)
        tables = [size_table(metrics, counts_KA, self._limits[-1])]
        if frequencies is not None:
            tables.append(frequency_table(metrics, counts_KA, frequencies))
        if len(rows) > 1:
            tables.append(class_table(rows))
            if self.rules == "coco":
                metrics |= {f"AP-{row['category']}": row["AP"] for row in rows}
        if self._output_dir:
            path = os.path.join(self._output_dir, f"{self.rules}_{task}_per_class.csv")
            write_class_csv(rows, path)
            tables.append(f"all classes and metrics: {path}")
        logger.info("%s on %s:\n%s", task, truth.path, "\n\n".join(tables))
        return metrics


class LVISEvaluator(DetectionEvaluator):
    """The name that the config.yaml files of 0.1 have for ``DetectionEvaluator(rules="lvis")``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, rules="lvis", **kwargs)
