"""Windows and grids over images of any size; how sure a model is of its masks."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.inference.region_views import mask_confidence, near_grid, window_grid, window_starts


@given(st.integers(1, 60), st.integers(1, 12))
def test_windows_cover_everything(length, window):
    if length < window:
        length, window = window, length
    starts = window_starts(length, window)
    covered = {i for start in starts for i in range(start, start + window)}
    assert covered == set(range(length))
    steps = np.diff(starts)
    assert (steps >= 1).all() and (steps <= max(window // 2, 1)).all()


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 20), st.integers(16, 400))
def test_grids_keep_to_their_bounds(height, width, patch, most):
    rows, columns = near_grid((height, width), patch, 16, most)
    assert rows >= 1 and columns >= 1 and rows * columns <= most
    rows, columns = window_grid((height, width), patch, (4, 4), most)
    assert rows >= 4 and columns >= 4 and rows * columns <= most


def test_grids_have_the_shape_of_the_image():
    assert near_grid((480, 640), 16, 196, 1024) == (28, 36)  # 1200 patches at its own size
    assert near_grid((320, 480), 16, 196, 1024) == (20, 30)
    assert near_grid((60, 120), 16, 196, 1024) == (10, 20)
    assert window_grid((5, 700), 16, (14, 14), 1024)[0] == 14


def test_confidence_by_hand():
    probabilities = torch.tensor([[[0.9, 0.7], [0.4, 0.0]], [[0.1, 0.1], [0.1, 0.1]]])
    scores = mask_confidence(probabilities, probabilities > 0.5)
    torch.testing.assert_close(scores, torch.tensor([1.6 / 2.4, 0.0]))
