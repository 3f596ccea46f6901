"""COCO's segmentations, polygons or run lengths, as run counts.

Run counts are lengths of runs in column-major order, background first, that
fill the mask exactly. pycocotools turns polygons into them; it gets neither run lengths nor odd
polygons from a file. Version 2.0.11 decodes counts that end early into uninitialised memory and
crashes on a polygon with NaN or very large coordinates.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Ints = NDArray[np.int64]

_SHORTEST_POLYGON = 6  # three points; pycocotools takes four numbers for a box
_LONGEST_COUNT = 12  # characters of a compressed count: 60 bits


def run_counts(segmentation: Any, size: tuple[int, int]) -> Ints | None:
    """Run counts of one segmentation of an image of (H, W) pixels.

    Args:
        segmentation: list of polygons `[x0, y0, x1, y1, ...]`, joined as by pycocotools' `annToMask`,
            or run lengths `{"size", "counts"}` with counts as a list, or compressed as str or bytes.
        size: (H, W) of the image.

    Returns:
        Counts; None where there is no polygon of three points or more, or no pixel in the mask.
        UserError: what is wrong, a clause without the file's name.
    """
    if isinstance(segmentation, Mapping):
        counts = _rle_counts(segmentation, size)
    elif isinstance(segmentation, list):
        polygons = [_polygon(polygon, size) for polygon in segmentation if not is_short(polygon)]
        if not polygons:
            return None
        from pycocotools import mask as mask_util

        counts = _rle_counts(mask_util.merge(mask_util.frPyObjects(polygons, *size)), size)
    else:
        raise UserError(
            f"segmentation is {type(segmentation).__name__}, it must be polygons or run lengths"
        )
    return counts if counts[1::2].any() else None


def is_short(polygon: Any) -> bool:
    """Whether a polygon has fewer than three points, and so no area."""
    return isinstance(polygon, list) and len(polygon) < _SHORTEST_POLYGON


def _polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
    try:
        points: NDArray[np.float64] = np.asarray(polygon, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"a polygon is not a list of numbers ({error})") from error
    if points.ndim != 1 or len(points) % 2:
        raise UserError(f"a polygon has {points.size} numbers, not x and y for each point")
    # Real annotations stray a few pixels over the border.
    low, high = -max(size), 2 * max(size)
    if not (np.isfinite(points).all() and low <= points.min() and points.max() <= high):
        raise UserError(
            f"a polygon has coordinates from {points.min()} to {points.max()} in an image of "
            f"{size[1]}x{size[0]} pixels"
        )
    return points.tolist()


def _rle_counts(rle: Mapping[str, Any], size: tuple[int, int]) -> Ints:
    found = rle.get("size")
    if not isinstance(found, list | tuple) or list(found) != list(size):
        raise UserError(
            f"run lengths are for size {found} (height, width), the image is {list(size)}"
        )
    counts = rle.get("counts")
    if isinstance(counts, str | bytes):
        lengths = _decompressed(counts)
    else:
        try:
            lengths = np.array(counts, np.int64, ndmin=1)
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"run lengths are no list of integers ({error})") from error
    pixels = size[0] * size[1]
    if lengths.ndim != 1 or (lengths < 0).any() or (lengths > pixels).any():
        raise UserError(f"run lengths must be single numbers from 0 to {pixels}")
    if lengths.sum() != pixels:
        raise UserError(f"run lengths add up to {lengths.sum()} pixels, the image has {pixels}")
    return lengths


def _decompressed(text: str | bytes) -> Ints:
    """Counts of COCO's string: base-32 digits from 48 on, low digits first, bit 32 = more follow.

    From the fourth on, a number is the difference from the count two before it.
    """
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    digits = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise UserError("run lengths are a damaged or empty string")
    last = np.flatnonzero(digits & 32 == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    length = last - first + 1
    if length.max() > _LONGEST_COUNT:
        raise UserError("run lengths are a damaged string")
    place = 5 * (np.arange(len(digits)) - np.repeat(first, length))
    numbers = np.add.reduceat((digits & 31) << place, first)
    numbers -= np.where(digits[last] & 16, 1 << 5 * length, 0)
    # Sums of damaged numbers may wrap around; they are then out of range or of another total.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
