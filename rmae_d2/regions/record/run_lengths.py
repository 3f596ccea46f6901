"""Overlapping masks given as run counts, packed without ever being unpacked.

Run counts are lengths of runs in column-major order, background first, that fill the mask exactly, as
:func:`rmae_d2.annotations.segmentation.run_counts` gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .masks import Bytes, Ints, num_planes
from .record import RegionRecord


def largest_first(counts: Iterable[Ints], at_most: int | None = None) -> list[Ints]:
    """The masks by falling area, then by position: the same for any order of the input.

    Args:
        counts: run counts of masks of one size.
        at_most: how many to keep; None for all.
    """

    def key(mask: Ints) -> tuple[int, bytes]:
        return -int(mask[1::2].sum()), mask.astype(">i8").tobytes()

    return sorted(counts, key=key)[:at_most]


def record_of_counts(
    counts: Sequence[Ints], size: tuple[int, int], params: Mapping[str, Any]
) -> RegionRecord:
    """Record of overlapping masks given by run counts; never holds them unpacked."""
    labels = np.zeros((0, *size), np.uint8)
    return RegionRecord(labels, _pack(counts, size), len(counts), None, params)


def _pack(counts: Sequence[Ints], size: tuple[int, int]) -> Bytes:
    """What `pack_bits` makes of the masks, uint8 (ceil(M/8), H, W)."""
    height, width = size
    bits = np.empty((num_planes(len(counts)), height, width), np.uint8)
    for number, plane in enumerate(bits):
        # A mask's bit changes at the ends of its runs; adding changes up gives eight masks at once.
        changes = np.zeros(height * width + 1, np.uint8)
        for k, mask in enumerate(counts[8 * number : 8 * number + 8]):
            np.bitwise_xor.at(changes, np.cumsum(mask), np.uint8(1 << k))
        columns = np.bitwise_xor.accumulate(changes[:-1])
        plane[:] = columns.reshape(width, height).T
    return bits
