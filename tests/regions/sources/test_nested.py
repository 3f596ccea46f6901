"""Nested regions: each level merges whole segments of the one before, by FH's criterion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from rmae_d2.errors import UserError
from rmae_d2.regions import FelzenszwalbSource, NestedSource
from rmae_d2.regions.sources.nested import adjacent, merged
from rmae_d2.regions.sources.spec import SourceSpec


def test_segments_that_touch():
    labels = np.array([[0, 0, 1], [2, 2, 1], [2, 3, 3]], np.uint8)
    assert adjacent(labels).tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]
    assert adjacent(np.zeros((1, 1), np.uint8)).tolist() == []


def test_a_merge_by_hand():
    """Three columns of 4 pixels, of colours 0, 3 and 9; edges weigh 3 and 6."""
    labels = np.repeat([[0, 1, 2]], 4, axis=0).astype(np.uint8)
    image = np.repeat([[0.0, 3.0, 9.0]], 4, axis=0).astype(np.float32)[..., None]
    # 3 <= scale / 4 from a scale of 12 on; then 6 <= min(3 + scale / 8, scale / 4) from 24 on.
    for scale, expected in ((1, [0, 1, 2]), (3.9, [0, 1, 2])):
        np.testing.assert_array_equal(merged(labels, image, scale)[0], expected)
    # From 5 on all are smaller than the scale, and join the most similar.
    np.testing.assert_array_equal(merged(labels, image, 5)[0], [0, 0, 0])
    large = np.repeat(labels, 10, axis=0).repeat(10, axis=1)
    seen = np.repeat(image, 10, axis=0).repeat(10, axis=1)
    for scale, expected in ((390, [0, 1, 2]), (401, [0, 0, 0])):
        np.testing.assert_array_equal(merged(large, seen, scale)[0, ::10], expected)
    # 400 pixels each: 3 <= 1200 / 400, but all are smaller than 1200 pixels; 0.9 <= 390 / 400 merges two.
    np.testing.assert_array_equal(merged(large, seen * 0.3, 390)[0, ::10], [0, 0, 1])


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_levels_are_nested(name):
    """A function of finer labels to coarser ones; no segment smaller than its level's scale."""
    image = np.asarray(Image.fromarray(getattr(data, name)()).resize((320, 240)))
    scales = (100, 400, 2000)
    record = NestedSource(scales)({}, image)
    (finest,) = FelzenszwalbSource([100])({}, image).labels
    np.testing.assert_array_equal(record.labels[0], finest)
    for fine, coarse, scale in zip(record.labels, record.labels[1:], scales[1:], strict=False):
        pairs = np.unique(np.stack([fine.ravel(), coarse.ravel()]), axis=1)
        assert len(np.unique(pairs[0])) == pairs.shape[1]  # one coarse label for each fine one
        assert np.bincount(coarse.ravel()).min() >= scale
        assert coarse.max() < fine.max()
    first = np.unique(record.labels[1], return_index=True)[1]
    assert (np.diff(first) > 0).all()  # numbered in raster order


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_merging_any_labels(height, width, seed):
    """Whole segments, connected, each of the scale or all of the image."""
    from skimage.measure import label

    rng = np.random.default_rng(seed)
    image = rng.random((height, width, 3)).astype(np.float32) * 255
    labels = label(rng.integers(0, 3, (height, width)), background=-1, connectivity=1) - 1
    found = merged(labels.astype(np.uint8), image, 5)
    pairs = np.unique(np.stack([labels.ravel(), found.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1]
    assert label(found, background=-1, connectivity=1).max() == found.max() + 1
    assert np.bincount(found.ravel()).min() >= min(5, height * width)


def test_bytes_are_at_most_those_of_three_scales(shared_data):
    """20 % more would be allowed; over photographs they are fewer."""
    files = sorted((shared_data / "coco/val2017").glob("*.jpg"))[:12]
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    nested, three = (
        sum(len(source({}, image).to_bytes()) for image in images)
        for source in (NestedSource(), FelzenszwalbSource())
    )
    assert 0.5 * three < nested < 1.2 * three


def test_records_are_kept_under_their_own_params(tmp_path):
    image = data.coffee()[:100, :120]
    source = SourceSpec.named("nested", {"scales": [50, 200], "cache_dir": str(tmp_path)}).build()
    first = source({}, image)
    np.testing.assert_array_equal(source({}, image).decode().labels, first.labels)
    assert first.params["scales"] == [50, 200] and first.params["source"] == "nested"


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (60, 2)])
def test_small_images(size):
    record = NestedSource()({}, np.full((*size, 3), 7, np.uint8))
    assert record.labels.shape == (3, *size) and (record.labels == 0).all()


@pytest.mark.parametrize("scales", [[], [0, 5], [500, 500], [500, 100]])
def test_scales_rise(scales):
    with pytest.raises(UserError, match="scales="):
        NestedSource(scales)
