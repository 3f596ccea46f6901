"""User input, images and marks: limited, validated and never saved; nothing about it is trusted."""

import asyncio
import io
import json
import textwrap
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..pixels import upright_rgb

#: Pillow's decoders that uploads may reach. Browsers show all three formats; all others stay unreachable.
FORMATS = ("PNG", "JPEG", "WEBP")

MEGA = 1_000_000
MIN_SIDE = 8

#: Limit for a JPEG; progressive ones have about ten. Each scan costs a pass over the whole image.
MAX_SCANS = 100

UPLOAD_SECONDS = 120.0

BUSY = "The server is busy with other users: try again in a moment."

# A browser that is still sending does not read the answer: up to this multiple of the limit is dropped.
_DRAINED = 3


@dataclass(frozen=True)
class Limits:
    """What a user may ask of the server."""

    upload_bytes: int = 20 * MEGA
    pixels: int = 25 * MEGA
    regions: int = 8
    kept_images: int = 64  # of all users; the least recently used one is dropped

    @property
    def held_bytes(self) -> int:
        """Limit for all requests together that are being received or wait to be read."""
        return 10 * max(self.upload_bytes, MAX_BYTES)


class RefusedError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        message: what the user is told: one or two sentences, with the remedy.
        code: what the page reacts to, such as ``gone``; otherwise empty.
    """

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(status, message, code)
        self.status = status
        self.message = message
        self.code = code

    def __str__(self) -> str:
        return self.message


class Bodies:
    """The request bodies currently in memory.

    Args:
        most: limit in bytes for all of them together.
        seconds: time limit for receiving one.
    """

    def __init__(self, most: int, seconds: float = UPLOAD_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self.held = 0

    @asynccontextmanager
    async def read(self, chunks: AsyncIterable[bytes], limit: int) -> AsyncIterator[bytearray]:
        """Receive a body, counted as it arrives: no header is trusted. It is emptied after the block.

        Leftover references to it, such as an error's traceback, therefore hold no memory.

        Raises:
            RefusedError: the body is too large (413) or slow (408), or there is no room for it (503).
        """
        body = bytearray()
        try:
            try:
                await asyncio.wait_for(self._fill(body, chunks, limit), self._seconds)
            except asyncio.TimeoutError:  # Python 3.10 has two TimeoutErrors
                text = f"The upload took more than {self._seconds:g} seconds."
                raise RefusedError(408, text) from None
            yield body
        finally:
            self._drop(body)

    async def _fill(self, body: bytearray, chunks: AsyncIterable[bytes], limit: int) -> None:
        received, crowded = 0, False
        async for chunk in chunks:
            received += len(chunk)
            crowded = crowded or self.held + len(chunk) > self._most
            if received <= limit and not crowded:
                body += chunk
                self.held += len(chunk)
                continue
            self._drop(body)
            if received > _DRAINED * limit:
                break
        if received > limit:
            text = f"This file is too large: at most {limit / MEGA:g} MB are accepted. Save it smaller."
            raise RefusedError(413, text)
        if crowded:
            raise RefusedError(503, BUSY, "busy")

    def _drop(self, body: bytearray) -> None:
        self.held -= len(body)
        with suppress(BufferError):  # a decoder is still reading it: the server is shutting down
            body.clear()


def decode_image(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an upload as upright RGB, see `rmae_d2.data.read_image`.

    Raises:
        RefusedError: not a PNG, JPEG or WebP (415), too many pixels (413), too few, too many scans, or
            damaged (422).
    """
    too_many = (
        "This image has {} megapixels: at most "
        f"{max_pixels / MEGA:g} are accepted. Save it smaller."
    )
    if data.startswith(b"\xff\xd8") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        text = f"This JPEG has {scans} scans: at most {MAX_SCANS} are accepted. Save it anew."
        raise RefusedError(422, text)
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
    except Image.DecompressionBombError:  # Pillow's own, higher limit: it does not give the size
        raise RefusedError(413, too_many.format("hundreds of")) from None
    except MemoryError:
        text = "There is no memory left for this image. Save it smaller."
        raise RefusedError(503, text) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        reason = textwrap.shorten(str(error), 120, placeholder="…")
        raise RefusedError(422, f"This image is damaged or cut short ({reason}).") from error


#: Far more than the largest grid with all regions marked needs.
MAX_BYTES = 2_000_000
MAX_NAME = 200

Patch = tuple[int, int]
Place = tuple[float, float]


@dataclass(frozen=True)
class Marks:
    """Marked patches (row, column) of one region: inside it, and outside it."""

    positive: tuple[Patch, ...]
    negative: tuple[Patch, ...]
    places: Mapping[
        Patch, Place
    ]  # (y, x) in [0, 1) of patches that were clicked at a point; the others count as a whole
    box: tuple[Patch, Patch] | None = None  # first and last patch of a box around it


@dataclass(frozen=True)
class Query:
    """Regions to predict."""

    regions: tuple[Marks, ...]
    threshold: float  # lowest probability at which a pixel belongs to the mask
    chosen: int | None  # index of the region to write; None for all
    name: str  # the image's file name on the user's machine; only ever echoed


def parse_query(body: bytes | bytearray, grid: tuple[int, int], max_regions: int) -> Query:
    """Parse ``{"regions": [{"positive": [[row, column], ...], "negative": [...]}], "threshold": 0.5}``.

    A patch may be ``[row, column, y, x]``, with the clicked position in it, y and x from 0 to less than 1.
    A region may have a ``"box"``, its first and last patch, which limits its mask.
    ``"chosen"`` and ``"name"`` are optional, see `Query`.

    Raises:
        RefusedError: 400 if it is not a JSON object, 422 for invalid values; the text names the value.
    """
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The request is not JSON.") from None
    fields = _object(decoded, "the request", {"regions", "threshold", "chosen", "name"})
    given: Any = fields.get("regions")
    several = isinstance(given, list) and 1 <= len(given) <= max_regions
    _need(several, f"regions must be a list of 1 to {max_regions} regions.")
    regions = tuple(_marks(region, number, grid) for number, region in enumerate(given, 1))
    threshold = fields.get("threshold", 0.5)
    number = type(threshold) in (int, float) and 0 < threshold < 1  # excludes nan
    _need(number, "threshold must be a number between 0 and 1.")
    chosen, last = fields.get("chosen"), len(regions) - 1
    known = chosen is None or (type(chosen) is int and 0 <= chosen <= last)
    _need(known, f"chosen must be null or an index of regions, 0 to {last}.")
    name = fields.get("name", "")
    short = isinstance(name, str) and len(name) <= MAX_NAME
    _need(short, f"name must be a text of at most {MAX_NAME} characters.")
    return Query(regions, float(threshold), chosen, name)


def _need(fulfilled: bool, text: str, status: int = 422) -> None:
    if not fulfilled:
        raise RefusedError(status, text)


def _object(value: Any, what: str, known: set[str]) -> Mapping[str, Any]:
    _need(isinstance(value, dict), f"{what} must be a JSON object.", 400)
    unknown = sorted(value.keys() - known)
    _need(not unknown, f"{what} has an unknown field {''.join(unknown[:1])[:40]!r}.")
    return value


def _marks(value: Any, number: int, grid: tuple[int, int]) -> Marks:
    what = f"region {number}"
    fields = _object(value, what, {"positive", "negative", "box"})
    places: dict[Patch, Place] = {}
    positive, negative = (
        _patches(
            _without_places(fields.get(name, []), f"{what}, {name}", places),
            f"{what}, {name}",
            grid,
        )
        for name in ("positive", "negative")
    )
    _need(bool(positive), f"{what}: mark at least one patch as part of it.")
    for name, patches in (("positive", positive), ("negative", negative)):
        _need(len(set(patches)) == len(patches), f"{what}, {name}: a patch is given twice.")
    both = set(positive) & set(negative)
    _need(not both, f"{what}: patch {min(both, default=())} is both part and not part.")
    if fields.get("box") is None:
        return Marks(positive, negative, places)
    corners = _patches(fields["box"], f"{what}, box", grid)
    rising = len(corners) == 2 and all(a <= b for a, b in zip(*corners, strict=True))
    _need(rising, f"{what}: box must be two patches, first and last.")
    return Marks(positive, negative, places, (corners[0], corners[1]))


def _without_places(value: Any, what: str, places: dict[Patch, Place]) -> Any:
    """The bare patches; those with a position are recorded in ``places``."""
    if not isinstance(value, list):
        return value
    patches = []
    for item in value:
        if isinstance(item, list) and len(item) == 4:
            inside = all(type(x) in (int, float) and 0 <= x < 1 for x in item[2:])  # excludes nan
            _need(inside, f"{what}: a place in a patch is y and x from 0 to less than 1.")
            item, place = item[:2], (float(item[2]), float(item[3]))
            if [type(x) for x in item] == [int, int]:
                places[item[0], item[1]] = place
        patches.append(item)
    return patches


def _patches(value: Any, what: str, grid: tuple[int, int]) -> tuple[Patch, ...]:
    most = grid[0] * grid[1]
    few = isinstance(value, list) and len(value) <= most
    _need(few, f"{what} must be a list of at most {most} patches.")
    for item in value:
        pair = isinstance(item, list) and [type(x) for x in item] == [int, int]
        inside = pair and 0 <= item[0] < grid[0] and 0 <= item[1] < grid[1]
        known = f"{what}: a patch is [row, column] below {list(grid)}"
        _need(inside, f"{known}, not {json.dumps(item)[:40]}.")
    return tuple((row, column) for row, column in value)
