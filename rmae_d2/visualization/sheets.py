"""Sheets of pictures in rows and columns, with titles, as written by the picture tools."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import UserError
from ..files import atomic_file, make_folder

Picture = NDArray[np.uint8]

_GAP = 6
_FRAME = (190, 190, 190)
_LETTERS = 14


class SheetRow(NamedTuple):
    """A row of a sheet; None in place of a picture leaves its cell empty."""

    title: str
    pictures: Sequence[Picture | None]


def contact_sheet(
    rows: Sequence[SheetRow], titles: Sequence[str] = (), caption: str = "", side: int = 240
) -> Picture:
    """Arranges framed pictures in rows and columns, with titles for both and a caption at the bottom.

    All texts are wrapped to fit.

    Args:
        rows: may differ in picture sizes and in length; an empty title is omitted.
        titles: of the columns; empty for no title line.
        caption: empty for none.
        side: longest side of a picture on the sheet, in pixels.

    Returns:
        uint8 (height, width, 3) RGB.
    """
    columns = max(len(row.pictures) for row in rows)
    shown = [[None if p is None else _sized(p, side) for p in row.pictures] for row in rows]
    shown = [row + [None] * (columns - len(row)) for row in shown]
    widths = [
        max((p.width for p in column if p is not None), default=side)
        for column in zip(*shown, strict=True)
    ]
    lefts = [_GAP + sum(widths[:k]) + _GAP * k for k in range(columns)]
    total = sum(widths) + _GAP * (columns + 1)
    bands = []
    if titles:
        texts = [_wrapped(title, width) for title, width in zip(titles, widths, strict=True)]
        lines = max(map(len, texts))
        band = Image.new("RGB", (total, lines * _LETTERS + (lines + 1) * _GAP), "white")
        for text, left in zip(texts, lefts, strict=True):
            _write(band, text, (left, _GAP))
        bands.append(band)
    for row, pictures in zip(rows, shown, strict=True):
        if row.title:
            bands.append(_text(row.title, total))
        height = max((p.height for p in pictures if p is not None), default=0)
        band = Image.new("RGB", (total, height + _GAP), "white")
        for picture, left in zip(pictures, lefts, strict=True):
            if picture is not None:  # framed, because a white one would be invisible
                place = (left - 1, 0, left + picture.width, picture.height + 1)
                ImageDraw.Draw(band).rectangle(place, outline=_FRAME)
                band.paste(picture, (left, 1))
        bands.append(band)
    if caption:
        bands.append(_text(caption, total))
    return np.concatenate([np.asarray(band) for band in bands])


def save_picture(picture: Picture, path: Path, **options: Any) -> Path:
    """Writes a picture whole or not at all, creating its folder if needed; returns the path.

    Args:
        path: its extension sets the format.
        options: of Pillow for the format, such as ``quality``.

    Raises:
        UserError: if the disk is full or not writable, or the extension is unknown.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f"{path}: no format of pictures ends in {path.suffix!r}: take .png or .jpg")
    make_folder(path.parent)
    with atomic_file(path, durable=False) as file:
        Image.fromarray(picture).save(file, kind, **options)
    return path


def enlargement(height: int, width: int) -> float:
    """Factor that enlarges a picture to fit lines and letters: its long side to 640, at most 5 times."""
    return min(max(1.0, 640 / max(height, width)), 5.0)


def _sized(picture: Picture, side: int) -> Image.Image:
    """Scales to the side, small pictures first by integer factors, so that patches and pixels stay sharp."""
    image = Image.fromarray(picture)
    whole = -(-side // max(image.size))
    if whole > 1:
        image = image.resize((image.width * whole, image.height * whole), Image.Resampling.NEAREST)
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _text(text: str, total: int) -> Image.Image:
    lines = _wrapped(text, total - 2 * _GAP)
    band = Image.new("RGB", (total, (_LETTERS + _GAP) * len(lines) + _GAP), "white")
    _write(band, lines, (_GAP, _GAP // 2))
    return band


def _write(band: Image.Image, lines: Sequence[str], place: tuple[int, int]) -> None:
    for number, line in enumerate(lines):
        below = (place[0], place[1] + number * (_LETTERS + _GAP))
        ImageDraw.Draw(band).text(below, line, "black", _font())


def _wrapped(text: str, width: int) -> list[str]:
    """Wraps text to a width; a single longer word is shortened."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font().getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_cut(line, width) for line in lines]


def _cut(text: str, width: int) -> str:
    """Shortens text to a width, with an ellipsis."""
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_LETTERS)
