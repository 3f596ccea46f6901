import copy

import pytest
import torch

from rmae_d2.modeling import FrozenViT, MaskDiscriminator, MaskedViT, MaskGenerator
from rmae_d2.modeling.attention_maps import AttentionViT
from rmae_d2.modeling.masking.generator import (
    entropy,
    gumbel_softmax,
    rectangle_masks,
    spectral_norm,
)
from rmae_d2.modeling.masking.rectangles import sample_rectangles
from tests.helpers import jittered


def make_scorer(img_size=32, heads=4, std=0.3):
    net = MaskedViT(img_size, patch_size=8, embed_dim=32, depth=3, num_heads=heads)
    return FrozenViT(jittered(net, std))


# ---- the frozen scorer


@pytest.mark.parametrize("block", [-1, 0, 1])
def test_attention_is_the_cls_tokens(block):
    """That of all tokens is held against timm's and Hugging Face's in test_attention_maps."""
    net = make_scorer((32, 48)).net
    images = torch.randn(2, 3, 32, 48)
    found = FrozenViT(net, block).attention(images)
    assert found.shape == (2, 4, 24)
    torch.testing.assert_close(found, AttentionViT(net).attention(images, block)[:, :, 0, 1:])


def test_the_scorer_is_frozen_and_belongs_to_nobody():
    generator = MaskGenerator(make_scorer()).train()
    net = generator.scorer.net
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert set(generator.state_dict()) == {
        *("scorer_fingerprint", "conv1.weight", "conv1.bias", "conv2.weight")
    }
    assert not {id(p) for p in generator.parameters()} & {id(p) for p in net.parameters()}
    generator(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    generator.to(torch.float64)  # it goes where its owner goes
    assert net.cls_token.dtype == net.blocks[-1].attn.qkv.weight.dtype == torch.float64


def test_weights_of_another_scorer_are_refused():
    first, second = MaskGenerator(make_scorer()), MaskGenerator(make_scorer())
    assert first.scorer.fingerprint != second.scorer.fingerprint
    same = MaskGenerator(copy.deepcopy(first.scorer))
    same.load_state_dict(first.state_dict())
    with pytest.raises(RuntimeError, match="another frozen scorer"):
        second.load_state_dict(first.state_dict())
    earlier = MaskGenerator(FrozenViT(first.scorer.net, 1))
    with pytest.raises(RuntimeError, match="another frozen scorer"):
        earlier.load_state_dict(first.state_dict())
    counted = MaskGenerator(FrozenViT(first.scorer.net, 2))  # the last of three by its number
    counted.load_state_dict(first.state_dict())


@pytest.mark.parametrize("block", [3, -4])
def test_a_scorer_has_no_other_blocks(block):
    with pytest.raises(
        ValueError, match=f"block={block} of a frozen scorer with 3 blocks: give -3 to 2"
    ):
        FrozenViT(make_scorer().net, block)


def test_a_scorer_of_another_size_is_named():
    with pytest.raises(
        ValueError, match=r"\(48, 32\) pixels given to a frozen scorer of \(32, 32\)"
    ):
        make_scorer().attention(torch.randn(1, 3, 48, 32))


# ---- the generator


@pytest.mark.parametrize("img_size", [32, (32, 56)])
def test_log_probabilities(img_size):
    scorer = make_scorer(img_size)
    generator = MaskGenerator(scorer)
    images = torch.randn(3, 3, *scorer.net.img_size)
    log_probability = generator(images)
    assert log_probability.shape == (3, scorer.net.num_patches)
    torch.testing.assert_close(log_probability.exp().sum(dim=1), torch.ones(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert generator(images).dtype == torch.float32


def test_relative_attention_is_a_multiple_of_the_mean():
    scorer = make_scorer()
    published, relative = MaskGenerator(scorer), MaskGenerator(scorer, relative_attention=True)
    relative.load_state_dict(published.state_dict())
    relative.conv1.weight.data /= 16  # L: the same maps reach the second convolution
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(relative(images), published(images))


def test_gumbel_softmax_draws_patches_with_their_probabilities():
    """The largest of a sample is patch i with probability p_i, at any temperature (Gumbel-max)."""
    p = torch.tensor([0.5, 0.25, 0.15, 0.1])
    n = 20_000
    seeds = torch.arange(n)
    for temperature in (1.0, 0.1):
        sample = gumbel_softmax(p.log().expand(n, 4), seeds, temperature)
        torch.testing.assert_close(sample.sum(dim=1), torch.ones(n))
        counts = sample.argmax(dim=1).bincount(minlength=4)
        assert ((counts - n * p).abs() < 5 * (n * p * (1 - p)).sqrt()).all()
    assert torch.equal(gumbel_softmax(p.log().expand(1, 4), seeds[7:8], 0.1), sample[7:8])


def test_entropy():
    logits = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0], [0.0, 0.0, -100.0, -100.0]]
    )
    torch.testing.assert_close(entropy(logits.log_softmax(dim=1)), torch.tensor([1.0, 0.0, 0.5]))


# ---- the discriminator


@pytest.mark.parametrize("shape", [(16, 1, 4, 4), (32, 16, 4, 4), (1, 32, 3, 3), (5, 3, 1, 1)])
def test_spectral_norm_is_the_largest_singular_value(shape):
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    norm = spectral_norm(weight)
    exact = torch.linalg.matrix_norm(weight.flatten(1), ord=2)
    torch.testing.assert_close(norm, exact)
    (gradient,) = torch.autograd.grad(norm, weight)
    (expected,) = torch.autograd.grad(exact, weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(spectral_norm(weight.float()), exact.float(), rtol=1e-4, atol=0)


def test_spectral_norm_of_close_and_equal_singular_values():
    for close in (1.0, 0.999):
        matrix = torch.linalg.qr(torch.randn(8, 8))[0] * torch.tensor([1.0, close, *[0.5] * 6])
        assert spectral_norm(matrix).item() == pytest.approx(1, rel=1e-4)
    assert spectral_norm(torch.zeros(3, 4)).item() == 0


def test_layers_of_the_discriminator_do_not_stretch():
    """Each normalised matrix has norm 1, so that verdicts cannot differ by more than a constant's share."""
    net = MaskDiscriminator((14, 14))
    shapes = [tuple(conv.weight.shape) for conv in net.convs]
    assert shapes == [(16, 1, 4, 4), (32, 16, 4, 4), (1, 32, 3, 3)]
    masks = torch.rand(6, 196).softmax(dim=1)
    before = net(masks)
    assert before.shape == (6, 1)
    for conv in net.convs:  # scale is taken out again
        conv.weight.data *= 7
    torch.testing.assert_close(net(masks), before)


@pytest.mark.parametrize(
    ("grid", "verdicts"), [((14, 14), 1), ((4, 4), 1), ((10, 10), 1), ((4, 9), 1), ((28, 14), 5)]
)
def test_grids_of_the_discriminator(grid, verdicts):
    assert MaskDiscriminator(grid)(torch.rand(2, grid[0] * grid[1])).shape == (2, verdicts)


def test_the_published_convolutions_have_no_biases():
    net, before = MaskDiscriminator((14, 14)), MaskDiscriminator((14, 14), bias=True)
    assert [name for name in net.state_dict() if "bias" in name] == []
    assert [name for name in before.state_dict() if "bias" in name] == [
        f"convs.{i}.bias" for i in range(3)
    ]
    # As homogeneous as its leaky ReLUs: nothing but the mask makes a verdict.
    masks = torch.rand(3, 196).softmax(dim=1)
    torch.testing.assert_close(net(5 * masks), 5 * net(masks))
    net.load_state_dict({k: v for k, v in before.state_dict().items() if "bias" not in k})
    for conv in before.convs:
        conv.bias.data.zero_()
    assert torch.equal(before(masks), net(masks)) and torch.equal(before(masks, True), net(masks))


def test_a_discriminator_with_biases_is_named():
    before = MaskDiscriminator((14, 14), bias=True)
    with pytest.raises(RuntimeError, match="set model.masking.discriminator.bias=true"):
        MaskDiscriminator((14, 14)).load_state_dict(before.state_dict())


def test_a_grid_that_is_too_small():
    with pytest.raises(ValueError, match=r"4x4 patches or more, not \(3, 8\)"):
        MaskDiscriminator((3, 8))


def test_a_frozen_discriminator_gives_the_same_and_learns_nothing():
    net = MaskDiscriminator((6, 6))
    masks = torch.rand(2, 36, requires_grad=True)
    assert torch.equal(net(masks), net(masks, frozen=True))
    net(masks, frozen=True).sum().backward()
    assert all(p.grad is None for p in net.parameters()) and masks.grad.abs().sum() > 0


def test_real_masks_are_the_softmax_of_noise_and_a_rectangle():
    n = 2000
    seeds = torch.arange(n)
    masks = rectangle_masks(seeds, (14, 14))
    inside = sample_rectangles(seeds, (14, 14), drawn="columns").flatten(1)
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(n))
    # Of one image log m is U(0, 1) + 0.5 inside, up to a constant: the means differ by 0.5.
    logs = masks.double().log()
    difference = [(x[i].mean() - x[~i].mean()).item() for x, i in zip(logs, inside, strict=True)]
    deviation = (n * 196) ** -0.5 * 2 * (1 / 12) ** 0.5
    assert sum(difference) / n == pytest.approx(0.5, abs=6 * deviation)
    # The largest noise of so many is next to 1, the smallest next to 0.
    spread = [x[i].max() - x[i].min() for x, i in zip(logs, inside, strict=True)]
    assert min(spread) > 0.8 and max(spread) < 1
