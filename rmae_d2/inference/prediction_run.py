"""What `rmae-d2 predict` does: predictions of photos, pictures, and the files that hold them."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from ..config import apply_overrides, load_config
from ..data import read_image
from ..data.datasets import json_facts
from ..data.recipes.own_data import follow_own_labels, set_num_classes
from ..errors import ImageReadError, ImageSizeError, UserError, examples
from ..files import atomic_file, make_folder
from ..visualization.sheets import save_picture
from .predict_inputs import InputImage, check_apart, list_inputs
from .prediction_outputs import Output, output_of, writes_labels
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
    """Predicts files and writes what the model gives, whole where it is interrupted, too.

    In the output folder: the files of the model's kind of output, pictures, and ``images.json``, a COCO json
    of the predicted images and the classes, without annotations. It says which file an image id is
    (``file_name``, as it was read) and which its ``picture`` and, of semantic segmentation, ``labels``;
    pycocotools loads detections over it: ``COCO("images.json").loadRes("predictions.json")``. Images that
    cannot be read are skipped, named and counted.

    The arguments are the options of ``rmae-d2 predict``.

    Raises:
        UserError: anything of it cannot be used, no image can be predicted, or the disk is full. Files are
            whole or not there then, and the same command can be given again.
    """
    cfg = apply_overrides(load_config(config_file), overrides)
    OmegaConf.set_struct(cfg, False)
    folder = Path(output).expanduser()
    images = list_inputs(given, image_root)
    labels = writes_labels(cfg)
    check_apart(folder, given, images, pictures=pictures, labels=labels)
    if json_file := OmegaConf.select(cfg, "dataloader.test.dataset.json"):
        set_num_classes(cfg, len(json_facts(json_file).classes), json_file, overrides)
    follow_own_labels(cfg, overrides)
    if labels and cfg.model.get("output") == "logits":
        cfg.model.output = "labels"  # scores of a large image are gigabytes: 150 of them a pixel
    make_folder(folder)
    predictor = Predictor(cfg, weights)
    writer: Output | None = None
    records: list[dict[str, Any]] = []
    skipped: list[str] = []
    resized: list[str] = []
    images = images[:max_images]
    begin = time.monotonic()
    try:
        for image, pixels, predicted in _predictions(predictor, images, skipped):
            if writer is None:
                key, kind = output_of(predicted)
                writer = kind(cfg, predictor.model, folder, score_threshold)
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
                "info": {"config": config_file, "weights": weights},
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
    predictor: Predictor, images: Sequence[InputImage], skipped: list[str]
) -> Iterator[tuple[InputImage, NDArray[np.uint8], dict[str, Any]]]:
    """Images, their pixels and what the model gives; those that cannot be read join the skipped ones."""
    reported = time.monotonic()
    for count, image in enumerate(images, 1):
        try:
            pixels = read_image(image.path)
            predicted = predictor(pixels)
        except (ImageReadError, ImageSizeError) as error:
            reason = error.reason if isinstance(error, ImageReadError) else error
            skipped.append(f"{image.path}: {reason}")
            logger.warning("skipped %s", skipped[-1])
            continue
        yield image, pixels, predicted
        if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
            reported = time.monotonic()
            logger.info("%d of %d images", count, len(images))
