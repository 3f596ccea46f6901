"""Attention and features as pictures."""

import numpy as np
import pytest

from rmae_d2.visualization.attention import (
    Query,
    draw_attention,
    draw_components,
    draw_query,
    patch_of,
    principal_components,
)


def test_the_patch_of_a_pixel():
    size, grid = (100, 150), (10, 15)
    assert patch_of(Query(0, 0), size, grid) == (0, 0)
    assert patch_of(Query(149, 99), size, grid) == (9, 14)
    assert patch_of(Query(19, 30), size, grid) == (3, 1)
    for outside in (Query(150, 0), Query(0, 100), Query(-1, 5)):
        with pytest.raises(ValueError, match="outside of the image of 150x100"):
            patch_of(outside, size, grid)


def test_heat_follows_the_attention():
    image = np.full((40, 80, 3), 100, np.uint8)
    attention = np.linspace(0, 1, 32).reshape(4, 8)
    picture = draw_attention(image, attention)
    blocks = picture.reshape(4, 10, 8, 10, 3).transpose(0, 2, 1, 3, 4).reshape(32, 100, 3)
    assert (blocks == blocks[:, :1]).all()
    brightness = blocks[:, 0].astype(int) @ [2, 7, 1]
    assert (np.diff(brightness[:-1]) > 0).all()
    framed = draw_attention(image, attention, (1, 2))
    changed = np.argwhere((framed != picture).any(-1))
    assert changed.min(0).tolist() == [10, 20] and changed.max(0).tolist() == [19, 29]
    assert draw_attention(image, np.zeros((4, 8))).shape == image.shape
    assert draw_query(image, None, (4, 8)) is image
    assert (draw_query(image, (0, 0), (4, 8))[0, 0] != 100).any()


def test_principal_components_and_their_signs():
    """Those of a plane in space are found, whatever the sign that the decomposition gives."""
    random = np.random.default_rng(0)
    plane = np.stack([random.exponential(4, 50), random.exponential(1, 50)], 1)
    axes = np.linalg.qr(random.normal(size=(6, 6)))[0][:2]
    features = plane @ axes + 7
    parts = principal_components(features, 3)
    centred = plane - plane.mean(0)
    assert np.linalg.norm(parts) == pytest.approx(np.linalg.norm(centred))
    np.testing.assert_allclose(parts[:, 2], 0, atol=1e-9)
    assert (parts**3).sum(0)[0] > 0 and (parts**3).sum(0)[1] > 0
    turned = features @ np.linalg.qr(random.normal(size=(6, 6)))[0]
    np.testing.assert_allclose(principal_components(turned, 3), parts, atol=1e-9)


def test_components_as_colours():
    features = np.zeros((2, 4, 5))
    features[0, 0, 1], features[1, 3, 2] = 9, 4
    picture = draw_components(features, (20, 40))
    assert picture.shape == (20, 40, 3) and picture.dtype == np.uint8
    assert picture[0, 0, 0] == 255 and picture[0, 20, 0] < 60
    assert np.array_equal(picture, draw_components(features * 3 + 1, (20, 40)))
    assert draw_components(np.ones((2, 2, 3)), (4, 4)).shape == (4, 4, 3)
