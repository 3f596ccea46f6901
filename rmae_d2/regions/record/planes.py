"""Label planes (H, W): their type, their pixels under a resize, the regions counted on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import UserError
from .codec import LABEL_DTYPES, Labels
from .masks import Bools, Bytes, Ints, describe


@dataclass(frozen=True, eq=False)
class RegionTable:
    """The N distinct regions present in a record, planes in order, labels rising.

    Attributes:
        plane: int64 (N,): 0..S-1 is a label plane, S means the overlapping masks.
        label: int64 (N,): label in its plane, or index of the overlapping mask.
        area: int64 (N,): pixels, never 0.
    """

    plane: Ints
    label: Ints
    area: Ints

    def __len__(self) -> int:
        return len(self.area)


def narrow_labels(labels: NDArray[np.integer[Any]]) -> Labels:
    """The same labels in the smallest of uint8, uint16, uint32 that holds their maximum."""
    if labels.dtype.kind not in "iu":
        raise UserError(f"labels must be integers, got {describe(labels)}; masks: from_masks")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for dtype in LABEL_DTYPES:
        if low >= 0 and high <= np.iinfo(dtype).max:
            return labels.astype(dtype, copy=False)
    raise UserError(f"labels must lie in 0..{2**32 - 1}, got {low}..{high}; renumber them")


def nearest_indices(length: int, new_length: int) -> Ints:
    """For each of new_length pixels the one of length that nearest-neighbour resizing takes.

    torch's rule: floor(i * length / new_length), scale and product in float32; float64 picks other
    pixels now and then.
    """
    step = np.float32(length) / np.float32(new_length)
    indices = np.floor(np.arange(new_length, dtype=np.float32) * step).astype(np.int64)
    return np.minimum(indices, length - 1)


def pixel_indices(indices: ArrayLike, length: int) -> Ints:
    """Indices of rows or columns as a fresh int64 (n,) array, n > 0.

    Raises:
        IndexError: none, more than one axis, no integers, or one outside 0..length-1.
    """
    given = np.asarray(indices)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu":
        raise IndexError(f"rows and columns must be non-empty 1-d integers, got {describe(given)}")
    low, high = given.min(), given.max()
    if low < 0 or high >= length:
        raise IndexError(f"row or column index {low}..{high}: there are {length}")
    return given.astype(np.int64, order="C")


def map_label_plane(plane: Labels, fn: Callable[[Bytes], Bytes]) -> Labels:
    """`fn` of a label plane, one byte of the labels at a time; see `RegionRecord.map_planes`."""
    parts = []
    for shift in range(0, 8 * plane.dtype.itemsize, 8):
        byte = fn(np.ascontiguousarray((plane >> shift).astype(np.uint8)))
        if byte.ndim != 2 or byte.dtype != np.uint8:
            raise UserError(f"fn must return a uint8 (H, W) plane, got {describe(byte)}")
        parts.append(byte.astype(plane.dtype) << shift)
    joined: Labels = np.bitwise_or.reduce(parts)
    return joined


def count_labels(plane: Labels, ignore_label: int | None) -> tuple[Ints, Ints]:
    """Labels present but for the ignored one, rising, and the pixels of each; int64 (n,) both."""
    if plane.dtype.itemsize > 2:  # a histogram over 32-bit labels could need gigabytes
        values, area = np.unique(plane, return_counts=True)
        label = values.astype(np.int64)
    else:
        histogram = np.bincount(plane.ravel())
        label = np.flatnonzero(histogram)
        area = histogram[label]
    kept = label != ignore_label if ignore_label is not None else slice(None)
    return label[kept], area[kept]


def table_of_counts(counts: list[tuple[Ints, Ints]], mask_areas: Ints) -> RegionTable:
    """Table from what `count_labels` gives of each label plane, and the masks' areas (M,)."""
    present = np.flatnonzero(mask_areas)
    counts = [*counts, (present, mask_areas[present])]
    plane = np.repeat(np.arange(len(counts), dtype=np.int64), [len(area) for _, area in counts])
    label, area = (np.concatenate(column) for column in zip(*counts, strict=True))
    return RegionTable(plane, label, area)


def table_of_histograms(
    histograms: Ints, ignore_label: int | None, mask_areas: Ints
) -> RegionTable:
    """As `table_of_counts`, from the pixels of each label below 256, int64 (S, 256)."""
    plane, label = np.nonzero(histograms)
    if ignore_label is not None:
        kept = label != ignore_label
        plane, label = plane[kept], label[kept]
    area = histograms[plane, label]
    present = np.flatnonzero(mask_areas)
    if len(present):
        plane = np.concatenate([plane, np.full(len(present), len(histograms))])
        label = np.concatenate([label, present])
        area = np.concatenate([area, mask_areas[present]])
    return RegionTable(plane, label, area)


def label_coverage(plane: Labels, wanted: Ints, patch: int) -> Bools:
    """Bool (K, L) for K labels of one plane; looks only where a run or a patch begins."""
    grid_w = plane.shape[1] // patch
    starts = np.ones(plane.shape, np.bool_)
    np.not_equal(plane[:, 1:], plane[:, :-1], out=starts[:, 1:])
    starts[:, ::patch] = True
    y, x = np.nonzero(starts)
    labels, row_of_wanted = np.unique(wanted, return_inverse=True)
    values = plane[y, x].astype(np.int64)
    row = np.searchsorted(labels, values).clip(max=len(labels) - 1)
    hit = labels[row] == values
    covered = np.zeros((len(labels), plane.size // patch**2), np.bool_)
    covered[row[hit], (y[hit] // patch) * grid_w + x[hit] // patch] = True
    return covered[row_of_wanted]
