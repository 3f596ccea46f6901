import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rmae_d2.modeling import (
    Batch,
    IndependentMasking,
    MaskingPolicy,
    MaskPlan,
    RegionGuidedMasking,
    random_shuffle,
)
from rmae_d2.modeling.rmae import drop_regions
from rmae_d2.noise import hash_noise, region_shuffle
from tests.helpers import region_samples
from tests.modeling.masking.helpers import P, request_of
from tests.modeling.masking.test_base import requests


@given(request=requests(), share=st.floats(0, 1))
def test_regions_are_hidden_one_after_another(request, share):
    """Against loops over regions and pixels."""
    plan = RegionGuidedMasking(share)(request)
    L, K = request.num_patches, request.regions.shape[1]
    guided = round(share * (L - request.visible))
    noise = hash_noise(request.seeds, L + K)[:, L:]
    for i, order in enumerate(plan.ids_shuffle.tolist()):
        hidden, left, done = set(order[L - guided :]), guided, set()
        for k in sorted(range(K), key=lambda k, i=i: int(noise[i, k])):
            pixels = request.regions[i, k].nonzero().tolist()
            new = {y // P * request.grid[1] + x // P for y, x in pixels} - done
            done |= new
            # Whole where it fits, else in part; so none follows once nothing is left.
            assert len(new & hidden) == min(len(new), left)
            left -= len(new & hidden)
        assert len(hidden - done) == left  # outside all regions where they do not suffice


def test_every_region_has_its_turn_first_equally_often():
    """Four quarters of the image, one quarter hidden: it is one of them, each 250 +- 5 deviations."""
    maps = torch.zeros(4, 32, 32, dtype=torch.bool)
    for k in range(4):
        y, x = 16 * (k // 2), 16 * (k % 2)
        maps[k, y : y + 16, x : x + 16] = True
    plan = RegionGuidedMasking()(request_of(range(1000), visible=12, regions=maps))
    hidden = plan.ids_shuffle[:, 12:]
    quarter = hidden // 4 // 2 * 2 + hidden % 4 // 2
    assert (quarter == quarter[:, :1]).all()
    counts = quarter[:, 0].bincount(minlength=4)
    assert (counts - 250).abs().max() < 5 * (1000 * 0.25 * 0.75) ** 0.5


def test_the_region_branchs_own_order_is_unrelated():
    seeds = torch.arange(2000)
    plan = IndependentMasking()(request_of(seeds))
    assert torch.equal(plan.ids_shuffle, random_shuffle(seeds, 16))
    assert torch.equal(plan.region_order, region_shuffle(seeds, 16))
    both = [
        torch.zeros(2000, 16).scatter(1, ids[:, :4], 1)
        for ids in (plan.ids_shuffle, plan.region_order)
    ]
    # Hypergeometric: 4 of 16 and 4 of 16 share one patch on average, variance 0.6.
    shared = (both[0] * both[1]).sum(dim=1).mean().item()
    assert shared == pytest.approx(1, abs=5 * (0.6 / 2000) ** 0.5)


def test_no_regions_for_a_policy_that_needs_them(make_rmae):
    model = make_rmae(regions=None, masking=RegionGuidedMasking())
    with pytest.raises(ValueError, match="RegionGuidedMasking was given no regions"):
        model([{"image": x["image"], "mask_seed": 7} for x in region_samples()])
    with pytest.raises(ValueError, match=r"share=1\.5"):
        RegionGuidedMasking(1.5)


# ---- in the model


def test_independent_masks_in_the_model(make_rmae):
    model = make_rmae(masking=IndependentMasking())
    seeds = torch.tensor([7, 8])
    for i, out in enumerate(model.eval()(region_samples(regions=5))):
        for name, shuffle in (("mask", random_shuffle), ("region_mask", region_shuffle)):
            visible = shuffle(seeds, 16)[i, :4]
            assert not out[name][visible].any()
    losses = model.train()(region_samples(regions=5))
    each = [x["loss_region"] for x in model.eval()(region_samples(regions=5))]
    assert torch.allclose(losses["loss_region"], torch.stack(each).mean())
    # Orders that are given are shared, as in the published code.
    images, ids = torch.randn(2, 3, 32, 32), random_shuffle(seeds, 16)
    out = model.forward_tensors(images, torch.zeros(2, 3, 32, 32), ids)
    assert torch.equal(out["mask"], out["region_mask"])


def test_mae_hides_regions_too(make_rmae):
    """The regions of the batch are read for the policy, though no branch predicts them."""
    model = make_rmae(regions=None, masking=RegionGuidedMasking()).eval()
    samples = region_samples(regions=1)
    for sample in samples:
        sample["regions"] = torch.zeros(1, 32, 32, dtype=torch.bool)
        sample["regions"][:, :16, :16] = True
    for out in model(samples):
        assert out["mask"][[0, 1, 4, 5]].all() and "pred_regions" not in out


class Bright(MaskingPolicy):
    """Hides the bright patches; its parameter has a loss."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, request):
        brightness = request.images.unfold(2, 8, 8).unfold(3, 8, 8).mean(dim=(1, 4, 5)).flatten(1)
        losses = {"loss_masking": self.scale.square() * torch.ones(len(brightness))}
        return MaskPlan(brightness.argsort(dim=1), losses=losses)


def test_a_policy_may_see_images_have_parameters_and_add_losses(make_rmae):
    model = make_rmae(masking=Bright())
    assert "masking.scale" in model.state_dict()
    with torch.no_grad():
        model.masking.scale.fill_(2.0)
    samples = region_samples(regions=5)
    samples[0]["image"] = torch.zeros(3, 32, 32, dtype=torch.uint8)
    samples[0]["image"][:, 8:] = 200
    losses = model.train()(samples)
    assert losses["loss_masking"].item() == 4
    sum(losses.values()).backward()
    assert model.masking.scale.grad.item() == pytest.approx(4)
    out = model.eval()(samples)
    assert out[0]["mask"].tolist() == [False] * 4 + [True] * 12
    assert out[0]["loss_masking"].item() == 4
    tensors = model.forward_tensors(torch.randn(2, 3, 32, 32), torch.zeros(2, 3, 32, 32))
    total = tensors["loss_pixel"] + tensors["loss_region"] + tensors["loss_masking"]
    assert torch.allclose(tensors["loss"], total)


# ---- region dropout


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5), st.integers(1, 9))
def test_dropout_keeps_the_first_regions_by_the_seeds(seeds, K):
    maps = torch.rand(len(seeds), K, 4, 4) > 0.5
    kept = drop_regions(maps, torch.tensor(seeds))
    number = kept.shape[1]
    assert 1 <= number <= K and torch.equal(kept, maps[:, :number])
    assert drop_regions(maps, torch.tensor(seeds[::-1])).shape[1] == number


def test_dropout_keeps_every_number_equally_often():
    maps = torch.zeros(1, 8, 2, 2)
    numbers = [drop_regions(maps, torch.tensor([seed])).shape[1] for seed in range(800)]
    counts = torch.tensor(numbers).bincount(minlength=9)
    assert counts[0] == 0
    assert (counts[1:] - 100).abs().max() < 5 * (800 / 8 * 7 / 8) ** 0.5


@pytest.mark.parametrize("variant", ["length", "batch"])
def test_dropout_in_training_only(make_rmae, variant):
    model = make_rmae(region_dropout=True, regions={"variant": variant})
    samples = region_samples(regions=5)
    seeds = torch.tensor([7, 8])
    maps = torch.stack([x["regions"] for x in samples])
    kept = drop_regions(maps, seeds)
    assert kept.shape[1] < 5
    expected = model.forward_tensors(
        model.normalize(Batch.of(samples).images), kept, random_shuffle(seeds, 16)
    )
    losses = model.train()(samples)
    assert torch.allclose(losses["loss_region"], expected["loss_region"])
    assert torch.equal(sum(model(samples).values()), sum(losses.values()))
    assert model.eval()(samples)[0]["pred_regions"].shape[0] == 5
