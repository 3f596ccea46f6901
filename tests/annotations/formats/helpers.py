"""What data sets hold, in a form to compare; needs no torch."""

from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from rmae_d2.annotations.coco import read_annotations
from rmae_d2.annotations.segmentation import compressed


def photo(path: Path, size=(80, 100), orientation: int = 1) -> Path:
    """A photo that is upright (H, W) pixels large, turned by EXIF where the orientation is not 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size[::-1] if orientation > 4 else size
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), (200, 30, 90)).save(path, exif=exif)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def held(address: str) -> dict[str, list]:
    """Of each image the objects: class name, box XYXY, area of the mask in pixels or None."""
    found = read_annotations(address)
    names = {category.id: category.name for category in found.categories}
    every: dict[str, list] = {}
    for image, instances in found:
        objects = every.setdefault(image.file_name, [])
        for i in instances:
            x, y, w, h = i.box
            area = None
            if i.mask is not None:
                area = int(mask_util.area(compressed(i.mask, (image.height, image.width))))
            box = [round(float(v), 3) for v in (x, y, x + w, y + h)]
            objects.append((names[i.category_id], box, area))
    return every


def pixels(address: str, name: str) -> np.ndarray:
    """The first mask of an image, bool (H, W)."""
    for image, instances in read_annotations(address):
        if image.file_name == name:
            packed = compressed(instances[0].mask, (image.height, image.width))
            return mask_util.decode(packed).astype(bool)
    raise KeyError(name)
