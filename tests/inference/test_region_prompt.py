"""Masks from a few visible patches, with small networks of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.config import get_config, save_config
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.inference import RegionPrompt, RegionPromptPredictor
from rmae_d2.inference.region_views import (
    blend_weights,
    mask_confidence,
    near_grid,
    window_grid,
    window_starts,
)
from rmae_d2.modeling import random_shuffle

GRID, P = (4, 4), 8
SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}


def photo(height=32, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def random_prompt(grid, count, seed=0):
    rng = np.random.default_rng(seed)
    visible = np.zeros(grid, bool)
    visible.ravel()[rng.permutation(visible.size)[:count]] = True
    return RegionPrompt(visible, rng.random((grid[0] * P, grid[1] * P)) < 0.5)


@pytest.fixture
def predictor(make_rmae):
    made = RegionPromptPredictor(make_rmae())
    made.set_image(photo())
    return made


@pytest.mark.parametrize("variant", ["length", "batch"])
def test_the_model_itself_predicts_the_same(make_rmae, variant):
    regions = {} if variant == "length" else {"variant": "batch"}
    model = make_rmae(regions=regions, mask_ratio=0.75).eval()
    made = RegionPromptPredictor(model, mask_ratio=0.75, seed=3)
    image = photo()
    made.set_image(image)
    order = random_shuffle(torch.tensor([3]), 16)
    assert np.array_equal(made.hidden.ravel()[order[0]], [False] * 4 + [True] * 12)
    region = torch.rand(1, 1, 32, 32) < 0.5
    pixels = model.normalize(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
    with torch.no_grad():
        outputs = model(
            [
                {
                    "image": torch.from_numpy(image).permute(2, 0, 1),
                    "regions": region[0],
                    "mask_seed": 3,
                }
            ]
        )
        plain = model.forward_tensors(pixels, region, order)
    prompt = RegionPrompt(~made.hidden, region[0, 0].numpy())
    found = made.predict([prompt]).probabilities
    np.testing.assert_allclose(found, outputs[0]["region_probability"], atol=1e-5)
    hidden = order[0, 4:]
    patches = torch.from_numpy(found).view(4, P, 4, P).transpose(1, 2).reshape(16, P * P)
    expected = plain["pred_regions"][0, 0, hidden].sigmoid()
    torch.testing.assert_close(patches[hidden], expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def model(make_rmae):
    return make_rmae()


@given(st.lists(st.integers(0, 16), min_size=1, max_size=6), st.integers(0, 5))
def test_a_prompt_does_not_depend_on_the_others(model, counts, seed):
    made = RegionPromptPredictor(model, mask_ratio=0.5, seed=seed)
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
    made = RegionPromptPredictor(make_rmae(), resolution=resolution, max_patches=60)
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
    made = RegionPromptPredictor(make_rmae(), resolution=resolution, max_patches=64)
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
    made = RegionPromptPredictor(make_rmae(), mask_ratio=0.75)
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
        made = RegionPromptPredictor(model, resolution=resolution)
        made.set_image(photo())
        assert made.grid == GRID
        found.append(made.predict(prompts).probabilities)
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], atol=1e-6)


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


def test_only_windows_that_see_the_region_take_part(make_rmae):
    made = RegionPromptPredictor(make_rmae(), resolution="window")
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
        cut = RegionPromptPredictor(made.model)
        cut.set_image(photo(32, 96)[:, start * P : (start + 4) * P])
        part = cut.predict([cut.prompt(patches=[(1, 3 - start)])]).probabilities[0]
        alone.append(part)
    x = 2 * P + 3
    w = (weights[5, x].item(), weights[5, x - 2 * P].item())
    expected = (w[0] * alone[0][5, x] + w[1] * alone[1][5, x - 2 * P]) / sum(w)
    assert both[5, x] == pytest.approx(expected, abs=1e-5)


def test_confidence_by_hand():
    probabilities = torch.tensor([[[0.9, 0.7], [0.4, 0.0]], [[0.1, 0.1], [0.1, 0.1]]])
    scores = mask_confidence(probabilities, probabilities > 0.5)
    torch.testing.assert_close(scores, torch.tensor([1.6 / 2.4, 0.0]))


def test_corners_count_as_outside_where_nothing_else_does(predictor):
    prompt = predictor.prompt(patches=[(1, 1), (0, 0)], assume_background=True)
    assert set(map(tuple, np.argwhere(prompt.visible))) == {(0, 0), (0, 3), (1, 1), (3, 0), (3, 3)}
    known = prompt.region.reshape(4, P, 4, P).any(axis=(1, 3))
    assert set(map(tuple, np.argwhere(known))) == {(0, 0), (1, 1)}
    told = predictor.prompt(patches=[(1, 1)], negative_patches=[(2, 2)], assume_background=True)
    assert told.visible.sum() == 2
    assert not predictor.prompt(assume_background=True).visible.any()


def test_no_prompts_no_masks(predictor):
    found = predictor.predict([])
    assert found.masks.shape == (0, 32, 32) and found.scores.shape == (0,)


def test_what_cannot_be_is_told(make_rmae, predictor):
    with pytest.raises(UserError, match="no image"):
        RegionPromptPredictor(make_rmae()).prompt(points=[(0, 0)])
    with pytest.raises(UserError, match="outside the image"):
        predictor.prompt(points=[(32, 0)])
    with pytest.raises(UserError, match="prompt 1 has visible"):
        predictor.predict([random_prompt(GRID, 2), random_prompt((4, 5), 2)])
    with pytest.raises(UserError, match="uint8"):
        predictor.set_image(photo().astype(np.float32))
    with pytest.raises(UserError, match="uint8"):
        predictor.set_image(photo()[:, :, 0])
    with pytest.raises(UserError, match="without pixels"):
        predictor.set_image(photo(0, 5))
    with pytest.raises(ValueError, match="resolution='big'"):
        RegionPromptPredictor(make_rmae(), resolution="big")


def test_models_that_cannot_do_it(make_rmae):
    with pytest.raises(UserError, match="no region branch"):
        RegionPromptPredictor(make_rmae(regions=None))
    with pytest.raises(UserError, match="channel variant"):
        RegionPromptPredictor(make_rmae(regions={"variant": "channel"}))
    with pytest.raises(UserError, match="does not get the pixels"):
        RegionPromptPredictor(make_rmae(feeding="region_to_pixel"))
    RegionPromptPredictor(make_rmae(decoder=None))  # RAE


@pytest.fixture(scope="module")
def run(make_run):
    """A folder as runs leave it: config.yaml and weights, untrained."""
    return Path(make_run()).parent


def test_from_the_files_of_a_run(run):
    made = RegionPromptPredictor.from_files(
        run / "model_final.pth", device="cpu", resolution="window", mask_ratio=0.5, seed=4
    )
    assert (made.resolution, made.mask_ratio, made.seed) == ("window", 0.5, 4)
    assert not made.model.training
    state = torch.load(run / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(state[name], own) for name, own in made.model.state_dict().items())


def test_files_that_do_not_do(run, tmp_path):
    weights = run / "model_final.pth"
    with pytest.raises(CheckpointError, match="no such weight file"):
        RegionPromptPredictor.from_files(run / "other.pth")
    state = torch.load(weights, weights_only=True)["model"]
    lacking = {k: v for k, v in state.items() if not k.startswith("region_branch.pred")}
    torch.save({"model": lacking}, tmp_path / "lacking.pth")
    with pytest.raises(UserError, match="no config.yaml beside"):
        RegionPromptPredictor.from_files(tmp_path / "lacking.pth")
    with pytest.raises(CheckpointError, match="region_branch.pred"):
        RegionPromptPredictor.from_files(tmp_path / "lacking.pth", run / "config.yaml")
    with pytest.raises(UserError, match="no region branch"):
        RegionPromptPredictor.from_files(weights, overrides=["model.region_branch=null"])
    with pytest.raises(UserError, match="completes no regions"):
        small = [f"model.backbone.net.{key}={value}" for key, value in SIZES.items()]
        save_config(get_config("imagenet/finetune_vitb.py"), tmp_path / "classifier.yaml")
        RegionPromptPredictor.from_files(weights, tmp_path / "classifier.yaml", overrides=small)
