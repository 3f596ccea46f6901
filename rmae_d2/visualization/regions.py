"""Visualized regions: an image with its label planes and masks in colours."""

import numpy as np
from numpy.typing import NDArray

from ..regions import RegionRecord, unpack_bits
from .palette import class_palette, label_edges

_WHITE = 255
# Opacity of colours over the image; outlines are not blended.
_OPACITY = 0.55


def draw_regions(image_HWC: NDArray[np.uint8], record: RegionRecord) -> list[NDArray[np.uint8]]:
    """Draws one image's regions.

    Returns the image, uint8 (H, W, 3) RGB, of the record's size, then each label plane over it (pixels of the
    ignore label stay unchanged), then, if there are masks, all masks over it, small ones on top.
    """
    tiles = [image_HWC]
    for plane in record.labels:
        ignored = plane == record.ignore_label if record.ignore_label is not None else None
        tiles.append(_tinted(image_HWC, plane.astype(np.int64), ignored))
    if record.num_masks:
        masks = unpack_bits(record.mask_bits, record.num_masks)
        order = np.argsort(-masks.sum(axis=(1, 2)), kind="stable")
        painted = np.zeros(record.size, np.int64)
        for number, index in enumerate(order, start=1):
            painted[masks[index]] = number
        tiles.append(_tinted(image_HWC, painted, painted == 0))
    return tiles


def _tinted(
    image: NDArray[np.uint8], labels: NDArray[np.int64], ignored: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    """Tints the image with one colour per label and white outlines; ignored pixels are unchanged."""
    palette = class_palette()
    mixed = image * (1 - _OPACITY) + palette[labels % len(palette)] * _OPACITY
    mixed[label_edges(labels)] = _WHITE
    if ignored is not None:
        mixed[ignored] = image[ignored]
    return mixed.astype(np.uint8)
