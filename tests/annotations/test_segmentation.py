"""Polygons and run lengths: equal to pycocotools, and damage named before it gets there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as mask_util

from rmae_d2.annotations.segmentation import is_short, run_counts
from rmae_d2.errors import UserError
from rmae_d2.regions.record.masks import unpack_bits
from rmae_d2.regions.record.record import record_of_counts

SIZE = (20, 30)
BOX = [2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]


def masks_of(record):
    return unpack_bits(record.mask_bits, record.num_masks)


@given(st.data())
def test_run_lengths_in_every_form(data):
    size = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    masks = data.draw(arrays(np.bool_, (data.draw(st.integers(1, 17)), *size)))
    masks = masks[masks.any((1, 2))]
    forms = []
    for mask in masks:
        packed = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        flat = np.concatenate(([False], mask.T.ravel(), [not mask[-1, -1]]))
        lengths = np.diff(np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]))))
        forms.append((packed, {**packed, "counts": packed["counts"].decode()}))
        forms[-1] += ({"size": list(size), "counts": lengths.tolist()},)
    for form in zip(*forms, strict=True):
        record = record_of_counts([run_counts(rle, size) for rle in form], size, {})
        np.testing.assert_array_equal(masks_of(record), masks)


@given(st.lists(st.lists(st.floats(-30, 60), min_size=6, max_size=20), min_size=1, max_size=3))
def test_polygons_are_joined_and_clipped_as_by_pycocotools(polygons):
    polygons = [polygon[: len(polygon) // 2 * 2] for polygon in polygons]
    expected = mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, *SIZE)))
    counts = run_counts(polygons, SIZE)
    assert (counts is None) == (not expected.any())
    if counts is not None:
        np.testing.assert_array_equal(masks_of(record_of_counts([counts], SIZE, {}))[0], expected)


@given(st.binary(max_size=20) | st.text(max_size=20))
def test_any_string_is_a_mask_or_an_error(counts):
    try:
        found = run_counts({"size": [4, 5], "counts": counts}, (4, 5))
    except ValueError:
        return
    assert found is None or found.sum() == 20


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[*BOX, 1.0]], "9 numbers"),
        ([[*BOX, float("nan"), 1.0]], "from nan to nan in an image of 30x20"),
        ([[*BOX, 1e9, 1.0]], "to 1000000000.0"),
        ([[*BOX, "x", "y"]], "not a list of numbers"),
        (["box"], "not a list of numbers"),
        ("polygon", "segmentation is str"),
        ({"size": [30, 20], "counts": [0, 600]}, r"for size \[30, 20\].*image is \[20, 30\]"),
        ({"size": [20, 30], "counts": [0, 599]}, "add up to 599 pixels, the image has 600"),
        ({"size": [20, 30]}, "no list of integers"),
        ({"counts": [0, 600]}, "for size None"),
    ],
)
def test_damaged_segmentations_are_named(segmentation, message):
    with pytest.raises(UserError, match=message):
        run_counts(segmentation, SIZE)


def test_short_polygons_have_no_mask():
    assert is_short([1.0, 2.0, 3.0, 4.0]) and not is_short(BOX) and not is_short("text")
    assert run_counts([], SIZE) is None and run_counts([BOX[:4]], SIZE) is None
    np.testing.assert_array_equal(run_counts([BOX, BOX[:4]], SIZE), run_counts([BOX], SIZE))
