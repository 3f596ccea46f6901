"""Proposals: a point's mask, non-maximum suppression, and the whole on a rendered scene."""

import pickle

import numpy as np
import pycocotools.mask as mask_util
import pytest

from rmae_d2.data.scenes.render import render_scene
from rmae_d2.errors import UserError
from rmae_d2.inference import RegionPromptPredictor
from rmae_d2.inference.proposals import ProposalSource, _apart

WEIGHTS = "rmae-d2://rmae_scenes"


@pytest.fixture(scope="module")
def scene():
    return render_scene(seed=0, index=0)


@pytest.fixture(scope="module")
def source():
    return ProposalSource(WEIGHTS, device="cpu", points_per_side=8)


def rle(y, x, h, w):
    mask = np.zeros((20, 20), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask_util.encode(np.asfortranarray(mask))


def test_of_similar_masks_the_best_stays():
    masks = [rle(0, 0, 10, 10), rle(0, 0, 10, 8), rle(0, 0, 10, 6), rle(10, 10, 5, 5)]
    # 8 of 10 columns overlap 0.8 with the first, 6 of 10 0.6: only what is kept suppresses.
    assert _apart(masks, 0.7) == [0, 2, 3]
    assert _apart(masks, 0.5) == [0, 3]
    assert _apart(masks, 1.0) == [0, 1, 2, 3]
    assert _apart([], 0.5) == []


def test_one_point_is_the_predictors_mask(scene):
    """The middle of the image, as a click there."""
    predictor = RegionPromptPredictor.from_files(WEIGHTS, device="cpu")
    predictor.set_image(scene.image)
    H, W = predictor.image_size
    found = predictor.predict([predictor.prompt(points=[(W / 2, H / 2)])])
    source = ProposalSource(WEIGHTS, device="cpu", points_per_side=1)
    proposals = source.propose(scene.image)
    assert len(proposals.masks) == 1
    np.testing.assert_array_equal(mask_util.decode(proposals.masks[0]), found.masks[0])
    high, low = (found.probabilities[0] > 0.6), (found.probabilities[0] > 0.4)
    assert proposals.scores[0] == pytest.approx((high & low).sum() / (high | low).sum())


def test_of_a_scene(source, scene):
    """By falling score, apart, not tiny; most objects are among them, far above chance."""
    found = source.propose(scene.image)
    assert (np.diff(found.scores) <= 0).all() and 10 < len(found.masks) <= 64
    overlaps = mask_util.iou(found.masks, found.masks, [0] * len(found.masks))
    assert np.triu(overlaps, 1).max() <= 0.7
    pixels = scene.image[..., 0].size
    assert mask_util.area(found.masks).min() >= 0.002 * pixels
    masks = mask_util.decode(found.masks).astype(bool).transpose(2, 0, 1)
    best = [max((m & t).sum() / (m | t).sum() for m in masks) for t in scene.masks]
    assert np.mean(best) > 0.4


def test_as_regions(source, scene):
    """The record holds the same masks, the largest first; the same after pickling."""
    record = pickle.loads(pickle.dumps(source))({}, scene.image)
    found = source.propose(scene.image)
    assert record.params == source.params and record.num_masks == len(found.masks)
    areas = record.regions().area
    np.testing.assert_array_equal(areas, np.sort(mask_util.area(found.masks))[::-1])
    ours = {mask.tobytes() for mask in record.select(np.arange(len(areas)))}
    theirs = mask_util.decode(found.masks).astype(bool).transpose(2, 0, 1)
    assert ours == {np.ascontiguousarray(mask).tobytes() for mask in theirs}


def test_at_most(scene):
    few = ProposalSource(WEIGHTS, device="cpu", points_per_side=8, max_proposals=5)
    assert len(few.propose(scene.image).masks) == 5


def test_an_image_of_one_pixel_has_none(source):
    image = np.zeros((1, 1, 3), np.uint8)
    assert source.propose(image).masks == [] and source({}, image).num_masks == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points_per_side": 0}, "points_per_side=0"),
        ({"max_overlap": 1.5}, "max_overlap=1.5 must be from 0 to 1"),
        ({"edges": "none"}, "edges='none'"),
        ({"weights": "absent.pth"}, "absent.pth"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        ProposalSource(**{"weights": WEIGHTS, "device": "cpu", **settings})


def test_models_without_a_region_branch_propose_nothing(make_run):
    weights = make_run("model.region_branch=null")
    with pytest.raises(UserError, match="has no region branch"):
        ProposalSource(weights, device="cpu")
