"""Prediction writers, by output key of the model."""

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..annotations.classes import Classes
from ..data.datasets.semantic import first_label, semantic_classes, semantic_dataset
from ..data.recipes.own_data import dataset_node
from ..deploy.outputs import DetectionFile, LabelFiles
from ..errors import UserError
from ..evaluation.classes import classes_of
from ..evaluation.semantic import class_numbers


class InstanceOutput(DetectionFile):
    """Writes Detectron2's instances, with the classes of a config's dataset.

    Raises:
        UserError: if that has a different number of classes than the model; see also
            `rmae_d2.evaluation.classes.classes_of`.
    """

    def __init__(
        self, cfg: DictConfig, model: nn.Module, folder: Path, score_threshold: float
    ) -> None:
        classes = classes_of(cfg)
        check_class_count(classes, model)
        super().__init__(classes, folder, score_threshold)

    def entries(self, image_id: Any, value: Instances) -> list[dict[str, Any]]:
        if len(value):
            _check_count(self._classes, int(value.pred_classes.max()) + 1, "at least ")
        found: list[dict[str, Any]] = instances_to_coco_json(value, image_id)
        return found


def check_class_count(classes: Classes, model: nn.Module) -> None:
    """Raises UserError if a detector's number of classes differs from that of its config's dataset."""
    count = getattr(getattr(model, "roi_heads", None), "num_classes", None)
    _check_count(classes, len(classes.names) if count is None else count)


def _check_count(classes: Classes, of_model: int, least: str = "") -> None:
    of_data = len(classes.names)
    if of_model > of_data or (of_model < of_data and not least):
        raise UserError(
            f"the model has {least}{of_model} classes, {classes.source} has {of_data}: set "
            "dataloader.test.dataset to data with the classes of training"
        )


class SemanticOutput(LabelFiles):
    """Writes scores or classes of pixels, in the values of the ground truth that the config reads.

    For ADE20K these are the values of its official release, even if that is not present: 1 to 150 for the 150
    classes (0, no class, is never predicted), as its evaluation server and toolkit expect; 0 to 149 only
    if just Detectron2's converted folder is present. Custom data use 1 to C with ``zero_is_ignored``, else 0
    to C - 1.

    Raises:
        UserError: if the config's dataset is unknown or has a different number of classes than the model.
    """

    def __init__(self, cfg: DictConfig, model: nn.Module, folder: Path, _: float = 0.5) -> None:
        super().__init__(*semantic_classes_of(cfg), folder)

    def numbers(self, value: Any) -> NDArray[np.uint8]:
        return class_numbers(value, len(self._names)).astype(np.uint8)


def semantic_classes_of(cfg: DictConfig) -> tuple[tuple[str, ...], int]:
    """Returns names of a config's classes, and the value of the first one in label files.

    Uses the test data or, if its number of classes differs from the model's (e.g. after training on
    custom data without separate test data), the training data.
    """
    wanted = OmegaConf.select(cfg, "model.sem_seg_head.num_classes")
    found = []
    for split in ("test", "train"):
        data = dataset_node(cfg, split, semantic_dataset)
        if data is None:  # Detectron2's own configs
            names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names")
            data = OmegaConf.create({"names": names})
        names, images = data.get("names") or (), data.get("images")
        if not names and images is None:
            continue
        shifted = bool(data.get("zero_is_ignored"))
        try:
            classes = semantic_classes(names, images, data.get("num_classes"), shifted)
            if wanted in (None, len(classes)):
                return classes, first_label(names, images, shifted)
        except UserError as error:
            raise UserError(f"dataloader.{split}.dataset: {error}") from error
        found.append(f"{images or names} has {len(classes)}")
    raise UserError(
        f"the model has {wanted} classes, {', '.join(found) or 'and the config names no dataset'}: set "
        "dataloader.test.dataset to data with the classes of training"
    )


def writes_labels(cfg: DictConfig) -> bool:
    """Whether the output of a config's model is written by `SemanticOutput`."""
    model = cfg.get("model") or {}
    return "sem_seg_head" in model and "roi_heads" not in model


#: By output key; if a model returns several, the first of these counts.
OUTPUTS: dict[str, type[InstanceOutput] | type[SemanticOutput]] = {
    "instances": InstanceOutput,
    "sem_seg_labels": SemanticOutput,
    "sem_seg": SemanticOutput,
}


def output_of(
    output: dict[str, Any],
) -> tuple[str, type[InstanceOutput] | type[SemanticOutput]]:
    """Returns the key of the output that is written, and its writer."""
    for key, kind in OUTPUTS.items():
        if key in output:
            return key, kind
    raise UserError(
        f"the model gives {', '.join(output) or 'nothing'}; prediction knows {', '.join(OUTPUTS)}: is this "
        "the config of a detector or of semantic segmentation?"
    )
