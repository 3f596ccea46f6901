"""Visualized semantic segmentation: classes in colours over the photo, and a legend."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .palette import class_palette, label_edges
from .sheets import enlargement

# Opacity of colours over the image; edges between classes are opaque.
_OPACITY = 0.55
# Letter size as a fraction of the picture's long side, in pixels.
_LETTERS = 1 / 42
_SMALLEST_LETTERS = 13
# Fraction of the picture's width that the legend may take; letters shrink to fit.
_WIDEST_LEGEND = 0.6
_LONGEST_NAME = 32


def draw_semantic(
    image_HWC: NDArray[np.uint8], labels_HW: NDArray[np.uint8], class_names: Sequence[str]
) -> NDArray[np.uint8]:
    """Draws every class in its colour over the photo, next to the names of those present.

    Args:
        image_HWC: uint8 (H, W, 3) RGB.
        labels_HW: uint8, class indices.
        class_names: by class index; must contain all of them.

    Returns:
        uint8 RGB, with the photo at the top left: (H, W), enlarged to a long side of 640 pixels if it
        is smaller, at most five times. The legend follows on the right, by area, with percentages; if it
        is longer than the photo, the rest below the photo is white.
    """
    height, width = labels_HW.shape
    scale = enlargement(height, width)
    size = (round(width * scale), round(height * scale))
    photo = Image.fromarray(image_HWC).resize(size, Image.Resampling.BICUBIC)
    labels = np.asarray(Image.fromarray(labels_HW).resize(size, Image.Resampling.NEAREST))
    colours = class_palette()[labels]
    mixed = np.array(Image.blend(photo, Image.fromarray(colours), _OPACITY))
    edges = label_edges(labels)
    mixed[edges] = colours[edges]
    legend = _legend(labels_HW, class_names, size)
    canvas = Image.new("RGB", (size[0] + legend.width, max(size[1], legend.height)), "white")
    canvas.paste(Image.fromarray(mixed), (0, 0))
    canvas.paste(legend, (size[0], 0))
    return np.asarray(canvas)


def _legend(
    labels_HW: NDArray[np.uint8], class_names: Sequence[str], picture: tuple[int, int]
) -> Image.Image:
    """Draws lines of colour, share and name, in as many columns as the picture's (width, height) needs."""
    counts = np.bincount(labels_HW.reshape(-1))
    numbers = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    texts = []
    for number in numbers:
        share, name = counts[number] / labels_HW.size, class_names[number].strip()
        if len(name) > _LONGEST_NAME:
            name = f"{name[: _LONGEST_NAME - 1]}…"
        texts.append(f"{'<0.1%' if share < 0.001 else f'{share:.1%}'}  {name}")
    letters = max(_SMALLEST_LETTERS, round(max(picture) * _LETTERS))
    widest = _WIDEST_LEGEND * picture[0]
    while letters > _SMALLEST_LETTERS and _columns(texts, letters, picture)[2] > widest:
        letters = max(_SMALLEST_LETTERS, round(0.8 * letters))
    rows, column, width = _columns(texts, letters, picture)
    line, gap = _line(letters), letters // 2
    legend = Image.new("RGB", (width, line * min(rows, len(texts)) + 2 * gap), "white")
    draw = ImageDraw.Draw(legend)
    font = ImageFont.load_default(size=letters)
    for place, (colour, text) in enumerate(
        zip(class_palette()[numbers].tolist(), texts, strict=True)
    ):
        left, top = column * (place // rows) + gap, line * (place % rows) + gap
        draw.rectangle((left, top, left + letters - 1, top + letters - 1), fill=tuple(colour))
        draw.text((left + letters + gap, top + letters // 2), text, "black", font, anchor="lm")
    return legend


def _columns(texts: Sequence[str], letters: int, picture: tuple[int, int]) -> tuple[int, int, int]:
    """Computes lines per column, its width and that of the whole legend, in pixels."""
    font, gap = ImageFont.load_default(size=letters), letters // 2
    # The legend may be higher than a low picture, because columns take width.
    rows = max(1, (max(picture[1], round(0.4 * picture[0])) - 2 * gap) // _line(letters))
    column = 3 * gap + letters + max(int(font.getlength(text)) + 1 for text in texts)
    return rows, column, column * -(-len(texts) // rows) + gap


def _line(letters: int) -> int:
    return round(letters * 1.6)
