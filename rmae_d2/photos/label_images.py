"""Label images: one channel whose values are class indices, in the variants found in practice."""

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import AnnotationError, ImageReadError
from ..files import check_file, opened
from .reading import MACHINE_ERRNOS

#: The label of pixels without a class, as models and evaluators receive it.
IGNORE_LABEL = 255

#: Extensions of lossless formats.
LABEL_EXTENSIONS = (".png", ".tif", ".tiff", ".bmp")

#: Larger numbers do not fit into 8 bits together with `IGNORE_LABEL`.
MAX_CLASSES = 255


def read_labels(path: str, num_classes: int, zero_is_ignored: bool = False) -> NDArray[np.uint8]:
    """Read the labels of one image.

    In a palette image (mode "P", such as PASCAL VOC's), the values are the labels; the colours are only for
    viewers.

    Args:
        path: a PNG or another lossless file with one channel of 1 to 16 bits.
        num_classes: C.
        zero_is_ignored: whether 0 marks pixels without a class and the classes are 1 to C, as in ADE20K's
            official release; otherwise, classes are 0 to C - 1. In both cases 255 means no class.

    Returns:
        writable (H, W): classes 0 to C - 1, and `IGNORE_LABEL`.

    Raises:
        ImageReadError: the file cannot be read as an image.
        AnnotationError: it holds colours instead of labels, or a label out of range; the message gives the
            value and its position.
    """
    labels = _read(path)
    largest = num_classes if zero_is_ignored else num_classes - 1
    if labels.max(initial=0) > largest or labels.min(initial=0) < 0:
        wrong = ((labels > largest) | (labels < 0)) & (labels != IGNORE_LABEL)
        if wrong.any():
            first = int(zero_is_ignored)
            row, column = np.argwhere(wrong)[0]
            message = (
                f"{path} has the label {labels[row, column]} at row {row}, column {column} "
                f"({int(wrong.sum())} pixels are out of range, largest {labels[wrong].max()}). Allowed are "
                f"{first} to {largest} for the {num_classes} classes, and 255{' or 0' * first} for pixels "
                "without a class: set the right num_classes, or repair the file"
            )
            if not zero_is_ignored and labels[wrong].max() == num_classes:
                message += ". If 0 means no class, as in ADE20K's release, set dataset.zero_is_ignored=true"
            raise AnnotationError(message)
    if not zero_is_ignored:
        return labels.astype(np.uint8)
    table = np.arange(-1, 255, dtype=np.int16)
    table[[0, IGNORE_LABEL]] = IGNORE_LABEL
    return table.astype(np.uint8)[labels]


#: Factors by which Pillow scales grey of fewer than 8 bits, by its name for the stored pixels.
_WIDENED = {"L;2": 85, "L;4": 17}


def _read(path: str) -> NDArray[Any]:
    """The values as stored in the file, (H, W)."""
    try:
        check_file(path)
        with opened(path) as file, Image.open(file) as image:
            if not is_label_mode(image.mode):
                raise AnnotationError(
                    f"{path} holds {image.mode} pixels: colours or transparency, not class numbers. Save one "
                    "channel whose values are the classes (a palette PNG keeps colours for viewers)"
                )
            stored = _stored_mode(image)
            values = np.asarray(image)
    except (AnnotationError, MemoryError):
        raise
    except OSError as error:
        if error.errno in MACHINE_ERRNOS:
            raise
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ImageReadError(path, f"these labels cannot be read ({reason})") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise ImageReadError(path, f"it is damaged ({type(error).__name__}: {error})") from error
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    return values // _WIDENED.get(stored, 1)


def _stored_mode(image: Image.Image) -> str:
    """Pillow's name, such as "L;4", for the pixels of a file that is open but not yet loaded."""
    tiles: Any = getattr(image, "tile", None)
    how = tiles[0][3] if tiles else image.mode
    return str(how[0] if isinstance(how, tuple) else how)


def is_label_mode(mode: str) -> bool:
    """Whether Pillow's mode of an image means one channel of integers, as label images have."""
    return mode in ("L", "P", "1", "I") or mode.startswith("I;16")


def label_files(folder: str, paths: Iterable[str]) -> list[str]:
    """The given files below a folder that look like label images: lossless, one channel."""
    found = []
    for path in paths:
        if os.path.splitext(path)[1].lower() in LABEL_EXTENSIONS:
            with suppress(OSError, SyntaxError), Image.open(os.path.join(folder, path)) as image:
                if is_label_mode(image.mode):
                    found.append(path)
    return found
