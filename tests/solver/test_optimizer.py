import pickle
from functools import partial

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from omegaconf import OmegaConf
from torch import nn

from rmae_d2.config import apply_overrides
from rmae_d2.errors import UserError
from rmae_d2.modeling import SimpleFeaturePyramid, ViT
from rmae_d2.solver import LayerDecay, build_optimizer, layer_decayed_params, scaled_adamw


class Detector(nn.Module):
    """A ViTDet backbone and a head."""

    def __init__(self, depth=3, **kwargs):
        super().__init__()
        net = ViT(
            img_size=32,
            patch_size=8,
            embed_dim=16,
            depth=depth,
            num_heads=2,
            use_rel_pos=True,
            pretrain_img_size=32,
            **kwargs,
        )
        self.backbone = SimpleFeaturePyramid(net, "last_feat", 8, [2.0, 1.0])
        self.head = nn.Linear(8, 2)


def settings(model, **kwargs):
    """Name to learning rate and weight decay of every trained parameter."""
    optimizer = torch.optim.AdamW(layer_decayed_params(model, **kwargs), lr=1.0, weight_decay=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert names[id(p)] not in found
            found[names[id(p)]] = (group["lr"], group["weight_decay"])
    return found


def test_is_detectron2s_rule_where_that_has_one():
    model = Detector(residual_block_indexes=[1])
    names = [name for name, _ in model.named_parameters()]
    assert any(".residual." in name for name in names)
    for rate, depth in ((0.7, 3), (0.8, 5)):
        ours, theirs = LayerDecay(rate, depth), partial(get_vit_lr_decay_rate, lr_decay_rate=rate)
        for name in names:
            assert ours(name) == theirs(name, num_layers=depth), name


def test_rates_and_weight_decay_of_the_vitdet_recipe():
    model = Detector()
    found = settings(model, base_lr=2.0, lr_decay_rate=0.5)
    assert found.keys() == dict(model.named_parameters()).keys()
    net = "backbone.net."
    assert found[net + "pos_embed"] == (2 * 0.5**4, 0.0)
    assert found[net + "patch_embed.proj.weight"] == (2 * 0.5**4, 0.1)
    assert found[net + "blocks.0.norm1.weight"] == (2 * 0.5**3, 0.0)
    assert found[net + "blocks.0.attn.rel_pos_h"] == (2 * 0.5**3, 0.1)
    assert found[net + "blocks.2.mlp.fc1.bias"] == (2 * 0.5, 0.1)
    assert found["backbone.simfp_3.0.weight"] == (2.0, 0.1)
    assert found["head.weight"] == (2.0, 0.1)
    # ViTDet-H.
    found = settings(model, base_lr=2.0, lr_decay_rate=0.5, weight_decay_norm=None, overrides={})
    assert {decay for _, decay in found.values()} == {0.1}


def test_tokens_and_final_norm(make_rmae):
    """Detectron2's own rule gives a cls token the full rate."""
    model = make_rmae(depth=2)
    found = settings(model, base_lr=1.0, lr_decay_rate=0.5)
    assert found["backbone.net.cls_token"] == (0.5**3, 0.1)
    assert get_vit_lr_decay_rate("backbone.net.cls_token", 0.5, 2) == 1.0
    assert found["backbone.net.norm.weight"] == (1.0, 0.0)
    # Other parts have blocks and tokens too.
    assert found["pixel_decoder.blocks.0.attn.qkv.weight"] == (1.0, 0.1)
    assert found["pixel_decoder.mask_token"] == (1.0, 0.1)
    assert LayerDecay(0.5, 2)("backbone.cls_token") == 0.5**3  # a backbone that is the ViT itself
    assert LayerDecay(0.5, 2)("backbone.net.blocks.1._checkpoint_wrapped_module.norm1.bias") == 0.5


def test_a_model_without_such_blocks_is_refused():
    with pytest.raises(ValueError, match=r"no parameter of this Linear is named backbone"):
        layer_decayed_params(nn.Linear(2, 2), base_lr=1.0, lr_decay_rate=0.7)


def test_as_config_fields():
    """Both forms: overridable by name, instantiated twice from one config, picklable."""
    model = Detector()
    cfg = OmegaConf.create(
        {
            "a": L(layer_decayed_params)(base_lr=1.0, lr_decay_rate=0.7),
            "b": {"lr_factor_func": L(LayerDecay)(lr_decay_rate=0.7, num_layers=3)},
        },
        flags={"allow_objects": True},
    )
    cfg = apply_overrides(
        cfg,
        [
            "a.lr_decay_rate=0.5",
            "a.overrides={pos_embed: {weight_decay: 0.2}}",
            "b.lr_factor_func.lr_decay_rate=0.5",
        ],
    )
    with pytest.raises(UserError, match="lr_decay"):
        apply_overrides(cfg, ["a.lr_decay=0.5"])
    cfg.a.model = model
    one, two = instantiate(cfg.a), instantiate(cfg.a)
    assert [g["lr"] for g in one] == [g["lr"] for g in two]
    pos = next(g for g in one if any(p is model.backbone.net.pos_embed for p in g["params"]))
    assert pos["lr"] == 0.5**4 and pos["weight_decay"] == 0.2
    decay = pickle.loads(pickle.dumps(instantiate(cfg.b.lr_factor_func)))
    assert decay("backbone.net.blocks.2.norm1.bias") == 0.5


def test_an_optimizer_is_built_without_writing_into_its_config():
    params = L(layer_decayed_params)(base_lr="${..base_lr}", lr_decay_rate=0.5)
    cfg = OmegaConf.create(
        {"optimizer": L(scaled_adamw)(params=params, base_lr=0.1, batch_size=128)},
        flags={"allow_objects": True},
    )
    before, model = OmegaConf.to_yaml(cfg), Detector()
    optimizer = build_optimizer(cfg.optimizer, model)
    assert OmegaConf.to_yaml(cfg) == before
    expected = scaled_adamw(
        layer_decayed_params(model, base_lr=0.1, lr_decay_rate=0.5), base_lr=0.1, batch_size=128
    )
    for found, wanted in zip(optimizer.param_groups, expected.param_groups, strict=True):
        assert all(a is b for a, b in zip(found["params"], wanted["params"], strict=True))
        assert {**found, "params": 0} == {**wanted, "params": 0}


def test_what_an_optimizer_keeps_is_no_part_of_a_config():
    """Else its checkpoint names classes of OmegaConf, and is refused as if it could run code."""
    cfg = OmegaConf.create(
        {
            "params": L(layer_decayed_params)(
                base_lr=0.1, lr_decay_rate=0.5, overrides={"bias": {"weight_decay": 0.0}}
            ),
            "_target_": f"{__name__}.keeping",
            "betas": [0.9, 0.99],
        },
        flags={"allow_objects": True},
    )
    optimizer = build_optimizer(cfg, Detector())
    for group in optimizer.param_groups:
        assert type(group["betas"]) is list and group["betas"] == [0.9, 0.99]
        assert not any(OmegaConf.is_config(value) for value in group.values())


def keeping(params, betas):
    """As torch up to 2.6, which keeps what it is given."""
    optimizer = torch.optim.AdamW(params)
    for group in optimizer.param_groups:
        group["betas"] = betas
    return optimizer
