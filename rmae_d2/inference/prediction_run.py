"""A run over photos: predictions, pictures, and the files that hold them."""

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from PIL import Image

from ..annotations.coco_json import examples
from ..config import apply_overrides, load_config
from ..data import read_image
from ..data.datasets import json_facts
from ..data.recipes.own_data import follow_own_labels, set_num_classes
from ..errors import ImageReadError, ImageSizeError, UserError
from ..files import atomic_file
from .predict_inputs import InputImage, check_apart, list_inputs
from .prediction_outputs import (
    OUTPUTS,
    PredictionOutput,
    output_key,
    without_logits,
    writes_labels,
)
from .predictor import Predictor

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_REPORTS = 10.0
_JPEG_QUALITY = 92


def predict_files(
    config_file: str,
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
    """Predicts files and writes what the model gives, interrupted or not; see :class:`PredictionRun`.

    The arguments are the options of ``rmae-d2 predict``.

    Raises:
        UserError: anything of it cannot be used, or no image can be predicted.
    """
    cfg = apply_overrides(load_config(config_file), overrides)
    OmegaConf.set_struct(cfg, False)
    output = os.path.expanduser(output)
    images = list_inputs(given, image_root)
    check_apart(output, given, images, pictures=pictures, labels=writes_labels(cfg))
    if json := OmegaConf.select(cfg, "dataloader.test.dataset.json"):
        set_num_classes(cfg, len(json_facts(json).classes), json, overrides)
    follow_own_labels(cfg, overrides)
    without_logits(cfg)
    folder = _made(output)
    predictor = Predictor(cfg, weights)
    run = PredictionRun(cfg, predictor, folder, score_threshold, pictures)
    try:
        run.predict(images[:max_images])
    finally:
        run.close({"config": config_file, "weights": weights})


class PredictionRun:
    """Predicts images and writes what the model gives.

    In the folder: the files of the model's kind of output (`OUTPUTS`), pictures, and ``images.json``, a COCO
    json of the predicted images and the classes, without annotations. It says which file an image id is
    (``file_name``, as it was read) and which its ``picture`` and, of semantic segmentation, ``labels``;
    pycocotools loads detections over it: ``COCO("images.json").loadRes("predictions.json")``.

    Args:
        cfg: the predictor's config.
        predictor: the model.
        folder: to write to; must exist.
        score_threshold: of what the pictures show.
        pictures: whether to draw.
    """

    def __init__(
        self,
        cfg: DictConfig,
        predictor: Predictor,
        folder: Path,
        score_threshold: float = 0.5,
        pictures: bool = True,
    ) -> None:
        self._cfg = cfg
        self._predictor = predictor
        self._folder = folder
        self._score_threshold = score_threshold
        self._pictures = pictures
        self._key = ""
        self._output: PredictionOutput | None = None
        self._records: list[dict[str, Any]] = []

    def predict(self, images: Sequence[InputImage]) -> None:
        """Predicts and writes, image by image; those that cannot be read are skipped, named and counted.

        Raises:
            UserError: nothing could be predicted.
            UserError: the model's output is of an unknown kind, or its classes are not the dataset's.
        """
        skipped: list[str] = []
        resized: list[str] = []
        begin = reported = time.monotonic()
        for count, image in enumerate(images, 1):
            try:
                height, width = self._predict_one(image)
            except (ImageReadError, ImageSizeError) as error:
                reason = error.reason if isinstance(error, ImageReadError) else error
                skipped.append(f"{image.path}: {reason}")
                logger.warning("skipped %s", skipped[-1])
                continue
            if image.size not in (None, (height, width)):
                resized.append(image.path)
            if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                logger.info("%d of %d images", count, len(images))
        if resized:
            logger.warning(
                "%d images have another size than the json says, such as %s: the predictions do not fit its "
                "annotations",
                *(len(resized), examples(resized)),
            )
        if skipped:
            logger.warning("skipped %d of %d images, named above", len(skipped), len(images))
        if not self._records:
            raise UserError(
                f"none of the {len(images)} images can be predicted, such as {skipped[0]}"
            )
        logger.info("%d images in %.1f s", len(self._records), time.monotonic() - begin)

    def _predict_one(self, image: InputImage) -> tuple[int, int]:
        """Predicts, draws and records an image; its (height, width)."""
        pixels = read_image(image.path)
        predicted = self._predictor(pixels)
        if self._output is None:
            self._key = output_key(predicted)
            self._output = OUTPUTS[self._key](
                self._cfg, self._predictor.model, self._folder, self._score_threshold
            )
        value = predicted[self._key]
        height, width = pixels.shape[:2]
        record = {
            "id": image.image_id,
            "file_name": image.path,
            "height": height,
            "width": width,
        }
        record |= self._output.add(image, value)
        self._records.append(record)
        if self._pictures:
            path = self._folder / image.picture
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = self._output.draw(pixels, value)
            Image.fromarray(picture).save(path, quality=_JPEG_QUALITY)
            record["picture"] = image.picture
        return height, width

    def close(self, info: dict[str, Any]) -> None:
        """Ends the files and says where they are; does nothing where nothing was predicted.

        Args:
            info: where the predictions come from, written into ``images.json``.
        """
        if self._output is None:
            return
        self._output.close()
        content = {
            "info": info,
            "images": self._records,
            "annotations": [],
            "categories": self._output.categories,
        }
        with atomic_file(self._folder / "images.json") as file:
            file.write(json.dumps(content, indent=1).encode())
        logger.info("%s\nwritten to %s", self._output.summary, self._folder.resolve())


def _made(output: str) -> Path:
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output} cannot be made: {error}") from error
    return folder
