"""Regions one can look at: an image beside its label planes and masks in colours."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..regions import RegionRecord, unpack_bits

_GAP = 4
_HEADER = 18
_WHITE = 255
# Share of the colour over the image; outlines are not mixed.
_OPACITY = 0.55


def draw_regions(image_HWC: NDArray[np.uint8], record: RegionRecord) -> list[NDArray[np.uint8]]:
    """Pictures of one image's regions.

    Args:
        image_HWC: uint8 (H, W, 3) RGB, of the record's size.
        record: what to draw; pixels of its ignore label stay as they are.

    Returns:
        the image, then each label plane over it, then, where there are masks, all masks over it,
        small ones on top; each uint8 (H, W, 3).
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


def contact_sheet(
    rows: list[tuple[str, list[NDArray[np.uint8]]]], side: int = 240
) -> NDArray[np.uint8]:
    """Rows of pictures, each under its title, in one picture.

    Args:
        rows: title and pictures, uint8 (H, W, 3), of each row; rows may differ in length.
        side: longest side of a picture on the sheet, in pixels.

    Returns:
        uint8 (height, width, 3).
    """
    made = [_row(title, tiles, side) for title, tiles in rows]
    width = max(row.shape[1] for row in made)
    padded = [
        np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=_WHITE)
        for row in made
    ]
    return np.concatenate(padded)


def _tinted(
    image: NDArray[np.uint8], labels: NDArray[np.int64], ignored: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    """The image under a colour a label, with white outlines; ignored pixels keep theirs."""
    values, index = np.unique(labels, return_inverse=True)
    colours = _colours(values)[index.reshape(labels.shape)]
    mixed = image * (1 - _OPACITY) + colours * _OPACITY
    outline = np.zeros(labels.shape, np.bool_)
    outline[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    outline[1:] |= labels[1:] != labels[:-1]
    mixed[outline] = _WHITE
    if ignored is not None:
        mixed[ignored] = image[ignored]
    return mixed.astype(np.uint8)


def _colours(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, 3) colours: hues a golden-ratio step apart, so that neighbouring labels differ."""
    hue = values * 0.618034 % 1.0
    offset = np.array([5, 3, 1]) / 6
    wave = np.abs((hue[:, None] + offset) % 1.0 * 6 - 3) - 1
    return 40 + 215 * wave.clip(0, 1)


def _row(title: str, tiles: list[NDArray[np.uint8]], side: int) -> NDArray[np.uint8]:
    small = [_shrunk(tile, side) for tile in tiles]
    gap = np.full((small[0].shape[0], _GAP, 3), _WHITE, np.uint8)
    pieces: list[NDArray[Any]] = [piece for tile in small for piece in (tile, gap)]
    body = np.concatenate(pieces, axis=1)
    header = Image.new("RGB", (body.shape[1], _HEADER), "white")
    ImageDraw.Draw(header).text((2, 3), title, fill="black", font=ImageFont.load_default())
    space = np.full((_GAP, body.shape[1], 3), _WHITE, np.uint8)
    return np.concatenate([np.asarray(header), body, space])


def _shrunk(tile: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = tile.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.LANCZOS))
