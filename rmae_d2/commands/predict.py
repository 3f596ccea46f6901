"""The command line of `tools/predict.py`."""

import argparse
import json
import logging
import os
import sys
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
from ..inference.predict_inputs import InputImage, check_apart, list_inputs
from ..inference.prediction_outputs import (
    OUTPUTS,
    PredictionOutput,
    output_key,
    without_logits,
    writes_labels,
)
from ..inference.predictor import Predictor

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_REPORTS = 10.0
_JPEG_QUALITY = 92


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and predicts; returns the exit code.

    0: something was predicted, unreadable images are named in the log. 1: an error, or no image could be
    read. 130: stopped by ctrl-C; what was predicted until then is written.
    """
    args = _parsed(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        _run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _run(args: argparse.Namespace) -> None:
    cfg = apply_overrides(load_config(args.config_file), args.overrides)
    OmegaConf.set_struct(cfg, False)
    images = list_inputs(args.input, args.image_root)
    labels = writes_labels(cfg)
    check_apart(args.output, args.input, images, pictures=args.pictures, labels=labels)
    if json := OmegaConf.select(cfg, "dataloader.test.dataset.json"):
        set_num_classes(cfg, len(json_facts(json).classes), json, args.overrides)
    follow_own_labels(cfg, args.overrides)
    without_logits(cfg)
    folder = _made(args.output)
    predictor = Predictor(cfg, args.weights)
    run = PredictionRun(cfg, predictor, folder, args.score_threshold, args.pictures)
    try:
        run.predict(images[: args.max_images])
    finally:
        run.close({"config": args.config_file, "weights": args.weights})


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


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    args = _parser().parse_intermixed_args(argv)
    # --input takes all that follows it; an override there is no image.
    misplaced = [text for text in args.input if "=" in text and not os.path.exists(text)]
    args.overrides += misplaced
    args.input = [text for text in args.input if text not in misplaced]
    args.output = os.path.expanduser(args.output)
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, help="of the model, or the config.yaml of its training")
    add("--weights", required=True, help="model_final.pth or another file with all its tensors")
    add(
        "--input",
        required=True,
        nargs="+",
        metavar="IMAGES",
        help="image files, a folder (with its sub-folders), a .txt list, or a COCO .json",
    )
    add("--output", required=True, metavar="DIR", help="folder to write to; made where it is not")
    add(
        "--score-threshold",
        type=_probability,
        default=0.5,
        metavar="S",
        help="of detections: least score of what the pictures show (default %(default)s); predictions.json "
        "keeps all that the model returns",
    )
    add("--max-images", type=_positive, metavar="N", help="only the first N images")
    add("--no-pictures", dest="pictures", action="store_false", help="predictions only")
    add("--image-root", help="folder of the json's images, where it does not find them by itself")
    add("overrides", nargs="*", metavar="key=value", help="changes of the config")
    return parser


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


_DESCRIPTION = """Detects objects in photos, or segments them into classes, with any LazyConfig: pictures to
look at, and COCO results or label images.

    python tools/predict.py --config-file configs/coco/mask_rcnn_vitdet_b_100ep.py \\
        --weights output/x/model_final.pth --input FOLDER --output DIR
    python tools/predict.py --config-file output/x/config.yaml --weights output/x/model_final.pth \\
        --input a.jpg b.jpg --output DIR --score-threshold 0.3 train.device=cpu

DIR gets a picture of every image, predictions.json in COCO's results format, and images.json, which says
what its image and category ids stand for: COCO("images.json").loadRes("predictions.json"). A COCO json
keeps its image ids; other images are numbered from 1. predictions.json keeps everything that the model
returns (by default scores of 0.05 or more: model.roi_heads.box_predictor.test_score_thresh), whatever
--score-threshold the pictures have.

A config of semantic segmentation (configs/ade20k) gives pictures with a legend, in which a class always has
the same colour, and labels/*.png, 8 bits a pixel, with the values of the ground truth that the config
reads: those of ADE20K's official release are 1 to 150. images.json names the classes by these values.

Images that cannot be read are named and skipped."""
