"""AP and AR of boxes and masks, by COCO's and by LVIS's rules."""

import csv
import itertools
import json
import logging
import math
import os
from collections import Counter, OrderedDict
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray

from ..errors import UserError, examples
from ..tables import table
from .average_precision import Curves, curves_of, metrics_of
from .ground_truth import AREAS, FREQUENCIES, GroundTruth, instance_counts, load_ground_truth

logger = logging.getLogger(__name__)

TASKS = ("bbox", "segm", "boundary")
#: Maximum number of detections per image: COCO's for each category, LVIS's over all of them.
LIMITS = {"coco": [1, 10, 100], "lvis": [300]}


class DetectionEvaluator(DatasetEvaluator):
    """AP and AR in percent, replacing Detectron2's COCOEvaluator and LVISEvaluator.

    Computed by faster-coco-eval; tests check that the numbers equal those of pycocotools and lvis.
    Writes ``RULES_instances_results.json`` and, per task, ``RULES_TASK_per_class.csv`` to output_dir.

    Results of each task: AP, AP50, AP75, APs, APm, APl, AR@LIMIT, ARs@LIMIT, ARm@LIMIT, ARl@LIMIT. COCO's
    also have AR@1, AR@10 and each class's AP; LVIS's have APr, APc, APf (rare, common and frequent classes),
    while those of its 1203 classes are only in the csv file.

    Unlike with Detectron2's, a model that detects nothing has AP 0 rather than NaN, AR is among the results,
    and the class indices of a json are known before its loader has run.

    Args:
        dataset_name: a registered dataset; one without ``json_file`` is converted to COCO format.
        tasks: from "bbox", "segm" and "boundary" (Boundary AP, Cheng et al. 2021). Default: bbox, and segm
            if the model predicts masks.
        distributed: gather the detections of all processes; else each evaluates its own.
        output_dir: where results are written; by default nowhere.
        rules: "coco" or "lvis"; LVIS's json states which categories are known to be absent from an image,
            and which are not annotated exhaustively.
        max_dets_per_image: maximum number of detections per image, by COCO's rules for each category.
            Default: COCO's 100, LVIS's 300.
        json: custom data, as accepted by `detection_dataset`; the name is then ignored.

    Raises:
        UserError: for an unknown dataset or task, unknown rules, a limit below 1, or no json; the message
            says how to get it.
        AnnotationError: if the json cannot be used.
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
        self._truth = load_ground_truth(dataset_name, output_dir, json=json, lvis=rules == "lvis")
        of_masks = sorted({*(self._tasks or ())} - {"bbox"})
        if of_masks and self._truth.annotations and not self._truth.has_masks:
            raise UserError(
                f"the task {of_masks[0]} needs masks, and {self._truth.path} has boxes only: evaluate with "
                "dataloader.evaluator.tasks=[bbox]"
            )
        self.reset()

    def reset(self) -> None:
        self._predictions: list[tuple[Any, list[dict[str, Any]]]] = []
        self._saw_masks = False

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds samples with ``image_id`` and a detector's outputs, ``{"instances": Instances}``."""
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

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Computes the metrics on the main process; the others get an empty dict.

        Returns:
            task -> metric -> percent. NaN if there is no such instance. A model that detects nothing has 0.
            Empty, with a warning, if no image was predicted or the json has no annotations.

        Raises:
            UserError: if detections and ground truth do not belong together.
        """
        own = (self._predictions, self._saw_masks)
        gathered = comm.gather(own, dst=0) if self._distributed else [own]
        if not gathered:
            return OrderedDict()
        predictions = list(itertools.chain(*(members for members, _ in gathered)))
        saw_masks = any(saw for _, saw in gathered)
        if not predictions:
            logger.warning("NOTHING EVALUATED: no image was predicted")
            return OrderedDict()
        results = collect_results(predictions, self._truth)
        self._write_results(results)
        if not self._truth.annotations:
            logger.warning(
                "NOTHING EVALUATED: %s has no annotations. The detections are in COCO's results format, "
                "ready for an evaluation server",
                self._truth.path,
            )
            return OrderedDict()
        if not results:
            text = "%d images, and the model detects nothing in any of them: AP is 0"
            logger.warning(text, len(predictions))
        tasks = self._tasks or (["bbox", "segm"] if saw_masks else ["bbox"])
        metrics: OrderedDict[str, dict[str, float]] = OrderedDict()
        for task in tasks:
            if found := self._evaluate_task(task, results):
                metrics[task] = found
        return metrics

    def _write_results(self, results: list[dict[str, Any]]) -> None:
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, f"{self.rules}_instances_results.json")
            with PathManager.open(path, "w") as file:
                json.dump(results, file)
            logger.info("%d detections written to %s", len(results), path)

    def _evaluate_task(self, task: str, results: list[dict[str, Any]]) -> dict[str, float] | None:
        truth = self._truth
        content = truth.for_task(task)
        if task != "bbox":
            if not content["annotations"]:
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
        rows = _class_rows(curves, counts_KA, truth, frequencies)
        tables = [_size_table(metrics, counts_KA, self._limits[-1])]
        if frequencies is not None:
            tables.append(_frequency_table(metrics, counts_KA, frequencies))
        if len(rows) > 1:
            tables.append(_class_table(rows))
            if self.rules == "coco":
                metrics |= {f"AP-{row['category']}": row["AP"] for row in rows}
        if self._output_dir:
            path = os.path.join(self._output_dir, f"{self.rules}_{task}_per_class.csv")
            with PathManager.open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
                writer.writeheader()  # undefined metrics are left empty
                writer.writerows({k: "" if v != v else v for k, v in row.items()} for row in rows)
            tables.append(f"all classes and metrics: {path}")
        logger.info("%s on %s:\n%s", task, truth.path, "\n\n".join(tables))
        return metrics


class LVISEvaluator(DetectionEvaluator):
    """Alias for ``DetectionEvaluator(rules="lvis")`` used by config.yaml files of 0.1."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, rules="lvis", **kwargs)


def collect_results(
    predictions: list[tuple[Any, list[dict[str, Any]]]], truth: GroundTruth
) -> list[dict[str, Any]]:
    """Collects all detections, with the json's category ids.

    An image seen twice (by a sampler that pads) counts once, with the detections that came
    first; an image not seen counts as having none. Both are reported.

    Raises:
        UserError: if the json lacks images or classes, scores or boxes are not finite, or
            masks differ in size from their image.
    """
    unique = dict(reversed(predictions))
    times = Counter(image_id for image_id, _ in predictions)
    sizes = truth.image_sizes
    if unknown := [image_id for image_id in times if image_id not in sizes]:
        raise UserError(
            f"{len(unknown)} of {len(unique)} predicted images are not in {truth.path}, such as the ids "
            f"{examples(unknown)}: do dataloader.test and dataloader.evaluator name the same dataset?"
        )
    if double := [image_id for image_id in times if times[image_id] > 1]:
        logger.warning(
            "%d images were predicted more than once, such as %s: the first predictions count",
            *(len(double), examples(double)),
        )
    if unseen := [image_id for image_id in sizes if image_id not in unique]:
        logger.warning(
            "PARTIAL EVALUATION: %d of %d images of %s were not predicted, such as %s; all objects in "
            "them count as missed",
            *(len(unseen), len(sizes), truth.path, examples(unseen)),
        )
    return [
        _checked(detection, truth, sizes[image_id])
        for image_id in times
        for detection in unique[image_id]
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


#: With more classes than this, only some are logged; the csv file has all of them.
_LOGGED_CLASSES = 100
_ENDS = 20
_SIZE_LABELS = ("all", "small (to 32^2 pixels)", "medium (to 96^2)", "large")


def _size_table(metrics: dict[str, float], counts_KA: NDArray[np.int64], limit: int) -> str:
    rows = []
    for a, (name, label) in enumerate(zip(AREAS, _SIZE_LABELS, strict=True)):
        letter = "" if name == "all" else name[0]
        values = metrics[f"AP{letter}"], metrics[f"AR{letter}@{limit}"]
        rows.append([label, int(counts_KA[:, a].sum()), *values])
    return table(["size", "instances", "AP", f"AR@{limit}"], rows)


def _frequency_table(
    metrics: dict[str, float], counts_KA: NDArray[np.int64], frequencies: list[str]
) -> str:
    """Tabulates LVIS's AP by the number of training images that contain the category."""
    rows = []
    for letter, name in FREQUENCIES.items():
        chosen = np.array([f == letter for f in frequencies], bool)
        present = int((counts_KA[chosen, 0] > 0).sum())
        rows.append([name, int(chosen.sum()), present, metrics[f"AP{letter}"]])
    return table(["frequency", "categories", "of them present", "AP"], rows)


def _class_rows(
    curves: Curves, counts_KA: NDArray[np.int64], truth: GroundTruth, frequencies: list[str] | None
) -> list[dict[str, Any]]:
    """Creates one row per class, with its id, instances and metrics."""
    rows = []
    for k, (name, identifier) in enumerate(zip(truth.names, truth.category_ids, strict=True)):
        row: dict[str, Any] = {"category": name, "id": identifier}
        if frequencies is not None:
            row["frequency"] = frequencies[k]
        rows.append({**row, "instances": int(counts_KA[k, 0]), **metrics_of(curves.of_category(k))})
    return rows


def _class_table(rows: list[dict[str, Any]]) -> str:
    """Tabulates AP of the classes that have instances: all, or the best and the worst of many."""
    cells = [[row["category"], row["instances"], row["AP"]] for row in rows if row["instances"]]
    title = ""
    if len(cells) > _LOGGED_CLASSES:
        cells.sort(key=lambda cell: -cell[2])
        title = f"the {_ENDS} best and the {_ENDS} worst of {len(cells)} classes:\n"
        cells = cells[:_ENDS] + cells[-_ENDS:]
    columns = min(3, len(cells)) or 1
    cells += [["", "", ""]] * (-len(cells) % columns)
    height = len(cells) // columns
    lines = [[x for c in range(columns) for x in cells[c * height + r]] for r in range(height)]
    return title + table(["category", "instances", "AP"] * columns, lines, left=(0, 3, 6))
