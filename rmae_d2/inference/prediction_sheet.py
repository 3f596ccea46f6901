"""A few predictions in one picture, shown at the end of training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import Instances
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..data import read_image
from ..data.recipes.own_data import data_name
from ..evaluation.classes import classes_of
from ..evaluation.semantic import class_numbers
from ..visualization.predictions import draw_instances
from ..visualization.semantic import draw_semantic
from ..visualization.sheets import Picture, SheetRow, contact_sheet
from .prediction_outputs import output_of, semantic_classes_of
from .predictor import Predictor

#: Objects with a lower score are drawn only if an image has fewer than the second number above it.
_SCORE, _LEAST = 0.5, 3


def draw_few_predictions(
    cfg: DictConfig, model: nn.Module, files: Sequence[str], part: str
) -> Picture:
    """Draws a detector's or segmentor's predictions next to their photos, one row per photo.

    Args:
        cfg: config of the model, with ``dataloader.test.mapper``.
        model: in evaluation mode, with its weights.
        files: one or more photos.
        part: config part whose ``dataset`` names the classes, such as ``dataloader.test``.

    Raises:
        UserError: if the classes are unknown, or a photo cannot be read.
    """
    predictor = Predictor(cfg, model)
    caption = data_name(cfg, part)
    rows = []
    for file in files:
        image = read_image(file)
        predicted = predictor(image)
        key, _ = output_of(predicted)
        drawn = _draw(cfg, part, image, predicted[key])
        found = predicted[key]
        count = f": {len(found)} objects" if isinstance(found, Instances) else ""
        rows.append(SheetRow(f"{Path(file).name}{count}", [image, drawn]))
    if key == "instances":
        caption += (
            f": objects of score {_SCORE} or more, and at least the best {_LEAST} of an image"
        )
    return contact_sheet(rows, ("photo", "predicted"), caption, side=400)


def _draw(cfg: DictConfig, part: str, image_HWC: NDArray[np.uint8], value: Any) -> Picture:
    if not isinstance(value, Instances):
        names = semantic_classes_of(cfg)[0]
        return draw_semantic(image_HWC, class_numbers(value, len(names)).astype(np.uint8), names)
    data = {"dataset": OmegaConf.select(cfg, f"{part}.dataset")}
    classes = classes_of(OmegaConf.create({"dataloader": {"test": data}})).names
    best = value.scores.sort(descending=True).values[:_LEAST].tolist()
    return draw_instances(image_HWC, value, classes, min([_SCORE, *best]))
