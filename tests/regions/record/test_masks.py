"""Packed masks and patch coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from rmae_d2.regions import pack_bits, patch_coverage, unpack_bits

QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=19)))
def test_pack_bits_layout_and_round_trip(masks):
    bits = pack_bits(masks)
    assert bits.shape == (-(-len(masks) // 8), *masks.shape[1:])
    for k, mask in enumerate(masks):
        np.testing.assert_array_equal(bits[k // 8] >> (k % 8) & 1, mask)
    np.testing.assert_array_equal(unpack_bits(bits, len(masks)), masks)


def test_patch_coverage_by_hand():
    masks = np.zeros((2, 4, 6), bool)
    masks[0, 0, 1] = masks[0, 3, 5] = masks[1, 1, 2] = True
    assert patch_coverage(masks, 2).astype(int).tolist() == [[1, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="4x6 pixels do not divide into patches of 4"):
        patch_coverage(masks, 4)


def test_packing_rejects_other_arrays():
    with pytest.raises(ValueError, match="bool"):
        pack_bits(np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"9 masks need uint8 \(2, H, W\)"):
        unpack_bits(np.zeros((1, 3, 3), np.uint8), 9)
