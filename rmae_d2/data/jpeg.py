"""Plain JPEGs through libjpeg-turbo by way of simplejpeg (``pip install rmae_d2[fast]``).

Pillow decodes with the same library and settings, so the pixels are the same; it then copies them
three times, which is where the time goes.
"""

from functools import cache
from types import ModuleType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image


def decode_plain_jpeg(file: BinaryIO, image: Image.Image) -> NDArray[np.uint8] | None:
    """Decodes an opened JPEG that needs nothing but decoding.

    Args:
        file: the whole file; is read from its beginning.
        image: the same, opened by Pillow and not yet loaded.

    Returns:
        (H, W, 3) RGB, writable; None where simplejpeg is not installed, for other formats than
        JPEG, for CMYK, for a picture to be turned, and for a file that is not quite right: Pillow
        then has the word, so that such files are treated the same with and without simplejpeg.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or _is_turned(image):
        return None
    if (simplejpeg := _simplejpeg()) is None:
        return None
    file.seek(0)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(file.read(), "RGB", strict=True)
    except ValueError:
        return None
    return pixels


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except MemoryError:
        raise
    except Exception:  # damaged EXIF, of which Pillow's way of reading makes what it can
        return True


@cache
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
