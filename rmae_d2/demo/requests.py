"""What users send, images and marks: limited, checked, and not saved; nothing is assumed of it."""

import io
import json
import textwrap
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from typing import Any

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
    """What one user may ask of the server."""

    upload_bytes: int = 20 * MEGA
    pixels: int = 25 * MEGA
    regions: int = 8
    kept_images: int = 64  # of all users; the one unused for longest goes


class RefusedError(Exception):
    """A request that is not carried out.

    Args:
        status: HTTP's.
        message: what the user is told: one or two sentences with the remedy.
        code: what the page acts upon, such as ``gone``; otherwise empty.
    """

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


async def read_body(chunks: AsyncIterable[bytes], limit: int) -> bytes:
    """A request's body, counted as it arrives: no header is believed."""
    body = bytearray()
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received <= limit:
            body += chunk
        elif received > _DRAINED * limit:
            break
    if received > limit:
        text = f"This file is too large: at most {limit / MEGA:g} MB are accepted. Save it smaller."
        raise RefusedError(413, text)
    return bytes(body)


def decode_image(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """An upload as upright RGB, see :func:`rmae_d2.data.read_image`.

    Raises:
        RefusedError: no PNG, JPEG or WebP (415), too many pixels (413), too few or damaged (422).
    """
    too_many = (
        "This image has {} megapixels: at most "
        f"{max_pixels / MEGA:g} are accepted. Save it smaller."
    )
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                count = f"{width} × {height} = {width * height / MEGA:.0f}"
                raise RefusedError(413, too_many.format(count))
            if min(width, height) < MIN_SIDE:
                text = f"This image has {width} × {height} pixels: each side needs at least {MIN_SIDE}."
                raise RefusedError(422, text)
            image.load()
            return upright_rgb(image)
    except RefusedError:
        raise
    except UnidentifiedImageError:
        known = "PNG, JPEG and WebP are accepted, whatever the file's name"
        raise RefusedError(415, f"This file is not an image: {known}.") from None
    except Image.DecompressionBombError:  # Pillow's own limit lies above: it does not tell the size
        raise RefusedError(413, too_many.format("hundreds of")) from None
    except MemoryError:
        text = "There is no memory left for this image. Save it smaller."
        raise RefusedError(503, text) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        reason = textwrap.shorten(str(error), 120, placeholder="…")
        raise RefusedError(422, f"This image is damaged or cut short ({reason}).") from error


#: Far above what the largest grid with all regions marked needs.
MAX_BYTES = 2_000_000
MAX_NAME = 200

Patch = tuple[int, int]


@dataclass(frozen=True)
class Marks:
    """Patches (row, column) of one region: part of it, and not part of it."""

    positive: tuple[Patch, ...]
    negative: tuple[Patch, ...]


@dataclass(frozen=True)
class Query:
    """Regions to predict.

    Attributes:
        threshold: probability from which on a pixel belongs to the mask.
        chosen: the region to write, an index of ``regions``; None for all.
        name: of the image's file, as the user's machine calls it; only ever repeated.
    """

    regions: tuple[Marks, ...]
    threshold: float
    chosen: int | None
    name: str


def parse_query(body: bytes, grid: tuple[int, int], max_regions: int) -> Query:
    """Reads ``{"regions": [{"positive": [[row, column], ...], "negative": [...]}], "threshold": 0.5}``.

    ``"chosen"`` and ``"name"`` may be there too, see :class:`Query`.

    Raises:
        RefusedError: 400 for what is no JSON object, 422 for values; the text names the value.
    """
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The request is not JSON.") from None
    fields = _object(decoded, "the request", {"regions", "threshold", "chosen", "name"})
    given = fields.get("regions")
    if not isinstance(given, list) or not 1 <= len(given) <= max_regions:
        raise RefusedError(422, f"regions must be a list of 1 to {max_regions} regions.")
    regions = tuple(_marks(region, number, grid) for number, region in enumerate(given, 1))
    threshold = fields.get("threshold", 0.5)
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not number or not 0 < threshold < 1:  # nan neither
        raise RefusedError(422, "threshold must be a number between 0 and 1.")
    chosen = fields.get("chosen")
    if chosen is not None and not (type(chosen) is int and 0 <= chosen < len(regions)):
        text = f"chosen must be null or the index of one of the {len(regions)} regions."
        raise RefusedError(422, text)
    name = fields.get("name", "")
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise RefusedError(422, f"name must be a text of at most {MAX_NAME} characters.")
    return Query(regions, float(threshold), chosen, name)


def _object(value: Any, what: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(400, f"{what} must be a JSON object.")
    if unknown := sorted(value.keys() - known):
        raise RefusedError(422, f"{what} has an unknown field {unknown[0][:40]!r}.")
    return value


def _marks(value: Any, number: int, grid: tuple[int, int]) -> Marks:
    fields = _object(value, f"region {number}", {"positive", "negative"})
    positive, negative = (
        _patches(fields.get(name, []), f"region {number}, {name}", grid)
        for name in ("positive", "negative")
    )
    if not positive:
        raise RefusedError(422, f"region {number}: mark at least one patch as part of it.")
    if both := set(positive) & set(negative):
        raise RefusedError(422, f"region {number}: patch {min(both)} is both part and not part.")
    return Marks(positive, negative)


def _patches(value: Any, what: str, grid: tuple[int, int]) -> tuple[Patch, ...]:
    if not isinstance(value, list) or len(value) > grid[0] * grid[1]:
        raise RefusedError(422, f"{what} must be a list of at most {grid[0] * grid[1]} patches.")
    patches = []
    for item in value:
        ok = isinstance(item, list) and len(item) == 2 and all(type(x) is int for x in item)
        if not ok or not (0 <= item[0] < grid[0] and 0 <= item[1] < grid[1]):
            known = f"a patch is [row, column] below [{grid[0]}, {grid[1]}]"
            raise RefusedError(422, f"{what}: {known}, not {json.dumps(item)[:40]}.")
        patches.append((item[0], item[1]))
    if len(set(patches)) < len(patches):
        raise RefusedError(422, f"{what}: a patch is there twice.")
    return tuple(patches)
