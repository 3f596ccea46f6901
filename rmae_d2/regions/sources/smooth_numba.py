"""Gaussian smoothing compiled by numba, to the bit what scikit-image gets from scipy.

A partition hangs on the order of edge weights, so the last bit counts. Importing needs numba.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .jit import compiled, inlined

Floats = NDArray[np.float64]


def smooth(image_HWC: NDArray[np.uint8], sigma: float) -> Floats:
    """The image in 0..1, smoothed, float64 (C, H, W).

    Equals `scipy.ndimage.gaussian_filter` with scipy's defaults (mirrored borders, cut off at four
    sigma) on the image divided by 255.

    Args:
        image_HWC: uint8, any strides, any size from 1x1.
        sigma: in pixels, 0 for no smoothing.
    """
    height, width, channels = image_HWC.shape
    radius = int(4 * sigma + 0.5)
    taps = np.ones(1)
    if radius:
        taps = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
        taps /= taps.sum()
    out_CHW = np.empty((channels, height, width))
    ring = np.empty((len(taps), width))
    line = np.empty(width + 2 * radius)
    # A read-only array is another type to numba, for which it would compile once more.
    _convolve(np.require(image_HWC, requirements=["C", "W"]), taps, ring, line, out_CHW)
    return out_CHW


@inlined
def _reflect(index: int, length: int) -> int:
    """Index into a line that is continued by mirroring, its ends repeated."""
    index %= 2 * length
    return min(index, 2 * length - 1 - index)


@compiled
def _convolve(
    image_HWC: NDArray[np.uint8], taps: Floats, ring: Floats, line: Floats, out_CHW: Floats
) -> None:
    """Columns, then rows. Sums run from the outermost pair of taps inwards, as scipy's do.

    Args:
        image_HWC: uint8.
        taps: (2 * radius + 1,), symmetric.
        ring: (2 * radius + 1, W), work space: the rows around the current one.
        line: (W + 2 * radius,), work space: one row, continued on both sides.
        out_CHW: written.
    """
    height, width, channels = image_HWC.shape
    count = len(taps)
    radius = count // 2
    for c in range(channels):
        for top in range(-2 * radius, height):
            # Row y of the continued image lies in ring[(y + radius) % count]; this reads the last
            # one that output row `top` needs, whose first one is `top - radius`.
            row = ring[(top + 2 * radius) % count]
            source = image_HWC[_reflect(top + radius, height), :, c]
            for x in range(width):
                row[x] = source[x] * (1.0 / 255)
            if top < 0:
                continue
            middle = line[radius : radius + width]
            centre = ring[(top + radius) % count]
            for x in range(width):
                middle[x] = centre[x] * taps[radius]
            for i in range(radius):
                above, below = ring[(top + i) % count], ring[(top + 2 * radius - i) % count]
                for x in range(width):
                    middle[x] += (above[x] + below[x]) * taps[i]
            for i in range(1, radius + 1):
                line[radius - i] = middle[_reflect(-i, width)]
                line[radius + width - 1 + i] = middle[_reflect(width - 1 + i, width)]
            out = out_CHW[c, top]
            for x in range(width):
                out[x] = middle[x] * taps[radius]
            for i in range(radius):
                left, right = line[i : i + width], line[2 * radius - i : 2 * radius - i + width]
                for x in range(width):
                    out[x] += (left[x] + right[x]) * taps[i]
