"""What all policies have in common, each on its own and in the model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.modeling import (
    AttentionGuidedMasking,
    Batch,
    BlockMasking,
    BoxPriorMasking,
    GridMasking,
    IndependentMasking,
    MaskRequest,
    RandomMasking,
    RegionGuidedMasking,
    mask_from_order,
    mask_to_pixels,
    num_visible,
    random_shuffle,
)
from tests.helpers import region_samples
from tests.modeling.masking.helpers import P, make_learned, make_scorer, request_of

POLICIES = {
    "random": lambda grid: RandomMasking(),
    "independent": lambda grid: IndependentMasking(),
    "guided": lambda grid: RegionGuidedMasking(),
    "half guided": lambda grid: RegionGuidedMasking(0.5),
    "guided, regions independent": lambda grid: IndependentMasking(RegionGuidedMasking()),
    "block": lambda grid: BlockMasking(),
    "grid": lambda grid: GridMasking(),
    "box": lambda grid: BoxPriorMasking(),
    "attention": lambda grid: AttentionGuidedMasking(make_scorer(grid)),
    "learned": make_learned,
}


@st.composite
def requests(draw):
    """Batches of rectangular regions, some empty, on grids that need not be square."""
    grid = draw(st.tuples(st.integers(4, 6), st.integers(4, 7)))
    size = (grid[0] * P, grid[1] * P)
    maps = torch.zeros(draw(st.integers(1, 4)), *size, dtype=torch.bool)
    for box_map in maps:
        top, left = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
        height, width = draw(st.integers(0, size[0])), draw(st.integers(0, size[1]))
        box_map[top : top + height, left : left + width] = True
    seeds = draw(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4))
    visible = draw(st.integers(1, grid[0] * grid[1] - 1))
    return request_of(seeds, grid, visible, draw(st.floats(0, 1)), maps)


@pytest.mark.parametrize("name", POLICIES)
@given(request=requests())
def test_every_order_is_a_permutation_and_a_function_of_its_own_image(name, request):
    policy = POLICIES[name](request.grid)
    plan, L = policy(request), request.num_patches
    torch.rand(7)  # torch's generator plays no part
    alone = policy(
        MaskRequest(
            *(request.seeds[-1:], request.grid, request.visible, request.images[-1:]),
            *(request.regions[-1:].float(), request.progress),
        )
    )
    for order, again in (
        (plan.ids_shuffle, alone.ids_shuffle),
        (plan.region_order, alone.region_order),
    ):
        assert order.dtype == torch.int64
        assert torch.equal(order.sort(dim=1).values, torch.arange(L).expand(len(order), L))
        assert torch.equal(order[-1:], again)
    assert bool(plan.losses) == (name == "learned")
    for loss in plan.losses:
        torch.testing.assert_close(alone.losses[loss], plan.losses[loss][-1:])


@pytest.mark.parametrize(("beta_i", "beta_r"), [(0.75, None), (0.5, 0.75), (0.3, 0.9)])
@pytest.mark.parametrize("name", POLICIES)
def test_the_models_masks_have_the_exact_ratio(make_rmae, name, beta_i, beta_r):
    """Whatever the policy and, of one with a schedule, the share of the run that is done."""
    policy = POLICIES[name]((4, 4))
    model = make_rmae(mask_ratio=beta_i, masking=policy, regions={"mask_ratio": beta_r})
    samples = region_samples(regions=5)
    visible = num_visible(16, beta_i), num_visible(16, beta_r or beta_i)
    for progress in (0.0, 0.5, 1.0):
        for out in model.eval()(samples, progress=progress):
            assert (~out["mask"]).sum() == visible[0] and (~out["region_mask"]).sum() == visible[1]
            predicted = out["pred_regions"].abs().sum(dim=(0, 2)) > 0
            assert torch.equal(predicted, out["region_mask"])
            assert torch.equal(out["pred_pixels"].abs().sum(dim=1) > 0, out["mask"])
    losses, _, plan = model.train()(Batch.of(samples), progress=0.5)
    assert len(plan.ids_shuffle) == 2 and {"loss_pixel", "loss_region"} <= set(losses)
    sum(losses.values()).backward()


@pytest.mark.parametrize("name", POLICIES)
def test_what_the_seed_alone_orders_is_said(name):
    policy, seeds = POLICIES[name]((4, 4)), torch.tensor([3, 9])
    maps = torch.zeros(1, 32, 32, dtype=torch.bool)
    order = policy(request_of(seeds, regions=maps)).region_order
    if policy.order_by_seed is None:
        assert not name.startswith(("random", "independent"))
    else:
        assert torch.equal(policy.order_by_seed(seeds, 16), order)


def test_the_default_policy():
    request = request_of([3, 9], (2, 5), 3)
    plan = RandomMasking()(request)
    assert torch.equal(plan.ids_shuffle, random_shuffle(request.seeds, 10))
    assert plan.region_order is plan.ids_shuffle and not plan.losses and not plan.scalars


def test_true_is_hidden():
    ids = torch.tensor([[2, 0, 1, 3], [3, 1, 2, 0]])
    mask = mask_from_order(ids, 1)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[True, True, False, True], [True, True, True, False]]
    pixels = mask_to_pixels(mask[0], (4, 4))
    assert pixels.shape == (4, 4) and not pixels[2:, :2].any() and pixels.sum() == 12
