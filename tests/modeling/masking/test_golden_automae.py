"""Ours against AutoMAE's published networks and step, on weights, images and noise that are formulas.

The numbers are those of the published modules, run once beside the project with the same weights and noise;
their spectral norm was iterated until it no longer changed.
"""

import math

import pytest
import torch

from rmae_d2.modeling import (
    RMAE,
    FrozenViT,
    LearnedMasking,
    MaskDiscriminator,
    MaskedViT,
    MaskGenerator,
    build_parts,
)
from rmae_d2.modeling.masking.generator import gumbel_softmax, rectangle_masks

SIZE = {"embed_dim": 48, "depth": 2, "num_heads": 12}
SEEDS = torch.tensor([3, 2**40 + 1])


def waves(shape, phase):
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(1.7 * n + phase + 0.3 * torch.sin(0.011 * n)).float().view(shape)


# Normalised: values as a network sees them.
IMAGES = waves((2, 3, 56, 56), 0.5)


def filled(module):
    """With weights of about the size that they have in training."""
    parameters = sorted(module.named_parameters())
    with torch.no_grad():
        for i, (name, p) in enumerate(parameters):
            if name.endswith("pos_embed"):
                continue
            if p.dim() == 1:
                p.copy_(0.1 * waves(p.shape, i) + ("norm" in name and name.endswith("weight")))
            else:
                p.copy_(1.5 * waves(p.shape, i) / p[0].numel() ** 0.5)
    return module


def make():
    """AutoMAE on a ViT of 56 pixels with patches of 4, so that the grid is the published 14 x 14."""
    scorer = FrozenViT(filled(MaskedViT(56, 4, **SIZE)))
    decoder = {"dim": 32, "depth": 1, "num_heads": 4}
    parts = build_parts(
        img_size=56, patch_size=4, in_chans=3, **SIZE, pixel_decoder=decoder, region_branch=None
    )
    policy = LearnedMasking(MaskGenerator(scorer), MaskDiscriminator((14, 14)))
    model = filled(RMAE(**parts, masking=policy)).train()
    policy.generator.conv1.weight.data *= 100  # attention is about 1/196
    policy.generator.conv2.weight.data *= 3
    return model


@pytest.fixture(scope="module")
def model():
    return make()


@torch.no_grad()
def test_the_generators_log_probabilities(model):
    found = model.masking.generator(IMAGES)
    expected = torch.tensor([-5.2586951, -5.3107257, -5.5100503, -5.3420706])
    torch.testing.assert_close(found[0, :4], expected, rtol=1e-6, atol=0)
    assert found.exp().square().sum().item() == pytest.approx(0.0137598999, rel=1e-5)


@torch.no_grad()
def test_the_discriminators_verdicts(model):
    rectangles = model.masking.discriminator(rectangle_masks(SEEDS, (14, 14)))
    sample = gumbel_softmax(model.masking.generator(IMAGES), SEEDS)
    made = model.masking.discriminator(sample)
    assert rectangles.flatten().tolist() == pytest.approx([2.65338822e-5, -1.08614578e-4], abs=2e-8)
    assert made.flatten().tolist() == pytest.approx([-5.59489825e-4, 4.65201447e-5], abs=2e-8)


def test_one_joint_step(model):
    """Which patches stay, the three losses, and the gradients of all players and of the encoder."""
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    samples = [
        {"image": image * std + mean, "mask_seed": int(seed)}
        for image, seed in zip(IMAGES, SEEDS, strict=True)
    ]
    hidden = torch.stack([out["mask"] for out in model.eval()(samples)])
    shown = [[int(i) for i in torch.where(~row)[0][:12]] for row in hidden]
    assert shown == [
        [0, 3, 4, 5, 7, 11, 13, 14, 17, 20, 23, 24],
        [0, 6, 16, 17, 19, 20, 21, 22, 24, 29, 31, 32],
    ]
    losses = model.train()(samples)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {
            "loss_pixel": 3.92560601,
            "loss_generator": 0.200102615,
            "loss_discriminator": 1.00008214,
        },
        rel=1e-5,
    )
    sum(losses.values()).backward()
    expected = {
        "masking.generator.conv1.weight": 8.13853112e-05,
        "masking.generator.conv1.bias": 2.74936931e-04,
        "masking.generator.conv2.weight": 6.43792504e-04,
        "masking.discriminator.convs.0.weight": 3.32878524e-04,
        "masking.discriminator.convs.1.weight": 2.50720559e-03,
        "masking.discriminator.convs.2.weight": 7.18114572e-03,
        "backbone.net.patch_embed.proj.weight": 8.77391605e-04,
        "backbone.net.blocks.0.attn.qkv.weight": 8.74327321e-04,
    }
    found = {name: model.get_parameter(name).grad.norm().item() for name in expected}
    assert found == pytest.approx(expected, rel=1e-4)
