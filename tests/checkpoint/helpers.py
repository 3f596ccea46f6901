"""What the tests of weights share: small ViTs of other projects, comparison of state dicts."""

from functools import partial

import pytest
import torch
from detectron2.modeling import SimpleFeaturePyramid, ViT
from timm.layers import resample_abs_pos_embed
from torch import nn

from tests.helpers import hf_mae_config, jittered

POS = "backbone.net.pos_embed"
SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a
    )


def hugging_face(**arguments):
    theirs = pytest.importorskip("transformers").ViTMAEForPreTraining(hf_mae_config(**arguments))
    return jittered(theirs, 0.1).eval()


def detectron2_vit(**arguments):
    layer_norm = partial(nn.LayerNorm, eps=1e-6)
    net = ViT(**{**SIZE, "pretrain_img_size": 32, "norm_layer": layer_norm, **arguments})
    return jittered(net, 0.1).eval()


def detector(net):
    """With a pyramid, and something like a head."""
    model = nn.Module()
    model.backbone = SimpleFeaturePyramid(net, "last_feat", 16, [2.0, 1.0])
    model.roi_heads = nn.Linear(16, 3)
    return model


def vitdet(cls_row=True, **arguments):
    """A ViTDet with its two additions, relative positions and pyramid."""
    windows = {"use_rel_pos": True, "window_size": 2, "window_block_indexes": [0]}
    arguments = {"img_size": 64, "pretrain_use_cls_token": cls_row, **windows, **arguments}
    return detector(detectron2_vit(**arguments))


def resampled(table, old, new):
    return resample_abs_pos_embed(table, list(new), list(old), num_prefix_tokens=0)


def snapshot(model):
    return {k: v.clone() for k, v in model.state_dict().items()}
