"""mIoU and related metrics, from one confusion matrix accumulated image by image.

Letters: C classes. Rows of the matrix are the ground truth, columns the predictions.
"""

import csv
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from torch import Tensor

from ..data.datasets.semantic import check_label_size, semantic_classes
from ..errors import UserError
from ..photos.label_images import IGNORE_LABEL, read_labels
from ..tables import table

logger = logging.getLogger(__name__)


class SemSegEvaluator(DatasetEvaluator):
    """Drop-in for Detectron2's class of the same name, with the same numbers, except for boundary IoU.

    The official labels of ADE20K are read directly; classes without a pixel in the ground truth are named,
    have NaN and are left out of the means. Writes ``sem_seg_evaluation.json`` and
    ``sem_seg_per_class.csv`` to output_dir.

    Args:
        dataset_name: one or more registered datasets, for the class names.
        distributed: add up the results of all processes; else each evaluates its own.
        output_dir: where results are written; by default nowhere.
        images, num_classes, zero_is_ignored: custom data, as accepted by `semantic_dataset`; its classes are
            named by the values in the label files, and ``dataset_name`` is ignored.

    Raises:
        UserError: if a dataset is unknown or has no semantic labels.
    """

    def __init__(
        self,
        dataset_name: Sequence[str] | str = (),
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        images: str | None = None,
        num_classes: int | None = None,
        zero_is_ignored: bool = False,
    ) -> None:
        self._classes = semantic_classes(dataset_name, images, num_classes, zero_is_ignored)
        self._distributed = distributed
        self._output_dir = output_dir
        self.reset()

    def reset(self) -> None:
        count = len(self._classes)
        self._confusion_CC = np.zeros((count, count), np.int64)
        self._images = 0
        self._inference: set[str] = set()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds dataset dicts of `semantic_dataset` and a model's outputs.

        An output has ``sem_seg``, scores (C, H, W), or ``sem_seg_labels``, classes (H, W), at the file's
        image size, and may describe in ``inference`` how it was made.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            predicted = self._predicted(sample, output)
            if "sem_seg_file_name" not in sample:
                raise UserError(
                    f"{type(self).__name__} needs 'sem_seg_file_name' with each image: use "
                    "rmae_d2's SemanticDatasetMapper in dataloader.test.mapper"
                )
            shifted = sample.get("zero_is_ignored", False)
            truth = read_labels(sample["sem_seg_file_name"], len(self._classes), shifted)
            check_label_size(sample, predicted.shape, truth.shape)
            self._confusion_CC += confusion_matrix(truth, predicted, len(self._classes))
            self._images += 1
            self._inference.add(output.get("inference", "not said by the model"))

    def _predicted(self, sample: dict[str, Any], output: dict[str, Any]) -> NDArray[np.int64]:
        value = output.get("sem_seg_labels", output.get("sem_seg"))
        if value is None:
            raise UserError(
                f"{type(self).__name__} needs the output 'sem_seg', the model gives "
                f"{', '.join(output) or 'nothing'}"
            )
        try:
            return class_numbers(value, len(self._classes))
        except UserError as error:
            raise UserError(f"{sample.get('file_name')}: {error}") from error

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Computes the metrics on the main process; the others get an empty dict.

        Returns:
            ``sem_seg`` -> mIoU, fwIoU, mACC, pACC and, for each class, IoU-NAME and ACC-NAME, in percent;
            NaN for classes without a pixel in the ground truth. Empty, with a warning, if no labelled
            pixel was predicted.
        """
        own = (self._confusion_CC, self._images, self._inference)
        gathered = comm.gather(own, dst=0) if self._distributed else [own]
        if not gathered:
            return OrderedDict()
        confusion_CC = np.sum([part[0] for part in gathered], axis=0)
        images = sum(part[1] for part in gathered)
        inference = set().union(*(part[2] for part in gathered))
        if not confusion_CC.any():
            text = "NOTHING EVALUATED: %d images were predicted, with no labelled pixel in them"
            logger.warning(text, images)
            return OrderedDict()
        how = " / ".join(sorted(inference))
        metrics = semantic_metrics(confusion_CC, self._classes)
        truth, predicted = confusion_CC.sum(axis=1).tolist(), confusion_CC.sum(axis=0).tolist()
        rows = [
            [name, *pixels, metrics[f"IoU-{name}"], metrics[f"ACC-{name}"]]
            for name, *pixels in zip(self._classes, truth, predicted, strict=True)
        ]
        _report(rows, metrics, images, how)
        if self._output_dir:
            _write(self._output_dir, rows, metrics, images, how)
        return OrderedDict(sem_seg=metrics)


_ABSENT_LOGGED = 20  # the files have all of them
_MEANS = ("mIoU", "fwIoU", "mACC", "pACC")
_HEADERS = ["class", "pixels", "predicted pixels", "IoU", "ACC"]


def _report(rows: list[list[Any]], metrics: dict[str, float], images: int, how: str) -> None:
    absent = [row for row in rows if not row[1]]
    present = sorted((row for row in rows if row[1]), key=lambda row: -row[1])
    lines = [f"inference: {how}", table(_HEADERS, present)]
    if absent:
        some = "; ".join(row[0] for row in absent[:_ABSENT_LOGGED])
        some += " ..." if len(absent) > _ABSENT_LOGGED else ""
        mistaken = sum(1 for row in absent if row[2])
        lines.append(
            f"absent from the ground truth, so left out of the means: {len(absent)} of {len(rows)} "
            f"classes ({some}); the model predicts {mistaken} of them somewhere"
        )
    means = ", ".join(f"{name} {metrics[name]:.2f}" for name in _MEANS)
    logger.info("semantic segmentation of %d images: %s\n%s", images, means, "\n".join(lines))


def _write(
    folder: str, rows: list[list[Any]], metrics: dict[str, float], images: int, how: str
) -> None:
    PathManager.mkdirs(folder)
    summary = {
        "inference": how,
        "images": images,
        "absent_classes": [row[0] for row in rows if not row[1]],
        "metrics": {k: v for k, v in metrics.items() if v == v},  # JSON has no NaN
    }
    with PathManager.open(os.path.join(folder, "sem_seg_evaluation.json"), "w") as file:
        json.dump(summary, file, indent=1)
    path = os.path.join(folder, "sem_seg_per_class.csv")
    with PathManager.open(path, "w", newline="") as file:
        csv.writer(file).writerows([_HEADERS, *rows])
    logger.info("all classes: %s", path)


def class_numbers(value: Tensor, num_classes: int) -> NDArray[np.int64]:
    """Converts scores (C, H, W) or classes to classes (H, W); UserError if the data lack such classes."""
    if value.ndim == 3:
        largest, labels = value.max(dim=0)
        value = labels.masked_fill_(largest.isnan(), -1)
    numbers: NDArray[np.int64] = value.to(torch.device("cpu"), torch.int64).numpy()
    if (numbers < 0).any():
        raise UserError("the model's scores are nan: weights or precision are broken")
    if numbers.max(initial=0) >= num_classes:
        raise UserError(
            f"the model predicts class {numbers.max()}, the data have {num_classes} (0 to "
            f"{num_classes - 1}): set dataloader.test.dataset to data with the classes of training"
        )
    return numbers


def confusion_matrix(
    truth: NDArray[Any], predicted: NDArray[Any], num_classes: int
) -> NDArray[np.int64]:
    """Counts pixels by class (rows) and predicted class (columns), (C, C); ignores pixels labelled 255.

    Args:
        truth: (H, W), 0 to C - 1 and 255.
        predicted: (H, W), 0 to C - 1.
    """
    counted = truth != IGNORE_LABEL
    pairs = truth[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def semantic_metrics(confusion_CC: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """Computes metrics of a confusion matrix in percent, under Detectron2's names."""
    hits = confusion_CC.diagonal().astype(float)
    truth, predicted = (confusion_CC.sum(axis=axis).astype(float) for axis in (1, 0))
    present = truth > 0
    nan = np.full(len(classes), np.nan)
    iou = np.divide(hits, truth + predicted - hits, out=nan.copy(), where=present)
    accuracy = np.divide(hits, truth, out=nan.copy(), where=present)
    metrics = {
        "mIoU": iou[present].mean(),
        "fwIoU": (iou[present] * truth[present]).sum() / truth.sum(),
        **{f"IoU-{name}": value for name, value in zip(classes, iou, strict=True)},
        "mACC": accuracy[present].mean(),
        "pACC": hits.sum() / truth.sum(),
        **{f"ACC-{name}": value for name, value in zip(classes, accuracy, strict=True)},
    }
    return {name: 100 * float(value) for name, value in metrics.items()}
