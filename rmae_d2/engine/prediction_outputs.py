"""What prediction writes, by the key of a model's output."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import nn

from ..config import ConfigError
from ..evaluation.classes import classes_of
from ..visualization.predictions import draw_instances


class PredictionOutput(Protocol):
    """Takes one key of a model's outputs, image by image."""

    def add(self, image_id: Any, value: Any) -> None:
        """Keeps the predictions of an image."""

    def draw(self, image_HWC: NDArray[np.uint8], value: Any) -> NDArray[np.uint8]:
        """A picture of them: uint8 (H, W, 3) RGB."""

    def close(self) -> None:
        """Ends the files; what was added before stands in them."""

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The classes, as in a COCO json."""

    @property
    def summary(self) -> str:
        """What was predicted, in one line."""


class InstanceOutput:
    """``predictions.json``: the detections of all images in COCO's results format.

    Everything that the model returns is kept, whatever its score.

    Args:
        cfg: the model's config, for names and ids of the classes.
        model: whose outputs these are.
        folder: to write to; must exist.
        score_threshold: of the pictures.

    Raises:
        ConfigError: the dataset has another number of classes than the model; see also
            :func:`rmae_d2.evaluation.classes.classes_of`.
    """

    def __init__(
        self, cfg: DictConfig, model: nn.Module, folder: Path, score_threshold: float
    ) -> None:
        self._classes = classes_of(cfg)
        self._check_count(getattr(getattr(model, "roi_heads", None), "num_classes", None))
        self._score_threshold = score_threshold
        self._total = self._above = 0
        self._path = folder / "predictions.json"
        self._file = open(f"{self._path}.part", "w", encoding="utf-8")  # noqa: SIM115 (see close)
        self._file.write("[")

    def add(self, image_id: Any, value: Instances) -> None:
        """Keeps the detections of an image.

        Raises:
            ConfigError: a class that the dataset does not have.
        """
        if len(value):
            self._check_count(max(value.pred_classes.tolist()) + 1, exactly=False)
        for detection in instances_to_coco_json(value, image_id):
            detection["category_id"] = self._classes.category_ids[detection["category_id"]]
            self._file.write((",\n" if self._total else "\n") + json.dumps(detection))
            self._total += 1
        self._above += int((value.scores >= self._score_threshold).sum())

    def draw(self, image_HWC: NDArray[np.uint8], value: Instances) -> NDArray[np.uint8]:
        """The image under the objects that reach the threshold."""
        return draw_instances(image_HWC, value, self._classes.names, self._score_threshold)

    def close(self) -> None:
        """Gives the file its name, once it is whole."""
        self._file.write("\n]\n")
        self._file.close()
        os.replace(self._file.name, self._path)

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The classes, as in a COCO json."""
        return self._classes.categories

    @property
    def summary(self) -> str:
        """Numbers of objects."""
        text = f"{self._total} objects, {self._above} of them of score {self._score_threshold:g} or more"
        if self._total and not self._above:
            text += ": pictures show none of them, unless --score-threshold is lower"
        return text

    def _check_count(self, of_model: int | None, exactly: bool = True) -> None:
        of_data = len(self._classes.names)
        if of_model is None or of_model == of_data or (of_model < of_data and not exactly):
            return
        raise ConfigError(
            f"the model has {of_model if exactly else f'at least {of_model}'} classes, "
            f"{self._classes.source} has {of_data}: set dataloader.test.dataset to data with the classes "
            "of training"
        )


#: By output key; where a model gives several, the first of these counts.
OUTPUTS: dict[str, Callable[[DictConfig, nn.Module, Path, float], PredictionOutput]] = {
    "instances": InstanceOutput
}


def output_key(output: dict[str, Any]) -> str:
    """The key of a model's output that is written.

    Raises:
        ConfigError: there is none that prediction knows.
    """
    for key in OUTPUTS:
        if key in output:
            return key
    raise ConfigError(
        f"the model gives {', '.join(output) or 'nothing'}; prediction knows {', '.join(OUTPUTS)}: is this "
        "the config of a detector?"
    )
