"""Boolean masks (K, H, W): packed eight per byte plane, and which patches they touch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError

Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_BITS_OF_VALUE = np.arange(256)[:, None] >> np.arange(8) & 1


def pack_bits(masks_KHW: Bools) -> Bytes:
    """Pack K masks into uint8 (ceil(K/8), H, W): mask k is bit k % 8 of plane k // 8."""
    if masks_KHW.ndim != 3 or masks_KHW.dtype != np.bool_:
        raise UserError(f"masks must be bool (K, H, W), got {describe(masks_KHW)}")
    bits = np.zeros((num_planes(len(masks_KHW)), *masks_KHW.shape[1:]), np.uint8)
    for k, mask in enumerate(masks_KHW):  # several times faster than np.packbits along axis 0
        bits[k // 8] |= mask.view(np.uint8) << k % 8
    return bits


def unpack_bits(bits: Bytes, num_masks: int) -> Bools:
    """Undo `pack_bits`: uint8 (ceil(K/8), H, W) to bool (K, H, W) with K = num_masks."""
    if bits.ndim != 3 or bits.dtype != np.uint8 or len(bits) != num_planes(num_masks):
        raise UserError(
            f"{num_masks} masks need uint8 ({num_planes(num_masks)}, H, W), got {describe(bits)}"
        )
    masks = np.empty((num_masks, *bits.shape[1:]), np.bool_)
    for k, mask in enumerate(masks):
        np.not_equal(bits[k // 8] & (1 << k % 8), 0, out=mask)
    return masks


def patch_coverage(masks_KHW: Bools, patch: int) -> Bools:
    """Bool (K, L): whether any pixel of a mask lies in the patch (patch = side in pixels)."""
    grid_h, grid_w = patch_grid(masks_KHW.shape[1:], patch)
    tiles = masks_KHW.reshape(len(masks_KHW), grid_h, patch, grid_w, patch)
    covered: Bools = np.any(np.any(tiles, axis=2), axis=3)
    return covered.reshape(len(masks_KHW), grid_h * grid_w)


def count_bits(bits: Bytes) -> Ints:
    """Pixels of each packed mask, int64 (8 * planes,), from one byte histogram per plane."""
    histograms = [np.bincount(plane.ravel(), minlength=256) for plane in bits]
    return areas_of_histograms(np.array(histograms, np.int64).reshape(-1, 256))


def areas_of_histograms(histograms: Ints) -> Ints:
    """Like `count_bits`, from the number of pixels with each byte value, int64 (planes, 256)."""
    areas: Ints = histograms @ _BITS_OF_VALUE
    return areas.ravel()


def describe(array: NDArray[Any]) -> str:
    """Type and shape, for messages."""
    return f"{array.dtype} {array.shape}"


def num_planes(num_masks: int) -> int:
    """Number of byte planes needed for the masks."""
    return -(-num_masks // 8)


def patch_grid(size: Sequence[int], patch: int) -> tuple[int, int]:
    """(rows, columns) of patches in (H, W) pixels; UserError if the size is not divisible."""
    height, width = size
    if patch < 1 or height % patch or width % patch:
        raise UserError(f"{height}x{width} pixels do not divide into patches of {patch}")
    return height // patch, width // patch
