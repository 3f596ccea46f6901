"""Implements `rmae-d2 predict`: predictions of photos, pictures, and the files that hold them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from ..annotations.classes import Classes
from ..config import apply_overrides, load_config
from ..data.datasets import json_facts
from ..data.recipes.own_data import follow_own_labels, set_num_classes
from ..deploy.arrays import Detections
from ..deploy.outputs import DetectionFile, Output
from ..deploy.run import write_predictions
from ..errors import UserError
from ..photos.inputs import check_apart, list_inputs
from .finished_run import config_of
from .prediction_outputs import output_of, writes_labels
from .predictor import Predictor
from .proposals import ProposalSource

_PROPOSALS = f"{ProposalSource.__module__}.{ProposalSource.__qualname__}"


def predict_files(
    config_file: str | None,
    weights: str,
    given: Sequence[str],
    output: str,
    *,
    overrides: Sequence[str] = (),
    image_root: str | None = None,
    score_threshold: float = 0.5,
    max_images: int | None = None,
    pictures: bool = True,
) -> None:
    """Predicts files and writes the model's outputs; files stay whole if interrupted.

    The output folder gets the files of the model's output type, pictures, and ``images.json``, a COCO JSON
    of the predicted images and the classes, without annotations. It maps image ids to files
    (``file_name``, as it was read), their ``picture`` and, for semantic segmentation, ``labels``;
    pycocotools loads detections over it: ``COCO("images.json").loadRes("predictions.json")``. Images that
    cannot be read are skipped, named and counted.

    The arguments are the options of ``rmae-d2 predict``.

    Raises:
        UserError: if any argument is unusable, no image can be predicted, or the disk is full. Files are then
            whole or absent, and the same command can be repeated.
    """
    config_file = config_of(weights, config_file)
    cfg = prepared_config(config_file, overrides)
    folder = Path(output).expanduser()
    images = list_inputs(given, image_root)
    labels = writes_labels(cfg)
    check_apart(folder, given, images, pictures=pictures, labels=labels)
    if labels and cfg.model.get("output") == "logits":
        cfg.model.output = "labels"  # scores of a large image take gigabytes: 150 per pixel
    predictor = Predictor(cfg, weights)

    def writer_of(predicted: dict[str, Any]) -> tuple[str, Output]:
        key, kind = output_of(predicted)
        return key, kind(cfg, predictor.model, folder, score_threshold)

    info = {"config": config_file, "weights": weights}
    options = {"pictures": pictures, "all_bands": predictor.all_bands}
    write_predictions(predictor, writer_of, images[:max_images], folder, info, **options)


def predict_proposals(
    weights: str,
    given: Sequence[str],
    output: str,
    *,
    settings: Sequence[str] = (),
    image_root: str | None = None,
    score_threshold: float = 0.5,
    max_images: int | None = None,
    pictures: bool = True,
) -> None:
    """Writes the proposals of a pre-trained R-MAE like a detector's objects, all of the class ``object``.

    The arguments are the options of ``rmae-d2 predict --proposals``; ``settings`` are key=value of
    `ProposalSource`.

    Raises:
        UserError: if any argument is unusable, no image can be predicted, or the disk is full.
    """
    chosen = apply_overrides(OmegaConf.create({"_target_": _PROPOSALS}), settings)
    values: dict[str, Any] = {str(k): v for k, v in chosen.items() if k != "_target_"}
    if "weights" in values:
        raise UserError("weights: named by --weights")
    folder = Path(output).expanduser()
    images = list_inputs(given, image_root)
    check_apart(folder, given, images, pictures=pictures, labels=False)
    source = ProposalSource(weights, **values)

    def predict(image_HWC: NDArray[np.uint8]) -> dict[str, Any]:
        found = source.propose(image_HWC)
        masks = [mask_util.decode(mask).astype(bool) for mask in found.masks]
        boxes = np.array([mask_util.toBbox(mask) for mask in found.masks]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        stacked = np.array(masks).reshape(len(masks), *image_HWC.shape[:2])
        classes = np.zeros(len(masks), np.int64)
        scores = found.scores.astype(np.float32)
        return {"instances": Detections(boxes.astype(np.float32), scores, classes, stacked)}

    def writer_of(predicted: dict[str, Any]) -> tuple[str, Output]:
        classes = Classes(("object",), (1,), "a model without classes")
        return "instances", DetectionFile(classes, folder, score_threshold)

    info = {"weights": weights, **{key: str(value) for key, value in source.settings.items()}}
    write_predictions(predict, writer_of, images[:max_images], folder, info, pictures=pictures)


def prepared_config(config_file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Loads a config whose model has the number of classes of its test data, open to new keys."""
    cfg = apply_overrides(load_config(config_file), overrides)
    OmegaConf.set_struct(cfg, False)
    if json_file := OmegaConf.select(cfg, "dataloader.test.dataset.json"):
        set_num_classes(cfg, len(json_facts(json_file).classes), json_file, overrides)
    follow_own_labels(cfg, overrides)
    return cfg
