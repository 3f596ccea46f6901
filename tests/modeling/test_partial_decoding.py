"""Predicting a part of the hidden patches: the losses and gradients of all of them, on average."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.errors import UserError
from rmae_d2.modeling import Batch
from rmae_d2.modeling.pixel_decoder import FirstKeysBlock
from rmae_d2.modeling.rmae import shuffle_hidden
from tests.conftest import TINY_DECODER, TINY_REGIONS

APART = {**TINY_DECODER, "hidden_attention": False}
GRID, P = (2, 4), 4  # 8 patches


def small(make_rmae, decoder=APART, regions=TINY_REGIONS, **options):
    size = {"img_size": (GRID[0] * P, GRID[1] * P), "patch_size": P}
    return make_rmae(decoder=decoder, regions=regions, **size, **options)


def inputs():
    images = torch.randn(2, 3, GRID[0] * P, GRID[1] * P)
    regions = torch.rand(2, 3, GRID[0] * P, GRID[1] * P) > 0.5
    orders = torch.stack([torch.randperm(8) for _ in range(2)])
    return images, regions, orders


def losses_and_gradients(model, images, regions, orders, visible, predicted):
    model.zero_grad()
    found = model.reconstruct(images, regions, orders, None, visible, predicted)
    losses = {name: found[name] for name in ("loss_pixel", "loss_region")}
    sum(loss.sum() for loss in losses.values()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {n: loss.detach() for n, loss in losses.items()}, gradients


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("length", {}),
        ("length", {"feeding": "both", "background_weight": 0.3}),
        ("length", {"norm_pix_loss": False, "region_criterion": "l2"}),
        ("batch", {}),
        ("channel", {}),
    ],
)
def test_both_losses_are_unbiased_by_enumeration(make_rmae, variant, options):
    """The mean over all choices of 2 of 4 hidden pixel patches and of 3 of 5 hidden region patches."""
    regions = {**TINY_REGIONS, "variant": variant}
    regions |= {"num_regions": 3} if variant == "channel" else {}
    model = small(make_rmae, regions=regions, **options).double()
    images, maps, orders = inputs()
    images, visible = images.double(), (4, 3)
    whole, gradients = losses_and_gradients(model, images, maps, (orders, orders), visible, (4, 5))
    choices = [itertools.combinations(range(n), k) for n, k in ((4, 2), (5, 3))]
    found = []
    for pixel, region in itertools.product(*map(list, choices)):
        mine = []
        for first, chosen in zip(visible, (pixel, region), strict=True):
            left = [i for i in range(8 - first) if i not in chosen]
            mine.append(torch.cat([orders[:, :first], orders[:, first:][:, [*chosen, *left]]], 1))
        found.append(losses_and_gradients(model, images, maps, tuple(mine), visible, (2, 3)))
    assert len(found) == 6 * 10
    for name, loss in whole.items():
        torch.testing.assert_close(torch.stack([each[name] for each, _ in found]).mean(0), loss)
    for name, gradient in gradients.items():
        mean = torch.stack([each[name] for _, each in found]).mean(0)
        torch.testing.assert_close(mean, gradient, atol=1e-7, rtol=1e-5)  # losses are float32


def test_a_prediction_does_not_depend_on_the_others(make_rmae):
    """It does on what is visible."""
    decoder = small(make_rmae).pixel_decoder
    _, _, orders = inputs()
    tokens = torch.randn(2, 5, decoder.embed.in_features)
    every = decoder.decode(tokens, orders[:, :4], orders[:, 4:])
    one = decoder.decode(tokens, orders[:, :4], orders[:, 6:7])
    torch.testing.assert_close(every[:, 2:3], one)
    other = decoder.decode(torch.randn_like(tokens), orders[:, :4], orders[:, 6:7])
    assert not torch.allclose(one, other, atol=1e-3)


def test_a_block_of_first_keys_is_attention_with_a_mask():
    """Against softmax over the first tokens, written out."""
    block = FirstKeysBlock(16, 4, qkv_bias=True).double()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    normed = block.norm1(x)
    q, k, v = block.attn.qkv(normed).reshape(2, 7, 3, 4, 4).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(2, 3) / 2  # the root of 4 values per head
    scores[..., 3:] = -torch.inf
    seen = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    expected = x + block.attn.proj(seen)
    expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(block(x, 3), expected)


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=4), st.integers(0, 11))
def test_a_shuffle_keeps_what_is_visible(seeds, visible):
    order = torch.stack([torch.randperm(12) for _ in seeds])
    found = shuffle_hidden(order, visible, torch.tensor(seeds))
    assert torch.equal(found[:, :visible], order[:, :visible])
    assert torch.equal(found.sort(dim=1).values, order.sort(dim=1).values)


def test_a_shuffle_is_uniform_whatever_the_masks_order():
    """Each hidden patch is as often the first one, also where masking sorts by the same seeds."""
    from rmae_d2.noise import random_shuffle

    seeds = torch.arange(20_000)
    order = random_shuffle(seeds, 6)
    first = shuffle_hidden(order, 2, seeds)[:, 2]
    for patches in itertools.combinations(range(6), 2):
        these = (order[:, :2].sort(dim=1).values == torch.tensor(patches)).all(dim=1)
        counts = np.bincount(first[these].numpy(), minlength=6)
        hidden = np.delete(counts, patches)
        assert counts.sum() == hidden.sum() > 1000
        # Four patches, each in a quarter: five standard deviations.
        spread = 5 * np.sqrt(counts.sum() * 0.25 * 0.75)
        np.testing.assert_allclose(hidden, counts.sum() / 4, atol=spread)


def test_a_training_step_predicts_its_share(make_rmae):
    """The same masks as with all; the same patches again for the same seeds; evaluation predicts all."""
    whole, part = small(make_rmae), small(make_rmae, decode_ratio=0.5)
    part.load_state_dict(whole.state_dict())
    images, regions, _ = inputs()
    batch = Batch.of(
        [{"image": i, "regions": r, "mask_seed": s} for i, r, s in zip(images, regions, (1, 2), strict=True)]
    )  # fmt: skip
    asked = []
    decode = part.pixel_decoder.decode
    part.pixel_decoder.decode = lambda *a: asked.append(a[2]) or decode(*a)
    results = [part(batch) for _ in range(2)]
    assert [ids.shape for ids in asked] == [(2, 3), (2, 3)] and torch.equal(*asked)
    everything = whole(batch)
    assert torch.equal(results[0].plan.ids_shuffle, everything.plan.ids_shuffle)
    hidden = everything.plan.ids_shuffle[:, 2:]
    assert all(set(a.tolist()) <= set(b.tolist()) for a, b in zip(asked[0], hidden, strict=True))
    assert results[0].losses["loss_pixel"] == results[1].losses["loss_pixel"]
    assert results[0].losses["loss_pixel"] != everything.losses["loss_pixel"]
    of_part, of_whole = part.eval()(batch), whole.eval()(batch)
    for mine, other in zip(of_part, of_whole, strict=True):
        torch.testing.assert_close(mine["pred_pixels"], other["pred_pixels"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode_ratio": 0.0}, "decode_ratio=0.0: above 0"),
        ({"decode_ratio": 1.5}, "decode_ratio=1.5"),
        ({"decode_ratio": 0.5, "decoder": TINY_DECODER}, "model.pixel_decoder.hidden_attention=false"),
    ],
)  # fmt: skip
def test_what_is_refused(make_rmae, options, message):
    with pytest.raises(UserError, match=message):
        small(make_rmae, **options)


def test_without_a_pixel_decoder(make_rmae):
    """RAE: its predictions never depend on each other."""
    assert small(make_rmae, decoder=None, decode_ratio=0.25).decode_ratio == 0.25
