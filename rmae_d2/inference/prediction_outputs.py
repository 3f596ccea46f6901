"""What prediction writes, by the key of a model's output."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ..data.datasets.semantic import first_label, semantic_classes, semantic_dataset
from ..data.recipes.own_data import dataset_node
from ..errors import UserError
from ..evaluation.classes import classes_of
from ..evaluation.semantic import class_numbers
from ..files import atomic_file
from ..visualization.predictions import draw_instances
from ..visualization.semantic import draw_semantic
from ..visualization.sheets import save_picture
from .predict_inputs import InputImage


class InstanceOutput:
    """``predictions.json``: the detections of all images in COCO's results format, whatever their score.

    Raises:
        UserError: the config's dataset has another number of classes than the model, or see
            :func:`rmae_d2.evaluation.classes.classes_of`.
    """

    def __init__(
        self, cfg: DictConfig, model: nn.Module, folder: Path, score_threshold: float
    ) -> None:
        self._classes = classes_of(cfg)
        count = getattr(getattr(model, "roi_heads", None), "num_classes", None)
        self._check_count(len(self._classes.names) if count is None else count)
        self._score_threshold = score_threshold
        self._total = self._above = 0
        self._whole = ExitStack()  # closed where the file is whole; else nothing of it stays
        self._path = folder / "predictions.json"
        self._file = self._whole.enter_context(atomic_file(self._path))
        self._file.write(b"[")

    def add(self, image: InputImage, value: Instances) -> dict[str, Any]:
        """Keeps the detections of an image; what is to stand with it in ``images.json``."""
        if len(value):
            self._check_count(int(value.pred_classes.max()) + 1, "at least ")
        for detection in instances_to_coco_json(value, image.image_id):
            detection["category_id"] = self._classes.category_ids[detection["category_id"]]
            self._write((",\n" if self._total else "\n") + json.dumps(detection))
            self._total += 1
        self._above += int((value.scores >= self._score_threshold).sum())
        return {}

    def draw(self, image_HWC: NDArray[np.uint8], value: Instances) -> NDArray[np.uint8]:
        return draw_instances(image_HWC, value, self._classes.names, self._score_threshold)

    def close(self) -> None:
        """Gives the file its name; where it can't be written nothing of it stays, and what was there does."""
        with self._whole:
            self._write("\n]\n")

    def _write(self, text: str) -> None:
        try:
            self._file.write(text.encode())
        except OSError as error:
            raise UserError(f"{self._path}: could not be written ({error})") from error

    @property
    def categories(self) -> list[dict[str, Any]]:
        return self._classes.categories

    @property
    def summary(self) -> str:
        text = f"{self._total} objects, {self._above} of them of score {self._score_threshold:g} or more"
        if self._total and not self._above:
            text += ": pictures show none of them, unless --score-threshold is lower"
        return text

    def _check_count(self, of_model: int, least: str = "") -> None:
        of_data = len(self._classes.names)
        if of_model > of_data or (of_model < of_data and not least):
            raise UserError(
                f"the model has {least}{of_model} classes, {self._classes.source} has {of_data}: set "
                "dataloader.test.dataset to data with the classes of training"
            )


class SemanticOutput:
    """``labels/NAME.png``: the most probable class at every pixel, at the image's size.

    uint8, one channel, with the values of the ground truth that the config reads: for ADE20K in its official
    release, and where it is not there, those of the release, 1 to 150 for the 150 classes (0, no class, is
    never predicted), as its evaluation server and toolkit expect; 0 to 149 only where Detectron2's converted
    folder alone is there. Own data have 1 to C with ``zero_is_ignored``, else 0 to C - 1. The category ids in
    ``images.json`` are these values.

    Raises:
        UserError: the config's dataset has another number of classes than the model, or is not known.
    """

    def __init__(self, cfg: DictConfig, model: nn.Module, folder: Path, _: float = 0.5) -> None:
        self._names, self._first = semantic_classes_of(cfg)
        self._folder = folder
        self._images = 0
        self._pixels_C = np.zeros(len(self._names))

    def add(self, image: InputImage, value: Tensor) -> dict[str, Any]:
        """Writes the labels of an image; their file is named in ``images.json``."""
        labels = class_numbers(value, len(self._names)).astype(np.uint8)
        save_picture(labels + np.uint8(self._first), self._folder / image.label_image)
        self._images += 1
        counts = np.bincount(labels.reshape(-1), minlength=len(self._names))
        self._pixels_C += counts / labels.size
        return {"labels": image.label_image}

    def draw(self, image_HWC: NDArray[np.uint8], value: Tensor) -> NDArray[np.uint8]:
        labels = class_numbers(value, len(self._names)).astype(np.uint8)
        return draw_semantic(image_HWC, labels, self._names)

    def close(self) -> None:
        """Every file is whole already."""

    @property
    def categories(self) -> list[dict[str, Any]]:
        return [{"id": k, "name": name} for k, name in enumerate(self._names, self._first)]

    @property
    def summary(self) -> str:
        largest = [k for k in np.argsort(-self._pixels_C, kind="stable")[:5] if self._pixels_C[k]]
        parts = self._pixels_C / max(self._images, 1)
        shares = ", ".join(f"{self._names[k]} {parts[k]:.1%}" for k in largest)
        values = f"{self._first} to {self._first + len(self._names) - 1}"
        return f"labels/*.png: values {values} for the classes; most pixels: {shares}"


def semantic_classes_of(cfg: DictConfig) -> tuple[tuple[str, ...], int]:
    """Names of a config's classes, and the value of the first in label files.

    They are those of the test data or, where these have not as many as the model (as where it was trained on
    own data without others for testing), of the training data.
    """
    wanted = OmegaConf.select(cfg, "model.sem_seg_head.num_classes")
    found = []
    for split in ("test", "train"):
        data = dataset_node(cfg, split, semantic_dataset)
        if data is None:  # of Detectron2's own configs
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
    """Whether a config's model is one whose output is :class:`SemanticOutput`'s."""
    model = cfg.get("model") or {}
    return "sem_seg_head" in model and "roi_heads" not in model


Output = InstanceOutput | SemanticOutput

#: By output key; where a model gives several, the first of these counts.
OUTPUTS: dict[str, type[Output]] = {
    "instances": InstanceOutput,
    "sem_seg_labels": SemanticOutput,
    "sem_seg": SemanticOutput,
}


def output_of(output: dict[str, Any]) -> tuple[str, type[Output]]:
    """The key of a model's output that is written, and what writes it."""
    for key, kind in OUTPUTS.items():
        if key in output:
            return key, kind
    raise UserError(
        f"the model gives {', '.join(output) or 'nothing'}; prediction knows {', '.join(OUTPUTS)}: is this "
        "the config of a detector or of semantic segmentation?"
    )
