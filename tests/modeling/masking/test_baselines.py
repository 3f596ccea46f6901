import pytest
import torch

from rmae_d2.modeling import (
    AttentionGuidedMasking,
    Batch,
    BlockMasking,
    BoxPriorMasking,
    GridMasking,
    MaskRequest,
    random_shuffle,
)
from rmae_d2.modeling.masking.baselines import filled_boxes
from rmae_d2.modeling.masking.rectangles import sample_rectangles
from tests.modeling.masking.helpers import P, make_scorer, request_of

GRID = {"grid": (6, 6), "visible": 9}
BOX = torch.zeros(1, 48, 48, dtype=torch.bool)
BOX[0, : P + 1, : 2 * P] = True


# ---- block


def test_blocks_are_hidden_one_after_another():
    policy = BlockMasking(number=8)
    request = request_of(range(20), (6, 6), visible=12)
    hidden = policy(request).ids_shuffle[:, 12:]
    blocks = sample_rectangles(request.seeds, (6, 6), policy.area, policy.side, 8).flatten(2)
    for i, ids in enumerate(hidden.tolist()):
        left, done = 24, set()
        for block in blocks[i]:
            new = set(block.nonzero()[:, 0].tolist()) - done
            done |= new
            assert len(new & set(ids)) == min(len(new), left)
            left -= len(new & set(ids))
        assert len(set(ids) - done) == left


# ---- grid


def test_three_quarters_of_a_grid():
    """One patch of every 2x2, the same everywhere; each of the four equally often."""
    n = 800
    visible = (
        GridMasking()(request_of(range(n), **GRID, regions=BOX))
        .ids_shuffle[:, :9]
        .sort(dim=1)
        .values
    )
    rows, columns = visible // 6, visible % 6
    place = rows % 2 * 2 + columns % 2
    assert (place == place[:, :1]).all()
    counts = place[:, 0].bincount(minlength=4)
    assert (counts - n / 4).abs().max() < 5 * (n * 0.25 * 0.75) ** 0.5


# ---- box prior


def test_boxes_are_filled():
    maps = torch.zeros(1, 2, 5, 6, dtype=torch.bool)
    maps[0, 0, 1, 4] = maps[0, 0, 3, 2] = True
    boxes = filled_boxes(maps)
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(boxes[0, 0], expected) and not boxes[0, 1].any()


def test_boxes_are_hidden_more_often():
    """Of 36 patches 4 are in the box (it touches 2 rows of 2); closed forms at the ends of the bonus."""
    n = 2000
    request = request_of(range(n), **GRID, regions=BOX)
    inside = [0, 1, 6, 7]

    def hidden_inside(bonus):
        hidden = BoxPriorMasking(bonus)(request).ids_shuffle[:, 9:]
        return torch.isin(hidden, torch.tensor(inside)).sum(dim=1)

    assert torch.equal(BoxPriorMasking(0.0)(request).ids_shuffle, random_shuffle(request.seeds, 36))
    random = hidden_inside(0.0).double().mean().item()
    # Hypergeometric: 27 of 36 are hidden, 4 of them inside by chance 3 on average.
    assert random == pytest.approx(3, abs=5 * (4 * 0.75 * 0.25 * 32 / 35 / n) ** 0.5)
    assert (hidden_inside(1.0) == 4).all()
    # At 0.5 an inside patch is visible only below about 0.28 - 0.5 of noise: hardly ever.
    assert random < hidden_inside(0.1).double().mean() < hidden_inside(0.3).double().mean() < 4
    with pytest.raises(ValueError, match="BoxPriorMasking was given no regions"):
        BoxPriorMasking()(MaskRequest(request.seeds, (6, 6), 9, request.images))


# ---- attention-guided


def parts_of(scorer, images):
    attention = scorer.attention(images)
    return (attention / attention.sum(dim=2, keepdim=True)).argmax(dim=1)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_from_a_share_of_every_part_to_whole_parts(progress):
    scorer = make_scorer((6, 6))
    request = request_of(range(8), **GRID, progress=progress)
    parts = parts_of(scorer, request.images)
    assert len(parts.unique()) > 1
    hidden = AttentionGuidedMasking(scorer)(request).ids_shuffle[:, 9:]
    mu = 1 - progress**2
    for i, ids in enumerate(hidden.tolist()):
        sizes = parts[i].bincount(minlength=4)
        taken = parts[i][ids].bincount(minlength=4)
        assert (taken >= (mu * 0.75 * sizes).long()).all()
        # What is beyond the share of each part are whole parts, and one that is cut.
        whole = taken == sizes
        more = taken > (mu * 0.75 * sizes).long()
        assert (more & ~whole).sum() <= 1


def test_the_model_tells_the_progress(make_rmae):
    scorer = make_scorer((4, 4))
    model = make_rmae(regions=None, masking=AttentionGuidedMasking(scorer)).train()
    seeds = torch.arange(6)
    batch = Batch(torch.randint(0, 256, (6, 3, 32, 32)), [{}] * 6, mask_seeds=seeds)
    images = model.normalize(batch.images)
    orders = {}
    for progress in (0.0, 1.0):
        orders[progress] = model(batch, progress=progress).plan.ids_shuffle
        expected = model.masking(MaskRequest(seeds, (4, 4), 4, images, None, progress))
        assert torch.equal(orders[progress], expected.ids_shuffle)
    assert not torch.equal(orders[0.0], orders[1.0])
    assert "masking.scorer_fingerprint" in model.state_dict()
    assert not any(".scorer.net" in key for key in model.state_dict())
