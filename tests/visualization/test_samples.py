"""Which pictures a run keeps, however often it was stopped."""

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rmae_d2.visualization.samples import (
    MAX_SAMPLES,
    MAX_WIDTH,
    is_kept,
    keep_sample,
    kept_samples,
    sweep_samples,
)

PICTURE = np.full((2, 3, 3), 7, dtype=np.uint8)


def train(folder, begin, end, period, last):
    """What the hook does of a run's iterations from ``begin`` up to ``end``."""
    for done in range(begin + 1, end + 1):
        if done == last or (done % period == 0 and is_kept(done, period)):
            keep_sample(folder, PICTURE, done, period)
        kept = [n for n in kept_samples(folder) if n <= done]
        assert len(kept) <= MAX_SAMPLES


@given(
    st.integers(1, 4),
    st.integers(1, 90),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 30)), max_size=3),
)
def test_a_resumed_run_keeps_what_another_keeps(period, last, stops):
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        train(Path(first), 0, last, period, last)
        begin = 0
        for stop, lost in sorted(stops):
            stop = max(begin, min(stop, last - 1))
            train(Path(second), begin, stop, period, last)
            begin = max(stop - lost, 0)  # what was done since the last checkpoint is done again
        train(Path(second), begin, last, period, last)
        kept = list(kept_samples(Path(first)))
        assert list(kept_samples(Path(second))) == kept
        assert kept == sorted(kept) and kept[-1] == last
        if period <= last:
            assert kept[0] == period
        assert len({b - a for a, b in pairwise(kept[1:-1])}) <= 1


def test_many_are_spread_evenly(tmp_path):
    train(tmp_path, 0, 1001, 10, 1001)
    assert list(kept_samples(tmp_path)) == [10, 160, 320, 480, 640, 800, 960, 1001]


def test_pictures_of_another_period_stay(tmp_path):
    train(tmp_path, 0, 60, 20, 120)
    train(tmp_path, 60, 120, 7, 120)
    assert {20, 40, 60, 120} <= set(kept_samples(tmp_path))


def test_only_its_own_files(tmp_path):
    train(tmp_path, 0, 3, 1, 3)
    others = ["mine.png", "reconstruction_1.png", "reconstruction_0000001.jpg"]
    for name in others:
        (tmp_path / "samples" / name).write_bytes(b"")
    (tmp_path / "samples/reconstruction_0000009.tmp17").write_bytes(b"cut")
    assert list(kept_samples(tmp_path)) == [1, 2, 3]
    sweep_samples(tmp_path, anew=False)
    assert len(list((tmp_path / "samples").iterdir())) == 6
    sweep_samples(tmp_path, anew=True)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == sorted(others)
    assert kept_samples(tmp_path / "nowhere") == {}


def test_wide_pictures_are_reduced(tmp_path):
    path = keep_sample(tmp_path, np.zeros((100, 2 * MAX_WIDTH, 3), np.uint8), 10_000_000, 5)
    assert path.name == "reconstruction_10000000.png"
    with Image.open(path) as picture:
        assert picture.size == (MAX_WIDTH, 50)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "samples").write_text("")
    with pytest.raises(OSError, match="samples"):
        keep_sample(tmp_path, PICTURE, 1, 1)
