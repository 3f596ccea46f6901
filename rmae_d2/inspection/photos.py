"""What a data set's image files are: sizes, kinds, and whether they can be read at all.

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
from PIL import Image

from ..errors import ImageReadError
from ..files import read_bytes
from ..photos.reading import Photo
from ..pixels import kind_of

logger = logging.getLogger(__name__)

#: (rows, columns) of grey that tell one picture from another.
THUMBNAIL = (8, 9)
#: Pixels along the shorter side that a picture is known by.
_LEAST = 4 * THUMBNAIL[1]
_SECONDS_BETWEEN_LINES = 10


class PhotoFacts(NamedTuple):
    """What there is to know of one image file."""

    file_name: str
    error: str = ""  #: why it cannot be read; all that follows is then empty
    size: tuple[int, int] = (0, 0)  #: (H, W), upright
    kind: str = ""  #: such as "JPEG, RGB"
    num_bytes: int = 0
    digest: bytes = b""  #: of the file
    thumbnail: bytes = b""  #: grey levels, row by row, see `THUMBNAIL`
    histogram: NDArray[np.int64] | None = (
        None  #: (C, 256), how often each value stands in a channel
    )


def look_at(
    file_names: Sequence[str], histograms: frozenset[str] = frozenset(), workers: int | None = None
) -> list[PhotoFacts]:
    """Decodes images and says what they are, in their order; large JPEGs at a part of their size.

    Args:
        histograms: of which images the values are counted, too; these are decoded whole.
        workers: threads; by default one per core.

    Raises:
        OSError: trouble of the machine rather than of a file.
    """
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        facts = pool.map(lambda name: _look_at(name, name in histograms), file_names)
        return list(_told(facts, len(file_names)))


def _told(facts: Iterator[PhotoFacts], count: int) -> Iterator[PhotoFacts]:
    """The same, with a line from time to time."""
    last = time.monotonic()
    for number, fact in enumerate(facts, 1):
        yield fact
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            logger.info("%d of %d images", number, count)


def _look_at(file_name: str, with_histogram: bool) -> PhotoFacts:
    try:
        photo = Photo(file_name)
        small = np.asarray(photo) if with_histogram else _small(photo)
        raw = read_bytes(file_name)
    except ImageReadError as error:
        return PhotoFacts(file_name, error.reason)
    grey = Image.fromarray(small).convert("L").resize(THUMBNAIL[::-1], Image.Resampling.BOX)
    return PhotoFacts(
        *(file_name, "", photo.shape[:2], kind_of(raw), len(raw)),
        *(blake2b(raw, digest_size=16).digest(), grey.tobytes()),
        _histogram(small) if with_histogram else None,
    )


def _small(photo: Photo) -> NDArray[np.uint8]:
    """All of an image, in as few pixels as are quickly had and still show it."""
    divisors = (d for d in (8, 4, 2) if min(photo.shape[:2]) >= d * _LEAST)
    divisor = next(divisors, 1)
    return photo.at_scale(divisor) if photo.is_scalable and divisor > 1 else np.asarray(photo)


def _histogram(image_HWC: NDArray[np.uint8]) -> NDArray[np.int64]:
    channels = np.moveaxis(image_HWC, -1, 0).reshape(image_HWC.shape[-1], -1)
    return np.stack([np.bincount(channel, minlength=256) for channel in channels])


def mean_and_std(facts: Sequence[PhotoFacts]) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of the channels' values (0-255), over the pixels of all histograms."""
    counts = [fact.histogram for fact in facts if fact.histogram is not None]
    if not counts:
        return None
    total_C256 = np.sum(counts, axis=0).astype(np.float64)
    shares = total_C256 / total_C256.sum(axis=1, keepdims=True)
    mean = shares @ np.arange(256)
    variance = (shares * (np.arange(256) - mean[:, None]) ** 2).sum(axis=1)
    return mean.tolist(), np.sqrt(variance).tolist()
