"""What the tests of masking policies share: a frozen ViT, AutoMAE's policy, requests."""

import torch

from rmae_d2.modeling import (
    FrozenViT,
    LearnedMasking,
    MaskDiscriminator,
    MaskedViT,
    MaskGenerator,
    MaskRequest,
)
from tests.helpers import jittered

P = 8


def make_scorer(grid=(4, 4), block=-1, depth=2):
    torch.manual_seed(3)
    net = MaskedViT((grid[0] * P, grid[1] * P), P, embed_dim=32, depth=depth, num_heads=4)
    return FrozenViT(jittered(net, 0.3), block)


def make_learned(grid=(4, 4), discriminator=True, **options):
    """With random weights that make the generator's opinion strong."""
    generator = jittered(MaskGenerator(make_scorer(grid)), 1.0)
    return LearnedMasking(generator, MaskDiscriminator(grid) if discriminator else None, **options)


def request_of(seeds, grid=(4, 4), visible=4, progress=0.0, regions=None):
    """Of random images; ``regions`` bool (K, H, W) are those of every image."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(len(seeds), 3, grid[0] * P, grid[1] * P, generator=generator)
    if regions is not None:
        regions = regions.expand(len(seeds), -1, -1, -1)
    return MaskRequest(torch.as_tensor(seeds), grid, visible, images, regions, progress)
