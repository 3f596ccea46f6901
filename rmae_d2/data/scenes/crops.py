"""Single objects cut from the rendered scenes, as a labelled folder for linear probes and k-NN.

Under the output folder::

    crops.json                              how it was made; its presence means it is complete
    train/<class>/000000_3.jpg  val/...     square crops, JPEG, quality 95; named image_annotation
"""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray
from PIL import Image

from ...errors import UserError
from .dataset import SPLITS, STAMP, atomic_folder
from .render import THING_CLASSES

logger = logging.getLogger(__name__)

#: Smallest side of a crop, in pixels.
_MIN_SIDE = 32
#: Largest share of a crop's object pixels that may belong to other objects.
_MAX_OTHERS = 1 / 3
_JPEG_QUALITY = 95
_CROPS_STAMP = "crops.json"


def write_crops(scenes: str | os.PathLike[str], output: str | os.PathLike[str]) -> dict[str, int]:
    """Cut single objects from scenes made by `write_scenes`.

    A crop is the square around the box of the object's visible pixels, including background. At the image's
    edge it is moved inwards, and it is at most as large as the image's shorter side. Objects below 32 pixels
    are left out, and so are those where more than a third of the crop's object pixels belong to other
    objects. Nothing is resized. Objects from training scenes go into ``train/``, those from validation
    scenes into ``val/``. The files depend only on the scenes.

    Args:
        scenes: folder of the scenes.
        output: folder to create; it may exist if it is empty or holds the crops of the same scenes.

    Returns:
        the number of crops per split; empty if they existed already.

    Raises:
        UserError: ``scenes`` holds no complete scenes, or ``output`` holds something else.
    """
    source, root = Path(scenes), Path(output)
    if not (source / STAMP).is_file():
        raise UserError(
            f"{source} holds no complete scenes (no {STAMP}): rmae-d2 scenes --output {source}"
        )
    stamp = json.dumps(json.loads((source / STAMP).read_text()), indent=1) + "\n"
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        found = root / _CROPS_STAMP
        if found.is_file() and found.read_text() == stamp:
            logger.info("%s already holds the crops of these scenes: nothing to do", root)
            return {}
        raise UserError(
            f"{root} already holds something other than the crops of these scenes: choose another output "
            "folder, or delete this one first"
        )
    counts = {}
    with atomic_folder(root) as folder:
        for split in SPLITS:
            counts[split] = _write_split(source, folder, split)
            logger.info("%s: %d crops of single objects", split, counts[split])
        (folder / _CROPS_STAMP).write_text(stamp)
    return counts


def _write_split(source: Path, folder: Path, split: str) -> int:
    content = json.loads((source / "annotations" / f"instances_{split}.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    for name in THING_CLASSES:
        (folder / split / name).mkdir(parents=True)
    objects: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    count = 0
    for image in content["images"]:
        own = objects.get(image["id"], [])
        with Image.open(source / split / image["file_name"]) as picture:
            for number, box in single_objects(own, image["height"], image["width"]):
                name = names[own[number]["category_id"]]
                path = folder / split / name / f"{Path(image['file_name']).stem}_{number}.jpg"
                picture.crop(box).save(path, quality=_JPEG_QUALITY)
                count += 1
    return count


def single_objects(
    annotations: list[dict[str, Any]], height: int, width: int
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """The objects in a height x width image that can be cropped individually.

    Args:
        annotations: COCO's, for all objects of the image, with compressed run lengths and disjoint masks.

    Yields:
        index in ``annotations``, and the crop (left, top, right, bottom) in pixels within the image.
    """
    masks: list[NDArray[np.uint8]] = [mask_util.decode(a["segmentation"]) for a in annotations]
    occupied = np.sum(masks, axis=0) if masks else np.zeros((height, width))
    for number, (annotation, mask) in enumerate(zip(annotations, masks, strict=True)):
        x, y, w, h = annotation["bbox"]
        side = min(max(w, h), height, width)
        if side < _MIN_SIDE:
            continue
        left = int(min(max(0, round(x + w / 2 - side / 2)), width - side))
        top = int(min(max(0, round(y + h / 2 - side / 2)), height - side))
        crop = np.s_[top : top + side, left : left + side]
        if mask[crop].sum() >= (1 - _MAX_OTHERS) * occupied[crop].sum():
            yield number, (left, top, left + side, top + side)
