"""Objects before they are posed: each class draws whole outlines, whatever its parameters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.data.scenes.shapes import SHAPES, box, curve, ellipse, smooth, stroke, turned

SQUARE = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@given(seed=st.integers(0, 2**32))
def test_every_instance_is_drawable(shape, seed):
    parts = shape.build(np.random.default_rng(seed))
    for part in parts:
        assert part.outline.shape[1] == 2 and len(part.outline) >= 3
        assert np.isfinite(part.outline).all() and np.abs(part.outline).max() < 2
        for value in (*part.color, part.texture, part.height):
            assert 0 <= value <= 1
    again = shape.build(np.random.default_rng(seed))
    for part, twin in zip(parts, again, strict=True):
        np.testing.assert_array_equal(part.outline, twin.outline)


def test_outlines_are_what_they_are_called():
    np.testing.assert_allclose(np.hypot(*(ellipse(1, 2, 3, 3) - (1, 2)).T), 3)
    np.testing.assert_allclose(
        turned(np.array(SQUARE), np.pi / 2), [(0, 0), (0, 1), (-1, 1), (-1, 0)], atol=1e-12
    )
    np.testing.assert_allclose(smooth(*SQUARE)[::8], SQUARE)  # curves run through their points
    np.testing.assert_allclose(curve(*SQUARE)[::8], SQUARE)
    ribbon = stroke([(0.0, 0.0), (4.0, 0.0)], (1.0, 0.5), curved=False)
    np.testing.assert_allclose(np.ptp(ribbon, axis=0), (4, 1))
    assert len(box(0, 0, 1, 1)) == 4 and len(box(0, 0, 1, 1, 0.1)) == 8
