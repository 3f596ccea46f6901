"""Scenes: what each promises, and how they vary."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rmae_d2.data.scenes.dataset import panoptic_of
from rmae_d2.data.scenes.render import (
    CATEGORIES,
    MIN_VISIBLE_AREA,
    PHOTOS,
    SIZES,
    STUFF_CLASSES,
    THING_CLASSES,
    photo_path,
    render_scene,
)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**63), index=st.integers(0, 2**40))
def test_every_scene_keeps_the_promises(seed: int, index: int):
    scene = render_scene(seed, index)
    assert scene.image.dtype == np.uint8 and scene.image.shape[:2] in SIZES
    assert scene.masks.dtype == bool and scene.masks.shape[1:] == scene.image.shape[:2]
    assert 1 <= len(scene.masks) == len(scene.category_ids) <= 8
    assert scene.masks.sum(0).max() <= 1, "two objects share a pixel"
    assert scene.masks.sum((1, 2)).min() >= MIN_VISIBLE_AREA
    stuff = {c["id"] for c in CATEGORIES if not c["isthing"]}
    assert set(np.unique(scene.background_ids)) <= stuff

    ids, segments = panoptic_of(scene)
    assert set(np.unique(ids)) == {s["id"] for s in segments}
    semantic = scene.semantic()
    for segment in segments:
        assert np.all(semantic[ids == segment["id"]] == segment["category_id"] - 1)


def test_a_scene_is_a_pure_function_of_seed_and_index():
    first = render_scene(5, 9)
    render_scene(5, 10)
    again = render_scene(5, 9)
    for name in ("image", "masks", "category_ids", "background_ids"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert not np.array_equal(first.image[:100, :100], render_scene(6, 9).image[:100, :100])


def test_mask_borders_lie_on_edges_of_the_picture():
    inside = border = 0.0
    for index in range(6):
        scene = render_scene(0, index)
        image = scene.image.astype(float)
        edges = np.hypot(np.diff(image, axis=0)[:, :-1], np.diff(image, axis=1)[:-1]).mean(-1)
        borders = np.zeros(edges.shape, dtype=bool)
        for mask in scene.masks:
            borders |= (mask[:-1] != mask[1:])[:, :-1] | (mask[:, :-1] != mask[:, 1:])[:-1]
        inside += edges[~borders].mean()
        border += edges[borders].mean()
    assert border > 2.5 * inside


def test_scenes_vary():
    made = [render_scene(0, i) for i in range(60)]
    assert len(set(np.concatenate([s.category_ids for s in made]))) == len(THING_CLASSES) >= 8
    assert {len(s.masks) for s in made} >= {3, 4, 5, 6, 7, 8}
    assert len({s.image.shape for s in made}) >= 4
    assert all(s.image.shape[0] != s.image.shape[1] for s in made)
    backgrounds = set(np.concatenate([np.unique(s.background_ids) for s in made]))
    assert len(backgrounds) == len(STUFF_CLASSES)
    areas = np.concatenate([s.masks.sum((1, 2)) for s in made])
    assert np.percentile(areas, 95) > 5 * np.percentile(areas, 5), "little variation of scale"


def test_every_photograph_is_in_the_wheel():
    assert all(photo_path(name).stat().st_size > 1000 for name in PHOTOS)
