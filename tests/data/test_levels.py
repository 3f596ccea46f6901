"""Regions drawn by level, and losses that weigh levels."""

import numpy as np
import pytest
import torch
from PIL import Image

from rmae_d2.data.mappers import RegionDatasetMapper
from rmae_d2.errors import UserError
from rmae_d2.modeling import Batch
from rmae_d2.modeling.losses import region_loss
from rmae_d2.regions import RegionRecord

SIZE = (16, 16)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "a.png"
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)
    return {"file_name": str(path), "image_id": "a"}


def quarters(dataset_dict, image):
    """16 parts in 4 objects, in one group."""
    rows, columns = np.indices(SIZE)
    planes = [rows // s * (16 // s) + columns // s for s in (4, 8, 16)]
    return RegionRecord.from_labels(np.stack(planes))


def drawn(photo, probabilities, num_regions=4, times=1, regions=quarters):
    """Levels and areas of drawn regions, (times, num_regions) each."""
    mapper = RegionDatasetMapper(
        augmentations=[],
        regions=regions,
        num_regions=num_regions,
        level_probabilities=probabilities,
    )
    samples = [mapper(photo) for _ in range(times)]
    maps = [Batch.of([sample]).region_maps()[0] for sample in samples]
    areas = torch.stack([m.sum(dim=(1, 2)) for m in maps])
    return np.array([sample["region_levels"] for sample in samples]), areas.numpy()


def test_levels_are_drawn_by_their_probabilities(photo):
    """Areas tell the level; each is drawn as often as asked for, within five standard deviations."""
    np.random.seed(0)
    levels, areas = drawn(photo, [1, 2, 1], times=1000)
    np.testing.assert_array_equal(areas, np.array([16, 64, 256])[levels])
    counts = np.bincount(levels.ravel(), minlength=3)
    expected = 4000 * np.array([0.25, 0.5, 0.25])
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected * 0.75)).all()


def test_without_probabilities_fine_levels_dominate(photo):
    """16 of 21 regions are parts; samples are as ever, without levels."""
    np.random.seed(0)
    mapper = RegionDatasetMapper(augmentations=[], regions=quarters, num_regions=8)
    sample = mapper(photo)
    assert "region_levels" not in sample
    areas = Batch.of([sample]).region_maps().sum(dim=(2, 3))
    assert (areas == 16).sum() >= 4


def test_no_region_is_drawn_twice_while_its_level_has_others(photo):
    mapper = RegionDatasetMapper(
        augmentations=[], regions=quarters, num_regions=8, level_probabilities=[0, 1, 0]
    )
    for _ in range(20):
        maps = Batch.of([mapper(photo)]).region_maps()[0].flatten(1)
        assert (maps.sum(dim=0) == 2).all()  # each of four quarters twice


def test_a_level_that_is_not_there_leaves_its_share(photo):
    """A crop with one level only; and overlapping masks, the level after the planes."""
    levels, _ = drawn(photo, [0, 0, 1, 5], times=3)
    assert (levels == 2).all()
    masks = np.ones((2, *SIZE), bool)

    def with_masks(dataset_dict, image):
        record = RegionRecord.from_masks(masks)
        return RegionRecord(np.zeros((1, *SIZE), np.uint8), record.mask_bits, 2)

    assert (drawn(photo, [0, 1], times=3, regions=with_masks)[0] == 1).all()
    # Of a probability of 0 only where there is nothing else.
    assert (
        drawn(photo, [1, 0, 0], regions=lambda *_: RegionRecord.from_masks(masks))[0] == 0
    ).all()


@pytest.mark.parametrize("probabilities", [[], [-1, 2], [0, 0]])
def test_bad_probabilities(probabilities):
    with pytest.raises(UserError, match="level_probabilities="):
        RegionDatasetMapper(augmentations=[], regions=quarters, level_probabilities=probabilities)


def test_too_few_probabilities(photo):
    with pytest.raises(UserError, match="for regions of 3 levels: give one each"):
        drawn(photo, [1, 1])


def test_the_loss_weighs_levels(make_rmae):
    """The mean over regions of weight times loss; evaluation is unweighted."""
    model = make_rmae(level_weights=[0.5, 2])
    plain = make_rmae()
    plain.load_state_dict(model.state_dict())
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    maps = torch.rand(2, 3, 32, 32) > 0.5
    levels = [[0, 1, 1], [1, 0, 0]]
    samples = [
        {"image": i, "regions": r, "region_levels": of, "mask_seed": 5}
        for i, r, of in zip(images, maps, levels, strict=True)
    ]
    kept = {}

    def keep(logits, target, *rest):
        kept["each"] = region_loss(logits.flatten(0, 1)[:, None], target.flatten(0, 1)[:, None])
        return region_loss(logits, target, *rest)

    import rmae_d2.modeling.rmae as module

    module.region_loss, before = keep, module.region_loss
    try:
        loss = model(samples)["loss_region"]
    finally:
        module.region_loss = before
    weights = torch.tensor([0.5, 2])[torch.tensor(levels)].flatten()
    torch.testing.assert_close(loss, (kept["each"] * weights).mean())
    assert loss != plain(samples)["loss_region"]
    ours, theirs = model.eval()(samples), plain.eval()(samples)
    assert all(a["loss_region"] == b["loss_region"] for a, b in zip(ours, theirs, strict=True))


def test_weights_that_do_not_fit(make_rmae):
    with pytest.raises(UserError, match="level_weights="):
        make_rmae(level_weights=[1, -1])
    model = make_rmae(level_weights=[1])
    image, maps = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.ones(2, 32, 32, dtype=torch.bool)
    sample = {"image": image, "regions": maps}
    with pytest.raises(UserError, match="set dataloader.train.mapper.level_probabilities"):
        model([sample])
    with pytest.raises(UserError, match="for regions of 2 levels: give one each"):
        model([{**sample, "region_levels": [0, 1]}])
