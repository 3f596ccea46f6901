"""`codec.gather_runs` compiled by numba: decodes runs directly into the pixels of a crop."""

import numpy as np

from ..jit import compiled
from .masks import Bytes, Ints

RUNS_DO_NOT_FILL = 1
NOT_MONOTONE = 2
_BLOCK = 16


@compiled
def gather_runs(
    stream: Bytes,
    height: int,
    width: int,
    rows: Ints,
    columns: Ints,
    planes: Bytes,
    histograms: Ints,
) -> int:
    """Fill planes with the pixels at some rows and columns of run-coded uint8 planes.

    Reads every run once, and writes only where a run meets a wanted row.

    Args:
        stream: uint8 (3 * n,): low bytes of the run lengths, high bytes, values.
        height: H of the coded planes.
        width: W of the coded planes.
        rows: (h,), within 0..H-1, non-decreasing.
        columns: (w,), within 0..W-1, non-decreasing or non-increasing (after a flip).
        planes: uint8 (S, h, w), C-contiguous, written.
        histograms: int64 (S, 256), zeros on entry; receives the pixel count of each value per plane.

    Returns:
        0; or `RUNS_DO_NOT_FILL`, if the runs are not S x H x W pixels; or `NOT_MONOTONE`, if the
        indices have another order. In these cases, planes and histograms contain nothing useful.
    """
    count = len(stream) // 3
    low, high, values = stream[:count], stream[count : 2 * count], stream[2 * count :]
    total = 0
    empty = 0
    for k in range(count):
        length = low[k] + 256 * high[k]
        total += length
        empty += length == 0
    if len(stream) != 3 * count or empty or total != len(planes) * height * width:
        return RUNS_DO_NOT_FILL
    for i in range(1, len(rows)):
        if rows[i] < rows[i - 1]:
            return NOT_MONOTONE

    # A run that ends before column x of a row fills the row's output up to target[x].
    target = np.zeros(width + 1, np.int64)
    last = len(columns) - 1
    mirrored = columns[0] > columns[last]
    for j in range(len(columns)):
        column = columns[last - j] if mirrored else columns[j]
        if j and column < (columns[last - j + 1] if mirrored else columns[j - 1]):
            return NOT_MONOTONE
        target[column + 1] = j + 1
    for x in range(1, width + 1):
        target[x] = max(target[x], target[x - 1])

    w = len(columns)
    line = np.empty(w + 2 * _BLOCK, np.uint8)
    step = -_BLOCK if mirrored else _BLOCK
    k = -1
    end = 0
    for s in range(len(planes)):
        i = 0
        while i < len(rows):
            copies = 1
            while i + copies < len(rows) and rows[i + copies] == rows[i]:
                copies += 1
            row_begin = (s * height + rows[i]) * width
            row_end = row_begin + width
            while end <= row_begin:
                k += 1
                end += low[k] + 256 * high[k]
            a = 0
            while True:
                value = values[k]
                b = target[np.uint64(min(end, row_end) - row_begin)]
                histograms[s, np.uint64(value)] += copies * (b - a)
                # Whole blocks are fastest: what they write beyond b is overwritten by the next runs.
                # Unsigned indices avoid numba's handling of negative ones, which is 3 times slower.
                at = w - a if mirrored else _BLOCK + a
                while True:
                    for t in range(_BLOCK):
                        line[np.uint64(at) + np.uint64(t)] = value
                    at += step
                    a += _BLOCK
                    if a >= b:
                        break
                a = b
                if end >= row_end:
                    break
                k += 1
                end += low[k] + 256 * high[k]
            for copy in range(i, i + copies):
                for j in range(w):
                    planes[s, copy, j] = line[_BLOCK + j]
            i += copies
    return 0


def warm_up() -> None:
    """Compile `gather_runs`, or load it from numba's cache, for the types it is called with."""
    stream = np.frombuffer(b"\1\0\0", np.uint8)  # read-only, as inflated streams are
    index = np.zeros(1, np.int64)
    gather_runs(
        stream, 1, 1, index, index, np.empty((1, 1, 1), np.uint8), np.zeros((1, 256), np.int64)
    )
