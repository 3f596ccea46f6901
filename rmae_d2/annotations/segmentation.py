"""COCO's segmentations, polygons or run lengths, in the two forms that COCO's own tools accept.

Run counts are lengths of runs in column-major order, background first, that fill the mask exactly.
pycocotools 2.0.11 decodes counts that end early into uninitialized memory, hangs on some damaged strings,
and fills the memory for polygons with NaN or very large coordinates: therefore everything reaches it only
through `read_mask`.
"""

import ast
import math
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .values import integer, number, parsed, shown

Ints = NDArray[np.int64]
#: Polygons [x0, y0, x1, y1, ...] with three points or more, or ``{"size": [H, W], "counts": bytes}``.
Mask: TypeAlias = list[list[float]] | dict[str, Any]

_SHORTEST_POLYGON = 6  # three points; pycocotools takes four numbers for a box
_LONGEST_COUNT = 12  # characters of a compressed count: 60 bits
_LONGEST_OUTLINE = 2e7  # pixels
_BYTES = "b'", 'b"'  # as printed by Python


def read_mask(segmentation: Any, size: tuple[int, int]) -> Mask | None:
    """Read a segmentation in an image of (H, W) pixels for Detectron2, pycocotools and faster-coco-eval.

    Args:
        segmentation: polygons `[[x0, y0, x1, y1, ...], ...]`; or run lengths `{"size", "counts"}` with
            counts as a list of numbers, or compressed as text or bytes. Also accepted: a polygon that is not
            nested in a list, points as [x, y] pairs, a list of run lengths (their union), numbers as text,
            and all of it as JSON text.

    Returns:
        polygons (floats; only those with three points or more) or compressed run lengths; None if there is no
        segmentation, no polygon with three points, or no pixel in the run lengths.

    Raises:
        UserError: what is wrong, as a clause whose subject is the segmentation.
    """
    found = parsed(segmentation)
    if found is None or (isinstance(found, str | list | Mapping) and not found):
        return None
    if isinstance(found, Mapping):
        return _compressed([_rle_counts(found, size)], size)
    if not isinstance(found, list):
        raise UserError(f"is {shown(found)}, it must be polygons or run lengths")
    if all(isinstance(part, Mapping) for part in found):
        return _compressed([_rle_counts(part, size) for part in found], size)
    polygons = [polygon for part in _nested(found) if (polygon := _polygon(part, size))]
    return polygons or None


def run_counts(segmentation: Any, size: tuple[int, int]) -> Ints | None:
    """Run counts of a segmentation in an image of (H, W) pixels; polygons as in pycocotools' `annToMask`.

    Arguments and errors are those of `read_mask`; None also if the polygons contain no pixel.
    """
    mask = read_mask(segmentation, size)
    if mask is None:
        return None
    counts = _decompressed(compressed(mask, size)["counts"])
    return counts if counts[1::2].any() else None


def compressed(mask: Mask, size: tuple[int, int]) -> dict[str, Any]:
    """Convert a mask from `read_mask` to run lengths for pycocotools, `{"size", "counts": bytes}`."""
    if isinstance(mask, dict):
        return mask
    from pycocotools import mask as mask_util

    merged: dict[str, Any] = mask_util.merge(mask_util.frPyObjects(mask, *size))
    return merged


def box_of(mask: Mask, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(x, y, width, height) of a mask from `read_mask`: the extent of its points, or of its pixels."""
    if isinstance(mask, list):
        x, y = (list(chain(*(polygon[axis::2] for polygon in mask))) for axis in (0, 1))
        return min(x), min(y), max(x) - min(x), max(y) - min(y)
    from pycocotools import mask as mask_util

    left, top, width, height = mask_util.toBbox(mask).tolist()
    return left, top, width, height


def _nested(found: list[Any]) -> list[Any]:
    """Normalize the usual nestings of polygons to a list of polygons."""
    if not any(isinstance(part, list | str) for part in found):
        return [found]  # the numbers of one polygon
    if all(isinstance(part, str) for part in found) and not any(
        isinstance(parsed(part), list) for part in found
    ):
        return [found]  # the numbers of one polygon, as text
    pairs = [part for part in found if isinstance(part, list) and len(part) == 2]
    if len(pairs) == len(found) >= 3 and not any(isinstance(x, list) for x in chain(*found)):
        return [found]  # the points of one polygon
    return found


def _polygon(polygon: Any, size: tuple[int, int]) -> list[float] | None:
    """The validated numbers of a polygon; None for fewer than three points, which have no area."""
    polygon = parsed(polygon)
    if isinstance(polygon, list) and len(polygon) == 1 and isinstance(polygon[0], list):
        polygon = polygon[0]  # nested in one list too many
    try:
        points = array("d", polygon)
    except (TypeError, OverflowError):
        points = array("d", _numbers(polygon))
    if len(points) % 2:
        raise UserError(f"has a polygon of {len(points)} numbers, not x and y for each point")
    if len(points) < _SHORTEST_POLYGON:
        return None
    # Real annotations exceed the border by a few pixels.
    side = max(size)
    if not math.isfinite(sum(points)) or min(points) < -side or max(points) > 2 * side:
        stray = next((x for x in points if not -side <= x <= 2 * side), sum(points))
        raise UserError(
            f"has a polygon with the coordinate {shown(stray)}, in an image of {size[1]}x{size[0]} pixels"
        )
    # pycocotools needs memory for each outline pixel; no real object's outline visits all pixels many times.
    longest = min(8 * (size[0] * size[1] + 4 * side), _LONGEST_OUTLINE)
    if 3 * side * len(points) > longest and (length := _outline(points)) > longest:
        raise UserError(
            f"has a polygon whose outline is {length:.0f} pixels long, in an image of {size[1]}x{size[0]}"
        )
    return points.tolist()


def _outline(points: "array[float]") -> float:
    places = np.array(points).reshape(-1, 2)
    return float(np.abs(places - np.roll(places, 1, axis=0)).max(axis=1).sum())


def _numbers(polygon: Any) -> list[float]:
    """The numbers of a polygon that is not a plain list of numbers: text, or points as pairs."""
    if not isinstance(polygon, list):
        raise UserError(f"has a polygon {shown(polygon)}, which is not a list of numbers")
    pairs = bool(polygon) and all(isinstance(point, list) and len(point) == 2 for point in polygon)
    try:
        return [number(x) for x in (chain(*polygon) if pairs else polygon)]
    except ValueError as error:
        raise UserError(f"has a polygon whose coordinate {error}") from error


def _compressed(parts: Sequence[Ints], size: tuple[int, int]) -> dict[str, Any] | None:
    """The union of masks with validated run counts; None if it has no pixel."""
    from pycocotools import mask as mask_util

    rles = mask_util.frPyObjects(
        [{"size": list(size), "counts": counts.tolist()} for counts in parts], *size
    )
    if not any(counts[1::2].any() for counts in parts):
        return None
    merged: dict[str, Any] = rles[0] if len(rles) == 1 else mask_util.merge(rles)
    return merged


def _rle_counts(rle: Mapping[str, Any], size: tuple[int, int]) -> Ints:
    _check_rle_size(rle.get("size"), size)
    counts = parsed(rle.get("counts"))
    if isinstance(counts, str) and counts.startswith(_BYTES):
        try:
            counts = ast.literal_eval(counts)
        except (ValueError, SyntaxError) as error:
            raise UserError(f"has run lengths {shown(counts)}, a damaged string") from error
    if isinstance(counts, str | bytes):
        lengths = _decompressed(counts)
    elif isinstance(counts, list):
        lengths = _counted(counts)
    else:
        raise UserError(f"has the counts {shown(counts)}, which are not a list of integers")
    pixels = size[0] * size[1]
    if (lengths < 0).any() or (lengths > pixels).any():
        raise UserError(f"has run lengths below 0 or above the image's {pixels} pixels")
    if lengths.sum() != pixels:
        raise UserError(
            f"has run lengths that add up to {lengths.sum()} pixels, the image has {pixels}"
        )
    return lengths


def _check_rle_size(found: Any, size: tuple[int, int]) -> None:
    """Check the size; run lengths without one are assumed to have the image's, and must add up to it."""
    if found is None:
        return
    try:
        same = [integer(x) for x in parsed(found)] == list(size)
    except (TypeError, ValueError):
        same = False
    if not same:
        raise UserError(
            f"has run lengths for size {shown(found)} (height, width), the image is {list(size)}"
        )


def _counted(counts: list[Any]) -> Ints:
    try:
        return np.array([c if type(c) is int else integer(c) for c in counts], np.int64, ndmin=1)
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"has run lengths that are not a list of integers ({error!s:.100})"
        ) from error


def _decompressed(text: str | bytes) -> Ints:
    """Decode COCO's string of counts: base-32 digits offset by 48, low digits first, bit 32 = more follow.

    From the fourth on, each number is the difference from the count two before it.
    """
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    digits = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise UserError("has run lengths that are a damaged or empty string")
    last = np.flatnonzero(digits & 32 == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    length = last - first + 1
    if length.max() > _LONGEST_COUNT:
        raise UserError("has run lengths that are a damaged string")
    place = 5 * (np.arange(len(digits)) - np.repeat(first, length))
    numbers = np.add.reduceat((digits & 31) << place, first)
    numbers -= np.where(digits[last] & 16, 1 << 5 * length, 0)
    # Sums of damaged numbers may wrap around; they are then out of range or have another total.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
