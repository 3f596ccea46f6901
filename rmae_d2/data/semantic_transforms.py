"""Semantic segmentation augmentations that Detectron2's core lacks or implements slowly."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..photos.label_images import IGNORE_LABEL

_TRIES = 10


class LimitedClassCrop(T.Augmentation):
    """A random crop in which no class exceeds a given share of the labelled pixels.

    The rule of mmsegmentation's ``cat_max_ratio`` and Detectron2's ``RandomCrop_CategoryAreaConstraint``: up
    to 10 crops are drawn, and the last one is used if none qualifies.
    """

    def __init__(self, size: int, max_share: float = 0.75) -> None:
        """Takes the side in pixels (smaller images are not cropped) and a class's largest share, (0, 1]."""
        super().__init__()
        if size < 1 or not 0 < max_share <= 1:
            raise UserError(f"size={size} must be positive and max_share={max_share} in (0, 1]")
        self.size = size
        self.max_share = max_share

    def get_transform(self, image: NDArray[Any], sem_seg: NDArray[np.uint8]) -> T.CropTransform:
        """Draw one crop for an image and its labels, (H, W) uint8."""
        height, width = image.shape[:2]
        h, w = min(height, self.size), min(width, self.size)
        for _ in range(_TRIES):
            top = np.random.randint(height - h + 1)
            left = np.random.randint(width - w + 1)
            counts = np.bincount(sem_seg[top : top + h, left : left + w].ravel(), minlength=256)
            counts[IGNORE_LABEL] = 0
            if counts.max() < self.max_share * counts.sum() or self.max_share == 1:
                break
        return T.CropTransform(left, top, w, h, width, height)


class PhotometricDistortion(T.Augmentation):
    """Random brightness, contrast, saturation and hue, each with probability 1/2 (SSD, section 2.2).

    Brightness is shifted by up to 32 of 255, contrast and saturation are scaled by 0.5 to 1.5; contrast comes
    before or after the colours. Images other than uint8 RGB are left unchanged.
    """

    def __init__(self, hue: float = 18.0) -> None:
        """Takes the largest hue rotation in degrees.

        mmsegmentation's ``hue_delta=18`` means 36 degrees, because OpenCV's hue circle has 180 units.
        """
        super().__init__()
        if not 0 <= hue <= 180:
            raise UserError(f"hue={hue} must be 0 to 180 degrees")
        self.hue = float(hue)

    def get_transform(self, image: NDArray[Any]) -> T.Transform:
        """Draw one distortion."""
        if image.dtype != np.uint8 or image.shape[2:] != (3,):
            return T.NoOpTransform()
        chosen = np.random.randint(2, size=5).astype(bool)
        brightness, contrast, saturation, hue = np.random.uniform(
            [-32, 0.5, 0.5, -self.hue], [32, 1.5, 1.5, self.hue]
        )
        return PhotometricTransform(
            brightness=brightness if chosen[0] else 0.0,
            contrast=contrast if chosen[1] else 1.0,
            saturation=saturation if chosen[2] else 1.0,
            hue=hue if chosen[3] else 0.0,
            contrast_first=bool(chosen[4]),
        )


@dataclass(repr=False, eq=False)
class PhotometricTransform(T.Transform):
    """A fixed change of colours; coordinates and labels are unchanged."""

    brightness: float = 0.0  #: added to all values, of 255
    contrast: float = 1.0  #: factor for all values
    saturation: float = 1.0  #: factor for HSV's S
    hue: float = 0.0  #: degrees
    contrast_first: bool = True  #: before saturation and hue, else after

    def apply_image(self, img: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB -> the same."""
        values = np.arange(256)
        brighter = _to_bytes(values + self.brightness)
        contrasted = _to_bytes(values * self.contrast)
        before = contrasted[brighter] if self.contrast_first else brighter
        img = before.take(img)
        if self.saturation != 1.0 or self.hue != 0.0:
            hue = ((values + round(self.hue * 256 / 360)) % 256).astype(np.uint8)
            saturation = _to_bytes(values * self.saturation)
            table = np.concatenate([hue, saturation, values.astype(np.uint8)])
            hsv = Image.fromarray(img).convert("HSV").point(table.tolist())
            img = np.array(hsv.convert("RGB"))
        return img if self.contrast_first else contrasted.take(img)

    def apply_segmentation(self, segmentation: NDArray[Any]) -> NDArray[Any]:
        """Return labels unchanged."""
        return segmentation

    def apply_coords(self, coords: NDArray[Any]) -> NDArray[Any]:
        """Return points unchanged."""
        return coords


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return values.round().clip(0, 255).astype(np.uint8)
