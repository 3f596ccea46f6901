"""Masks from a few visible patches, with small networks of random weights."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.errors import UserError
from rmae_d2.inference import RegionPrompt, RegionPromptPredictor
from rmae_d2.inference.region_prompt import doubt
from rmae_d2.inference.region_views import ImageEmbedding, blend_weights
from rmae_d2.modeling import random_shuffle

GRID, P = (4, 4), 8

plain = partial(RegionPromptPredictor, edges="model")


def photo(height=32, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def random_prompt(grid, count, seed=0):
    rng = np.random.default_rng(seed)
    visible = np.zeros(grid, bool)
    visible.ravel()[rng.permutation(visible.size)[:count]] = True
    return RegionPrompt(visible, rng.random((grid[0] * P, grid[1] * P)) < 0.5)


@pytest.fixture
def predictor(make_rmae):
    made = plain(make_rmae())
    made.set_image(photo())
    return made


@pytest.mark.parametrize("variant", ["length", "batch"])
def test_the_model_itself_predicts_the_same(make_rmae, variant):
    regions = {} if variant == "length" else {"variant": "batch"}
    model = make_rmae(regions=regions, mask_ratio=0.75).eval()
    made = plain(model, mask_ratio=0.75, seed=3)
    image = photo()
    made.set_image(image)
    order = random_shuffle(torch.tensor([3]), 16)
    assert np.array_equal(made.hidden.ravel()[order[0]], [False] * 4 + [True] * 12)
    region = torch.rand(1, 1, 32, 32) < 0.5
    pixels = model.normalize(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
    sample = {"image": torch.from_numpy(image).permute(2, 0, 1), "mask_seed": 3}
    with torch.no_grad():
        outputs = model([{**sample, "regions": region[0]}])
        outcome = model.forward_tensors(pixels, region, order)
    prompt = RegionPrompt(~made.hidden, region[0, 0].numpy())
    found = made.predict([prompt]).probabilities
    np.testing.assert_allclose(found, outputs[0]["region_probability"], atol=1e-5)
    hidden = order[0, 4:]
    patches = torch.from_numpy(found).view(4, P, 4, P).transpose(1, 2).reshape(16, P * P)
    expected = outcome["pred_regions"][0, 0, hidden].sigmoid()
    torch.testing.assert_close(patches[hidden], expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def model(make_rmae):
    return make_rmae()


@given(st.lists(st.integers(0, 16), min_size=1, max_size=6), st.integers(0, 5))
def test_a_prompt_does_not_depend_on_the_others(model, counts, seed):
    made = plain(model, mask_ratio=0.5, seed=seed)
    made.set_image(photo(50, 20))
    prompts = [random_prompt(GRID, n, seed + k) for k, n in enumerate(counts)]
    together = made.predict(prompts)
    for k, prompt in enumerate(prompts):
        alone = made.predict([prompt])
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[k], atol=1e-5)
        np.testing.assert_allclose(alone.scores[0], together.scores[k], atol=1e-4)


@pytest.mark.parametrize("resolution", ["resize", "interpolate", "window"])
@pytest.mark.parametrize("size", [(32, 32), (64, 48), (1, 1), (5, 70), (90, 31)])
def test_any_size_of_image(make_rmae, resolution, size):
    made = plain(make_rmae(), resolution=resolution, max_patches=60)
    made.set_image(photo(*size))
    middle = (size[1] // 2, size[0] // 2)
    found = made.predict([made.prompt(points=[middle]), made.prompt()])
    assert made.image_size == size and made.hidden.shape == made.grid
    assert made.grid[0] * made.grid[1] <= 60
    assert found.masks.shape == found.probabilities.shape == (2, *size)
    assert found.masks.dtype == bool and found.probabilities.dtype == np.float32
    assert np.isfinite(found.probabilities).all()
    assert found.probabilities.min() >= 0 and found.probabilities.max() <= 1
    assert not found.probabilities[1].any() and found.scores[1] == 0


@pytest.mark.parametrize("resolution", ["resize", "interpolate", "window"])
def test_given_patches_are_kept(make_rmae, resolution):
    made = plain(make_rmae(), resolution=resolution, max_patches=64)
    made.set_image(photo(64, 64))
    if resolution == "resize":
        made.embedding = made.embed(photo(32, 32))
    rows, columns = (side * P for side in made.grid)
    assert made.image_size == (rows, columns)
    prompt = random_prompt(made.grid, 7)
    found = made.predict([prompt]).probabilities[0]
    shown = prompt.visible.repeat(P, 0).repeat(P, 1)
    assert np.array_equal(found[shown], prompt.region[shown])
    assert not np.isin(found[~shown], (0, 1)).all()
    everything = RegionPrompt(np.ones(made.grid, bool), prompt.region)
    assert np.array_equal(made.predict([everything]).masks[0], prompt.region)


def test_what_is_hidden_in_the_region_does_not_matter(predictor):
    prompt = random_prompt(GRID, 5)
    shown = prompt.visible.repeat(P, 0).repeat(P, 1)
    other = RegionPrompt(prompt.visible, prompt.region & shown)
    one, two = predictor.predict([prompt, other]).probabilities
    assert np.array_equal(one, two)


def test_pixels_matter_and_hidden_ones_do_not(make_rmae):
    made = plain(make_rmae(), mask_ratio=0.75)
    image = photo()
    embedding = made.embed(image)
    changed = image.reshape(4, P, 4, P, 3).copy()
    changed[:, :, :, :] = np.where(embedding.hidden[:, None, :, None, None], 255 - changed, changed)
    same = made.embed(changed.reshape(32, 32, 3))
    prompt = random_prompt(GRID, 5)
    first = made.predict([prompt], embedding=embedding).probabilities
    assert np.array_equal(first, made.predict([prompt], embedding=same).probabilities)
    inverted = made.predict([prompt], embedding=made.embed(255 - image)).probabilities
    assert np.abs(first - inverted).max() > 1e-3


def test_settings_can_be_chosen_by_image(predictor):
    assert not predictor.hidden.any()
    few = predictor.embed(photo(), mask_ratio=0.5, seed=5).hidden
    assert few.sum() == 8
    assert np.array_equal(few, predictor.embed(photo(), mask_ratio=0.5, seed=5).hidden)
    assert not np.array_equal(few, predictor.embed(photo(), mask_ratio=0.5, seed=6).hidden)
    assert predictor.embed(photo(), mask_ratio=0.95).hidden.sum() == 15  # one is always shown
    with pytest.raises(ValueError, match="mask_ratio=0.99"):
        predictor.embed(photo(), mask_ratio=0.99)


def test_a_model_of_one_size_is_the_same_in_every_resolution(make_rmae):
    model = make_rmae()
    prompts = [random_prompt(GRID, n, n) for n in (2, 9)]
    found = []
    for resolution in ("resize", "interpolate", "window"):
        made = plain(model, resolution=resolution)
        made.set_image(photo())
        assert made.grid == GRID
        found.append(made.predict(prompts).probabilities)
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], atol=1e-6)


def test_only_windows_that_see_the_region_take_part(make_rmae):
    made = plain(make_rmae(), resolution="window")
    made.set_image(photo(32, 96))
    assert made.grid == (4, 12) and len(made.embedding.views) == 5
    left = made.predict([made.prompt(patches=[(1, 0)], negative_patches=[(1, 11)])])
    assert left.probabilities[0, :, : 4 * P].min() > 0
    assert not left.probabilities[0, :, 4 * P :].any()
    # In the middle of two windows it is their mean, by the distance from their borders.
    weights = blend_weights(GRID, P)
    assert weights.min() == 0.25 and weights.argmax() in (16 * 32 + 16, 15 * 32 + 15)
    middle = made.prompt(patches=[(1, 3)])
    both = made.predict([middle]).probabilities[0]
    alone = []
    for start in (0, 2):
        cut = plain(made.model)
        cut.set_image(photo(32, 96)[:, start * P : (start + 4) * P])
        part = cut.predict([cut.prompt(patches=[(1, 3 - start)])]).probabilities[0]
        alone.append(part)
    x = 2 * P + 3
    w = (weights[5, x].item(), weights[5, x - 2 * P].item())
    expected = (w[0] * alone[0][5, x] + w[1] * alone[1][5, x - 2 * P]) / sum(w)
    assert both[5, x] == pytest.approx(expected, abs=1e-5)


SIZE = (40, 120)  # on a grid of 4 x 6, patches of 10 rows and 20 columns of pixels


def known(predictor, grid, size, **arguments):
    """Of each patch of a grid: 1 inside the region, 0 outside, -1 unknown."""
    image = ImageEmbedding(size, grid, np.zeros(grid, bool), (), predictor.model.region_branch)
    made = predictor.prompt(**arguments, embedding=image)
    inside = made.region[::P, ::P]
    assert np.array_equal(made.region, inside.repeat(P, 0).repeat(P, 1))
    return np.where(made.visible, inside.astype(int), -1)


@pytest.fixture
def drawn(predictor):
    def draw(**arguments):
        rows = known(predictor, (4, 6), SIZE, **arguments)
        return ["".join({-1: ".", 0: "-", 1: "+"}[int(v)] for v in row) for row in rows]

    return draw


def test_points(drawn):
    points = [(0, 0), (19, 9), (119, 39), (20, 9)]
    assert drawn(points=points, labels=[1, 1, 0, 1]) == ["++....", "......", "......", ".....-"]
    assert drawn(points=points[:1]) == ["+.....", "......", "......", "......"]


def test_the_later_word_counts(drawn):
    assert drawn(points=[(0, 0), (5, 5)], labels=[1, 0])[0] == "-....."
    assert drawn(patches=[(0, 0), (0, 1)], negative_patches=[(0, 1), (0, 2)])[0] == "+--..."
    assert drawn(negative_patches=[(0, 0)], points=[(0, 0)])[0] == "+....."


def test_a_box_is_a_ring_and_its_middle(drawn):
    expected = ["------", "-....-", "-..+.-", "------"]
    assert drawn(box=(20, 10, 100, 30)) == expected
    assert drawn(box=(21, 10.5, 99, 29.9)) == expected
    # What is outside the image has no patches.
    assert drawn(box=(-50, -5, 25, 100)) == ["..-...", "..-...", "+.-...", "..-..."]


def test_a_boxs_mask_stays_within_a_patch_of_it(make_rmae):
    made = plain(make_rmae(img_size=(64, 64)))
    made.set_image(photo(80, 80))
    box = {"box": (30, 30, 49, 49)}  # patches 3 and 4 of 8 a side
    near = np.zeros((80, 80), bool)
    near[20:60, 20:60] = True
    kept = made.predict([made.prompt(**box)]).probabilities[0]
    free = made.predict([made.prompt(**box, keep_in_box=False)]).probabilities[0]
    edge = 2  # of the resizing
    inside, far = np.s_[20 + edge : 60 - edge], np.s_[: 20 - edge]
    assert not kept[far].any() and not kept[:, far].any() and free[far].any()
    np.testing.assert_allclose(kept[inside, inside], free[inside, inside], atol=1e-6)
    assert made.prompt(**box, assume_background=True).within is not None
    # Whoever says that the region goes on outside of the box is believed.
    assert made.prompt(**box, points=[(75, 75)]).within is None
    assert made.prompt(**box, points=[(75, 75)], labels=[0]).within is not None
    assert made.prompt(**box, points=[(25, 25)]).within is not None
    assert made.prompt(points=[(25, 25)]).within is None


def test_masks_that_are_hardly_what_is_meant():
    marked = np.zeros((8, 8), bool)
    marked[2, 2] = True
    mask = np.zeros((80, 120), bool)
    assert doubt(mask, marked) == ""
    mask[20:40, 20:60] = True  # holds the marked patch
    assert doubt(mask, marked) == ""
    assert doubt(np.roll(mask, 40, axis=0), marked) == "most of it lies apart from the marks"
    apart = mask.copy()
    apart[60:70, 60:100] = True
    assert doubt(apart, marked) == ""
    apart[60:75, 50:110] = True
    assert doubt(apart, marked) == "most of it lies apart from the marks"
    both = marked.copy()
    both[6, 5] = True
    assert doubt(apart, both) == ""
    sprinkled = mask.copy()
    sprinkled[45::8, ::10] = sprinkled[46::8, ::10] = True
    assert doubt(sprinkled, marked) == ""  # specks of two pixels
    for k in range(10):
        assert doubt(sprinkled, marked) == ""
        sprinkled[60:63, 11 * k : 11 * k + 3] = True
    assert re.fullmatch("1[0-9] pieces of it lie apart from the marks", doubt(sprinkled, marked))
    large = np.ones((800, 1200), bool)
    large[:95] = False
    assert doubt(large, marked) == ""
    large[79:] = True
    assert doubt(large, marked) == "it covers nearly all of the image"


def test_a_line_marks_the_patches_on_its_way(drawn):
    assert drawn(scribble=[(5, 5), (5, 35), (115, 35)]) == ["+.....", "+.....", "+.....", "++++++"]
    assert drawn(scribble=[(0, 0), (119, 39)]) == ["++....", ".++...", "...++.", "....++"]
    assert drawn(scribble=[(50, 15)])[1] == "..+..."


def test_a_pixel_of_a_small_image_counts_by_its_middle(predictor):
    marked = known(predictor, (3, 3), (1, 1), points=[(0, 0)])
    assert marked.tolist() == [[-1, -1, -1], [-1, 1, -1], [-1, -1, -1]]


@given(
    st.tuples(*[st.integers(1, 20)] * 2),
    st.tuples(*[st.integers(1, 700)] * 2),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
)
def test_any_pixel_of_any_image_has_a_patch(model, grid, size, places):
    made = plain(model)
    points = [(int(x * (size[1] - 1)), int(y * (size[0] - 1))) for x, y in places]
    marked = known(made, grid, size, points=points)
    line = known(made, grid, size, scribble=points)
    assert 1 <= (marked == 1).sum() <= len(points) and (marked != 0).all()
    assert (line[marked == 1] == 1).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"points": [(120, 0)]}, "points (x, y): (120, 0) is outside the image of 120 x 40"),
        ({"points": [(-1, 3)]}, "outside the image"),
        ({"points": [(float("nan"), 3)]}, "finite"),
        ({"points": [1, 2]}, "points (x, y) of shape (2,)"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "1 points with labels of shape (2,)"),
        ({"points": [(1, 2)], "labels": [2]}, "labels are 1"),
        ({"labels": [1]}, "without points"),
        ({"scribble": [(0, 0), (0, 40)]}, "outside the image"),
        ({"patches": [(4, 0)]}, "patches (row, column): (4, 0) is outside the grid"),
        ({"negative_patches": [(0, -1)]}, "outside the grid of 4 x 6"),
        ({"box": (10, 10, 10, 20)}, "holds nothing"),
        ({"box": (200, 0, 300, 20)}, "holds nothing"),
        ({"box": (0, 0, 1)}, "(x0, y0, x1, y1)"),
    ],
)
def test_marks_that_cannot_be_are_told(drawn, arguments, said):
    with pytest.raises(UserError) as error:
        drawn(**arguments)
    assert said in str(error.value)


def test_corners_that_are_not_marked_count_as_outside(predictor):
    prompt = predictor.prompt(patches=[(1, 1), (0, 0)], assume_background=True)
    assert set(map(tuple, np.argwhere(prompt.visible))) == {(0, 0), (0, 3), (1, 1), (3, 0), (3, 3)}
    known = prompt.region.reshape(4, P, 4, P).any(axis=(1, 3))
    assert set(map(tuple, np.argwhere(known))) == {(0, 0), (1, 1)}
    told = predictor.prompt(patches=[(1, 1)], negative_patches=[(2, 2)], assume_background=True)
    assert set(map(tuple, np.argwhere(told.visible))) == {
        *((0, 0), (0, 3), (1, 1), (2, 2), (3, 0), (3, 3))
    }
    assert np.argwhere(told.region[::P, ::P]).tolist() == [[1, 1]]
    assert not predictor.prompt(assume_background=True).visible.any()


def test_what_cannot_be_is_told(make_rmae, predictor):
    assert predictor.predict([]).masks.shape == (0, 32, 32)
    with pytest.raises(UserError, match="no image"):
        plain(make_rmae()).prompt(points=[(0, 0)])
    with pytest.raises(UserError, match="prompt 1 has visible"):
        predictor.predict([random_prompt(GRID, 2), random_prompt((4, 5), 2)])
    wrong = (photo().astype(np.float32), photo()[:, :, 0], photo(0, 5))
    for image, said in zip(wrong, ("uint8", "uint8", "without pixels"), strict=True):
        with pytest.raises(UserError, match=said):
            predictor.set_image(image)
    with pytest.raises(ValueError, match="resolution='big'"):
        plain(make_rmae(), resolution="big")
    with pytest.raises(UserError, match="edges='x': one of image, model"):
        RegionPromptPredictor(make_rmae(), edges="x")


def test_models_that_cannot_do_it(make_rmae):
    with pytest.raises(UserError, match="no region branch"):
        plain(make_rmae(regions=None))
    with pytest.raises(UserError, match="channel variant"):
        plain(make_rmae(regions={"variant": "channel"}))
    with pytest.raises(UserError, match="does not get the pixels"):
        plain(make_rmae(feeding="region_to_pixel"))
    plain(make_rmae(decoder=None))  # RAE


def two_halves():
    """20 rows, so that what Felzenszwalb's smoothing makes of the edge is too small for a segment."""
    image = np.full((20, 32, 3), 40, np.uint8)
    image[:, 20:] = (120, 60, 40)
    return image


class TestEdgesByTheImage:
    @pytest.fixture
    def made(self, make_rmae):
        made = RegionPromptPredictor(make_rmae())
        made.set_image(two_halves())
        assert np.array_equal(made.embedding.segments.labels, np.tile(np.arange(32) >= 20, (20, 1)))
        return made

    def test_a_click_on_each_segment_says_all(self, made):
        prompt = made.prompt(points=[(3, 3), (30, 15)], labels=[1, 0])
        found = made.predict([prompt])
        assert np.array_equal(found.masks[0], made.embedding.segments.labels == 0)
        assert set(np.unique(found.probabilities)) == {0, 1} and found.scores.tolist() == [1]

    def test_the_first_clicks_prior_is_the_models(self, made):
        found = made.predict([made.prompt(points=[(3, 3)])]).probabilities[0]
        told = plain(made.model)
        told.set_image(two_halves())
        prompt = told.prompt(points=[(3, 3)], assume_background=True)
        prior = told.predict([prompt]).probabilities[0][:, 20:].clip(0.02, 0.98).mean()
        assert 0.05 < prior < 0.95
        weight, tie = 0.01 * 20 * 12, 20 * (0.01 + np.exp(-(80**2 + 20**2) / 80**2))
        other = (tie + weight * prior) / (tie + weight)
        np.testing.assert_allclose(found[:, :20], 1)
        np.testing.assert_allclose(found[:, 20:], other, atol=1e-5)

    def test_a_segment_clicked_twice_is_divided_at_the_middle(self, made):
        points = [(2, 10), (14, 10), (30, 10)]
        found = made.predict([made.prompt(points=points, labels=[1, 0, 0])])
        assert found.masks[0, 10, :8].all() and not found.masks[0, 10, 9:].any()

    def test_pixels_for_points_and_all_of_a_patch_for_patches(self, made):
        seeds = made.prompt(patches=[(0, 0), (1, 1)], points=[(9, 7), (12, 6)], labels=[1, 0]).seeds
        expected = np.full((20, 32), -1)
        expected[:5, :8] = 1
        expected[7, 9], expected[6, 12] = 1, 0
        assert np.array_equal(seeds, expected)

    def test_without_marks_there_is_no_mask(self, made):
        assert not made.predict([made.prompt()]).probabilities.any()

    def test_a_box_keeps_the_mask(self, made):
        found = made.predict([made.prompt(box=(8, 5, 15, 9))]).masks[0]
        assert found[7, 11] and not found[:5].any() and not found[:, :8].any()
        assert not found[10:].any() and not found[:, 16:].any()
