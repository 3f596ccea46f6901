"""Uploaded images: limited in bytes while they arrive and in pixels before they are decoded.

Nothing of an upload is saved, and its name plays no part: what counts is what the bytes are.
"""

import io
from collections.abc import AsyncIterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..data.images import upright_rgb

#: Pillow's decoders that may see an upload. Browsers show all three; the other formats stay unreachable.
FORMATS = ("PNG", "JPEG", "WEBP")

MEGA = 1_000_000
MIN_SIDE = 8

# A browser that is still sending does not read the answer: so much more than the limit is read and dropped.
_DRAINED = 3


@dataclass(frozen=True)
class Limits:
    """What one user may ask of the server.

    Attributes:
        upload_bytes: of an image file.
        pixels: of an image.
        regions: of one prediction.
        kept_images: images of all users whose encodings are kept; the one unused for longest goes.
    """

    upload_bytes: int = 20 * MEGA
    pixels: int = 25 * MEGA
    regions: int = 8
    kept_images: int = 64


class RefusedError(Exception):
    """A request that is not carried out.

    Attributes:
        status: the HTTP status.
        message: what the user is told: one or two sentences with the remedy.
        code: what the page acts upon, such as ``gone``; otherwise empty.
    """

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


async def read_body(chunks: AsyncIterable[bytes], limit: int) -> bytes:
    """A request's body, counted as it arrives: no header is believed.

    Raises:
        RefusedError: more than ``limit`` bytes (413).
    """
    body = bytearray()
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received <= limit:
            body += chunk
        elif received > _DRAINED * limit:
            break
    if received > limit:
        raise RefusedError(
            413,
            f"This file is too large: at most {limit / MEGA:g} MB are accepted. Save it smaller.",
        )
    return bytes(body)


def decode_image(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """An upload as upright RGB, see :func:`rmae_d2.data.read_image`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        RefusedError: no PNG, JPEG or WebP (415), too many pixels (413), too few or damaged (422).
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, max_pixels)
            image.load()
            return upright_rgb(image)
    except RefusedError:
        raise
    except UnidentifiedImageError:
        known = (
            "This file is not an image: PNG, JPEG and WebP are accepted, whatever the file's name."
        )
        raise RefusedError(415, known) from None
    except Image.DecompressionBombError:  # Pillow's own limit lies above: it does not tell the size
        raise RefusedError(413, _too_many("hundreds of", max_pixels)) from None
    except MemoryError:
        raise RefusedError(
            503, "There is no memory left for this image. Save it smaller."
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise RefusedError(
            422, f"This image is damaged or cut short ({_shortened(str(error))})."
        ) from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        count = f"{width} × {height} = {width * height / MEGA:.0f}"
        raise RefusedError(413, _too_many(count, max_pixels))
    if min(size) < MIN_SIDE:
        raise RefusedError(
            422,
            f"This image has {width} × {height} pixels: each side needs at least {MIN_SIDE}.",
        )


def _too_many(count: str, max_pixels: int) -> str:
    return (
        f"This image has {count} megapixels: at most {max_pixels / MEGA:g} are accepted. "
        "Save it smaller."
    )


def _shortened(text: str, length: int = 120) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
