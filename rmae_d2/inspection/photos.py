"""Examine a data set's image files: sizes, kinds, and whether they are readable at all.

Letters: H W pixels, C channels.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import ImageReadError
from ..files import read_bytes
from ..photos.bands import moments_of, statistics_of
from ..photos.reading import Photo
from ..pixels import kind_of

logger = logging.getLogger(__name__)

#: (rows, columns) of the grey thumbnail that distinguishes pictures.
THUMBNAIL = (8, 9)
#: Pixels along the shorter side of the image that the thumbnail is made from.
_LEAST = 4 * THUMBNAIL[1]
_SECONDS_BETWEEN_LINES = 10


class PhotoFacts(NamedTuple):
    """Facts about an image file."""

    file_name: str
    error: str = ""  #: why it is unreadable; all other fields are then empty
    size: tuple[int, int] = (0, 0)  #: (H, W), upright
    kind: str = ""  #: such as "JPEG, RGB"
    num_bytes: int = 0
    digest: bytes = b""  #: hash of the file
    thumbnail: bytes = b""  #: grey levels, row by row, see `THUMBNAIL`
    #: (3, C): count, sum and sum of squares of each channel's values
    moments: NDArray[np.float64] | None = None


def look_at(
    file_names: Sequence[str], measured: frozenset[str] = frozenset(), workers: int | None = None
) -> list[PhotoFacts]:
    """Decode images and describe them, in order; large JPEGs are decoded at a reduced size.

    Args:
        measured: the images whose moments are also taken; these are decoded in full, with all bands.
        workers: threads; by default one per core.

    Raises:
        OSError: an error of the machine rather than of a file.
    """
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        facts = pool.map(lambda name: _look_at(name, name in measured), file_names)
        return list(_told(facts, len(file_names)))


def _told(facts: Iterator[PhotoFacts], count: int) -> Iterator[PhotoFacts]:
    """Pass the facts through and log progress from time to time."""
    last = time.monotonic()
    for number, fact in enumerate(facts, 1):
        yield fact
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            logger.info("%d of %d images", number, count)


def _look_at(file_name: str, measure: bool) -> PhotoFacts:
    try:
        photo = Photo(file_name)
        small, raw = _small(photo), read_bytes(file_name)
        kind = _kind(raw, photo)
        moments = moments_of(photo.stored()) if measure else None
    except ImageReadError as error:
        return PhotoFacts(file_name, error.reason)
    grey = Image.fromarray(small).convert("L").resize(THUMBNAIL[::-1], Image.Resampling.BOX)
    digest = blake2b(raw, digest_size=16).digest()
    size = photo.shape[:2]
    return PhotoFacts(file_name, "", size, kind, len(raw), digest, grey.tobytes(), moments)


def _kind(raw: bytes, photo: Photo) -> str:
    """Like `kind_of`; files that Pillow cannot read are described by their bands."""
    try:
        return kind_of(raw)
    except UnidentifiedImageError:
        bands = photo.stored()
        return f"TIFF, {bands.shape[2]} bands, {'8 bits' if bands.dtype == np.uint8 else 'more than 8 bits'}"


def _small(photo: Photo) -> NDArray[np.uint8]:
    """The whole image, reduced to a size that is fast to decode and still recognizable."""
    divisors = (d for d in (8, 4, 2) if min(photo.shape[:2]) >= d * _LEAST)
    divisor = next(divisors, 1)
    return photo.at_scale(divisor) if photo.is_scalable and divisor > 1 else np.asarray(photo)


def mean_and_std(facts: Sequence[PhotoFacts]) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of each channel, over the pixels of all measured images.

    Raises:
        UserError: the images differ in their number of channels.
    """
    measured = [fact for fact in facts if fact.moments is not None]
    if not measured:
        return None
    return statistics_of((fact.file_name, fact.moments) for fact in measured)
