"""Runs photos through a model and writes the results; for exported models, the whole procedure."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageReadError, ImageSizeError, UserError, examples
from ..files import atomic_file, make_folder
from ..photos.bands import picture_of
from ..photos.inputs import InputImage, check_apart, list_inputs
from ..photos.reading import Photo
from ..visualization.sheets import save_picture
from .facts import DETECTOR, SEGMENTOR
from .model import ExportedModel
from .outputs import DetectionFile, LabelFiles, Output

logger = logging.getLogger(__name__)

Predict = Callable[[NDArray[np.uint8]], dict[str, Any]]

_SECONDS_BETWEEN_REPORTS = 10.0
_JPEG_QUALITY = 92


def predict_exported(
    weights: str,
    given: Sequence[str],
    output: str,
    *,
    image_root: str | None = None,
    score_threshold: float = 0.5,
    max_images: int | None = None,
    pictures: bool = True,
) -> None:
    """Like `rmae_d2.inference.prediction_run.predict_files`, with an exported model.

    Raises:
        UserError: if any argument is unusable, no image can be predicted, or the disk is full.
    """
    model = ExportedModel(str(Path(weights).expanduser()))
    facts, folder = model.facts, Path(output).expanduser()
    labels = facts.task == SEGMENTOR
    images = list_inputs(given, image_root)
    if pictures and facts.task == DETECTOR and not _draws_objects():
        logger.warning("no pictures: those of objects are drawn by Detectron2, which is not here")
        pictures = False
    check_apart(folder, given, images, pictures=pictures, labels=labels)

    def output_of(predicted: dict[str, Any]) -> tuple[str, Output]:
        if labels:
            return "sem_seg_labels", LabelFiles(facts.class_names, facts.first_label, folder)
        return "instances", DetectionFile(facts.classes, folder, score_threshold)

    write_predictions(
        model, output_of, images[:max_images], folder, {"weights": weights}, pictures=pictures
    )


def _draws_objects() -> bool:
    try:
        import detectron2.utils.visualizer  # noqa: F401
    except ImportError:
        return False
    return True


def write_predictions(
    predict: Predict,
    output_of: Callable[[dict[str, Any]], tuple[str, Output]],
    images: Sequence[InputImage],
    folder: Path,
    info: Mapping[str, str],
    *,
    pictures: bool,
    all_bands: bool = False,
) -> None:
    """Predicts images and writes the model's outputs; files stay whole if interrupted.

    Args:
        predict: maps an image's pixels to the model's output.
        output_of: maps the output for the first image to the key that is written, and its writer.
        images: images to predict; unreadable ones are named and skipped.
        folder: output folder.
        info: included in ``images.json``.
        pictures: whether to draw pictures.
        all_bands: whether the pixels are all bands of the files, see `Photo`, instead of RGB.

    Raises:
        UserError: if no image can be predicted, or the disk is full.
    """
    make_folder(folder)
    writer: Output | None = None
    records: list[dict[str, Any]] = []
    skipped: list[str] = []
    resized: list[str] = []
    begin = time.monotonic()
    try:
        for image, pixels, predicted in _predictions(predict, images, skipped, all_bands):
            if writer is None:
                key, writer = output_of(predicted)
            height, width = pixels.shape[:2]
            facts = {"id": image.image_id, "file_name": image.path}
            facts |= {"height": height, "width": width}
            records.append(facts | writer.add(image, predicted[key]))
            if pictures:
                drawn = writer.draw(pixels, predicted[key])
                save_picture(drawn, folder / image.picture, quality=_JPEG_QUALITY)
                records[-1]["picture"] = image.picture
            if image.size not in (None, (height, width)):
                resized.append(image.path)
    finally:
        if writer is not None:
            writer.close()
            content = {
                "info": dict(info),
                "images": records,
                "annotations": [],
                "categories": writer.categories,
            }
            with atomic_file(folder / "images.json") as file:
                file.write(json.dumps(content, indent=1).encode())
            logger.info("%s\nwritten to %s", writer.summary, folder.resolve())
    if resized:
        logger.warning(
            "%d images have another size than the json says, such as %s: the predictions do not fit its "
            "annotations",
            *(len(resized), examples(resized)),
        )
    if skipped:
        logger.warning("skipped %d of %d images, named above", len(skipped), len(images))
    if not records:
        raise UserError(f"none of the {len(images)} images can be predicted, such as {skipped[0]}")
    logger.info("%d images in %.1f s", len(records), time.monotonic() - begin)


def _predictions(
    predict: Predict, images: Sequence[InputImage], skipped: list[str], all_bands: bool
) -> Iterator[tuple[InputImage, NDArray[np.uint8], dict[str, Any]]]:
    """Yields images, a picture and the output of each; unreadable ones are added to ``skipped``."""
    reported = time.monotonic()
    for count, image in enumerate(images, 1):
        try:
            pixels = np.asarray(Photo(image.path, all_bands))
            predicted = predict(pixels)
        except (ImageReadError, ImageSizeError) as error:
            reason = error.reason if isinstance(error, ImageReadError) else error
            skipped.append(f"{image.path}: {reason}")
            logger.warning("skipped %s", skipped[-1])
            continue
        yield image, picture_of(pixels) if all_bands else pixels, predicted
        if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
            reported = time.monotonic()
            logger.info("%d of %d images", count, len(images))
