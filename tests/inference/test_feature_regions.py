"""Regions from features: each step against its definition, then the whole on rendered scenes."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rmae_d2
from rmae_d2.data.scenes.render import render_scene
from rmae_d2.errors import UserError
from rmae_d2.inference.feature_regions import (
    _FINE,
    _REGULARIZATION,
    FeatureRegions,
    _GuidedFilter,
    cluster,
    connected_parts,
    grid_for,
    refine,
    spectral_vectors,
)

WEIGHTS = "rmae-d2://rmae_scenes"


@given(st.integers(1, 50_000), st.integers(1, 50_000), st.integers(2, 1000))
def test_a_grid_has_at_most_the_patches_asked_for(height, width, patches):
    rows, columns = grid_for((height, width), patches)
    assert rows >= 1 and columns >= 1
    assert rows * columns <= patches * 1.5 + 2


def test_a_grid_has_the_images_proportions():
    assert grid_for((480, 640), 768) == (24, 32)
    assert grid_for((640, 480), 768) == (32, 24)
    assert grid_for((1, 100_000), 768) == (1, 768)
    assert grid_for((100_000, 1), 768) == (768, 1)


def test_parts_that_do_not_touch_are_several_regions():
    ids = np.array([[0, 0, 1, 0], [0, 0, 1, 0], [2, 1, 1, 1]])
    found = connected_parts(ids, min_area=0)
    np.testing.assert_array_equal(found, [[0, 0, 1, 2], [0, 0, 1, 2], [3, 1, 1, 1]])


def test_small_parts_join_the_nearest_and_the_largest_always_stays():
    ids = np.array([[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 5, 1], [0, 7, 0, 1, 1, 1]])
    found = connected_parts(ids, min_area=2)
    np.testing.assert_array_equal(
        found, [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]]
    )
    np.testing.assert_array_equal(connected_parts(ids, min_area=1e9), np.zeros((3, 6)))


def test_clusters_are_those_of_the_features():
    """Three kinds of features, in patches of any order."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 16).reshape(6, 8)
    kinds = torch.from_numpy(rng.normal(size=(3, 20)))
    features = kinds[torch.from_numpy(truth)] + 0.1 * torch.from_numpy(rng.normal(size=(6, 8, 20)))
    ids = cluster(spectral_vectors(features.permute(2, 0, 1), 3), 3, seed=0)
    pairs = set(zip(truth.ravel().tolist(), ids.tolist(), strict=True))
    assert len(pairs) == 3  # a renumbering


def test_spectral_vectors_are_normalised_cuts():
    """Of the generalised problem (D - W) y = lambda D y, Shi and Malik's equation 11."""
    from scipy.linalg import eigh

    torch.manual_seed(1)
    features = torch.randn(5, 4, 6)
    vectors = spectral_vectors(features, 4)
    x = features.flatten(1).T.double().numpy()
    x -= x.mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    places = np.array([(y, z) for y in range(4) for z in range(6)], float)
    distance = ((places[:, None] - places) ** 2).sum(axis=-1)
    W = np.exp((x @ x.T - 1) / 0.15) * np.exp(-distance / (2 * 0.45**2 * 24))
    D = np.diag(W.sum(axis=1))
    _, y = eigh(D - W, D)
    theirs = np.sqrt(np.diag(D))[:, None] * y[:, :4]  # z = D^(1/2) y
    np.testing.assert_allclose(np.abs(vectors.T @ theirs), np.eye(4), atol=1e-6)


def test_the_guided_filter_is_a_regression_in_each_window():
    """Equations 5, 6 and 8 of He et al., a window at a time, in float64."""
    rng = np.random.default_rng(0)
    guide, values = rng.random((3, 12, 14)), rng.random((12, 14))
    H, W = values.shape
    slope, offset = np.zeros((3, H, W)), np.zeros((H, W))
    window = [
        [(slice(max(0, y - _FINE), y + _FINE + 1), slice(max(0, x - _FINE), x + _FINE + 1)) for x in range(W)]
        for y in range(H)
    ]  # fmt: skip
    for y in range(H):
        for x in range(W):
            at = window[y][x]
            colours, target = guide[:, at[0], at[1]].reshape(3, -1), values[at].ravel()
            centred = colours - colours.mean(axis=1, keepdims=True)
            covariance = centred @ centred.T / target.size + _REGULARIZATION * np.eye(3)
            slope[:, y, x] = np.linalg.solve(covariance, centred @ target / target.size)
            offset[y, x] = target.mean() - slope[:, y, x] @ colours.mean(axis=1)
    expected = np.zeros((H, W))
    for y in range(H):
        for x in range(W):
            at = window[y][x]
            mean_slope = slope[:, at[0], at[1]].mean(axis=(1, 2))
            expected[y, x] = mean_slope @ guide[:, y, x] + offset[at].mean()
    tensor = torch.from_numpy(guide)[None].float()
    ours = _GuidedFilter(tensor)(torch.from_numpy(values)[None, None].float(), tensor)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


def test_borders_follow_the_image():
    """The edge of the colours is three pixels away from that of the patches."""
    image = np.full((64, 64, 3), 40, np.uint8)
    image[:, 35:] = (200, 180, 90)
    ids = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 8, axis=0)  # patches of 8 pixels: the edge is at 32
    expected = np.zeros((64, 64), np.int64)
    expected[:, 35:] = 1
    np.testing.assert_array_equal(refine(ids, image), expected)


def test_of_a_scene():
    """Partitions in the record's planes, better than a grid of as many; the same after pickling."""
    scene = render_scene(seed=0, index=0)
    source = FeatureRegions(WEIGHTS, device="cpu", patches=300)
    record = source({}, scene.image)
    assert record.size == scene.image.shape[:2] and len(record.labels) == 3
    table = record.regions()
    assert table.area.min() >= 0.006 * scene.image[..., 0].size
    assert table.area.sum() == 3 * scene.image[..., 0].size
    again = pickle.loads(pickle.dumps(source))({}, scene.image)
    np.testing.assert_array_equal(again.labels, record.labels)

    def best(masks):
        return np.mean([max((m & t).sum() / (m | t).sum() for m in masks) for t in scene.masks])

    H, W = record.size
    rows, columns = np.arange(H)[:, None], np.arange(W)
    grids = [rows * n // H * n + columns * n // W for n in (3, 4, 5)]
    blocks = [grid == i for grid in grids for i in np.unique(grid)]
    assert best(record.select(np.arange(len(table)))) > best(blocks) + 0.15


def test_params_name_what_regions_depend_on(shipped, tmp_path):
    """The same weights elsewhere are the same regions; other weights are not."""
    source = FeatureRegions(WEIGHTS, device="cpu")
    (tmp_path / "run").mkdir()
    for file in (shipped, shipped.parent / "config.yaml"):
        (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
    copied = tmp_path / "run" / shipped.name
    assert FeatureRegions(copied, device="cpu").params == source.params
    model = rmae_d2.load(WEIGHTS, device="cpu")
    with torch.no_grad():
        model.backbone.net.blocks[0].mlp.fc1.bias[0] += 1
    torch.save({"model": model.state_dict()}, tmp_path / "run/other.pth")
    other = FeatureRegions(tmp_path / "run/other.pth", device="cpu")
    assert other.params["weights"] != source.params["weights"]
    assert FeatureRegions(WEIGHTS, device="cpu", clusters=[3]).params != source.params


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (64, 2), (50, 60)])
def test_odd_images(size):
    """Whatever the image, also of one colour: each pixel is in one region of each plane."""
    source = FeatureRegions(WEIGHTS, device="cpu", patches=64, clusters=(2, 5))
    record = source({}, np.full((*size, 3), 128, np.uint8))
    assert record.size == size and len(record.labels) == 2
    assert record.regions().area.sum() == 2 * size[0] * size[1]


def test_records_are_kept(tmp_path):
    source = FeatureRegions(WEIGHTS, device="cpu", patches=64, cache_dir=tmp_path)
    image = render_scene(seed=0, index=1).image
    first = source({}, image)
    assert len(list(tmp_path.rglob("*.regions"))) == 1
    np.testing.assert_array_equal(source({}, image).decode().labels, first.labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": []}, "clusters=\\[\\]"),
        ({"clusters": [1, 5]}, "clusters=\\[1, 5\\]: one or more numbers from 2 to patches=768"),
        ({"clusters": [900]}, "clusters=\\[900\\]"),
        ({"min_area": 1.0}, "min_area=1.0 must be a share"),
        ({"layer": 6}, "layers=\\[6\\]"),
        ({"weights": "absent.pth"}, "absent.pth: no such"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        FeatureRegions(**{"weights": WEIGHTS, "device": "cpu", **settings})


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_other_images_are_refused(image):
    source = FeatureRegions(WEIGHTS, device="cpu", patches=64)
    with pytest.raises(UserError, match=r"need a uint8 RGB \(H, W, 3\) image"):
        source({}, image)
