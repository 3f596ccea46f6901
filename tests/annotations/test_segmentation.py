"""Polygons and run lengths: equal to pycocotools, and damage named before it gets there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as mask_util

from rmae_d2.annotations.segmentation import box_of, read_mask, run_counts
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
        ([[*BOX, float("nan"), 1.0]], "coordinate 'NaN', in an image of 30x20"),
        ([[*BOX, 1e9, 1.0]], "coordinate '1000000000.0'"),
        ([[*BOX, "x", "y"]], "coordinate '\"x\"' is not a finite number"),
        (["box"], "coordinate '\"box\"' is not a finite number"),
        ("polygon", "is '\"polygon\"', it must be polygons or run lengths"),
        (7, "is '7', it must be"),
        ({"size": [30, 20], "counts": [0, 600]}, r"for size '\[30, 20\]'.*image is \[20, 30\]"),
        ({"size": [20, 30], "counts": [0, 599]}, "add up to 599 pixels, the image has 600"),
        ({"size": [20, 30], "counts": [0, "x"]}, "not a list of integers"),
        ({"size": [20, 30]}, "counts 'null', which are not a list"),
        ({"size": [20, 30], "counts": "b'"}, "a damaged string"),
        (
            [[x % 2 * 29 if x % 4 < 2 else x % 20 for x in range(20_000)]],
            "outline is .* pixels long",
        ),
    ],
)
def test_damaged_segmentations_are_named(segmentation, message):
    with pytest.raises(UserError, match=message):
        run_counts(segmentation, SIZE)


def test_what_there_is_none_of():
    for nothing in (None, [], "", {}, [[1, 2]], [[1, 2, 3, 4]], [[]], {"counts": [600]}):
        assert read_mask(nothing, SIZE) is None
    assert read_mask([BOX, [1, 2, 3, 4]], SIZE) == [BOX]


def test_the_union_of_run_lengths_in_a_list():
    left, right = {"counts": [0, 20, 580]}, {"counts": [0, 40, 560], "size": [20, 30]}
    assert run_counts([left, right], SIZE).tolist() == [0, 40, 560]


def test_boxes_of_masks():
    assert box_of([BOX, [0.5, 4.0, 1.0, 5.0, 20.0, 6.0]], SIZE) == (0.5, 3.0, 19.5, 6.0)
    assert box_of(read_mask({"counts": [25, 10, 10, 10, 545]}, SIZE), SIZE) == (1, 5, 2, 10)
