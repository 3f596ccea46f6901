"""fvcore's count of ViT-B at 224 pixels: 75 % hidden, 8 regions, batch 1, multiply-adds.

timm's fused attention ends in ``F.scaled_dot_product_attention``, which fvcore counts as nothing. The
attention layers are therefore switched to their unfused form, two matrix products, for the count; the
default of fvcore would be lower by what the last test states.
"""

import logging

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from rmae_d2.modeling import RMAE, build_parts, num_visible, random_shuffle, vit_kwargs

# reference/performance.md, section 4, in GMACs.
MAE_REFERENCE = 9.795
OURS = {1: 9.918, 8: 10.261}


class Losses(nn.Module):
    """The model on tensors, as the tracer wants it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, regions, ids):
        if self.model.region_branch is None:
            regions = None
        return self.model.forward_tensors(images, regions, ids)["loss"]


class NaiveMAE(nn.Module):
    """MAE as the reference code computes it: all patches embedded, all predicted."""

    def __init__(self, model):
        super().__init__()
        self.net, self.decoder = model.backbone.net, model.pixel_decoder

    def forward(self, images, regions, ids):
        visible = ids[:, : num_visible(ids.shape[1], 0.75)]
        x = self.net.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = (x + self.net.pos_embed[:, 1:])[:, visible[0]]
        x = torch.cat([self.net.cls_token, x], dim=1)
        for block in self.net.blocks:
            x = block(x)
        x = self.decoder(self.net.norm(x), visible)
        return self.decoder.pred(self.decoder.norm(x))


def gmacs(module, fused=False):
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused
    inputs = (
        torch.zeros(1, 3, 224, 224),
        torch.zeros(1, 8, 224, 224),
        random_shuffle(torch.zeros(1, dtype=torch.int64), 196),
    )
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    counter = FlopCountAnalysis(module, inputs).unsupported_ops_warnings(False)
    with torch.no_grad():
        return counter.total() / 1e9


def vit_b(**branches):
    return RMAE(**build_parts(**vit_kwargs("base"), **branches))


@pytest.fixture(scope="module")
def mae():
    return vit_b(pixel_decoder={}, region_branch=None)


def test_mae_computed_as_the_reference_code_does(mae):
    assert gmacs(NaiveMAE(mae)) == pytest.approx(MAE_REFERENCE, rel=0.002)


def test_mae_computed_as_we_do(mae):
    """Embedding 49 and predicting 147 of the 196 patches saves 1.1 %."""
    assert gmacs(Losses(mae)) == pytest.approx(9.688, rel=0.002)


@pytest.mark.parametrize(("neck_depth", "increase"), [(1, 1.26), (8, 4.76)])
def test_rmae(neck_depth, increase):
    count = gmacs(Losses(vit_b(pixel_decoder={}, region_branch={"neck_depth": neck_depth})))
    assert count == pytest.approx(OURS[neck_depth], rel=0.002)
    assert 100 * (count / MAE_REFERENCE - 1) == pytest.approx(increase, abs=0.2)


def test_fused_attention_would_not_be_counted(mae):
    """2 * tokens^2 * width multiply-adds a block: 12 blocks on 50 tokens, 8 on 197."""
    missing = (12 * 2 * 50**2 * 768 + 8 * 2 * 197**2 * 512) / 1e9
    assert gmacs(Losses(mae)) - gmacs(Losses(mae), fused=True) == pytest.approx(missing, rel=1e-3)
