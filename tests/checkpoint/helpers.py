"""What the tests of weights share: small ViTs of other projects, comparison of state dicts."""

from functools import partial

import pytest
import torch
from detectron2.modeling import SimpleFeaturePyramid, ViT
from torch import nn

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a
    )


def randomise(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def hugging_face(**arguments):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
        **arguments,
    )
    return randomise(transformers.ViTMAEForPreTraining(config))


def detectron2_vit(**arguments):
    layer_norm = partial(nn.LayerNorm, eps=1e-6)
    return randomise(
        ViT(**{**SIZE, "pretrain_img_size": 32, "norm_layer": layer_norm, **arguments})
    )


def detector(net):
    """With a pyramid, and something like a head."""
    model = nn.Module()
    model.backbone = SimpleFeaturePyramid(net, "last_feat", 16, [2.0, 1.0])
    model.roi_heads = nn.Linear(16, 3)
    return model
