import argparse
import re

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from rmae_d2.checkpoint import convert, load_pretrained, load_weights
from rmae_d2.errors import CheckpointError
from tests.checkpoint.helpers import SIZE, detector, detectron2_vit, hugging_face, same


@pytest.fixture
def mae(make_rmae):
    return make_rmae(regions=None)


@pytest.fixture
def ours(mae):
    return mae.state_dict()


def mae_names(state_dict):
    return convert(state_dict, "mae").tensors


def hub_names(state_dict):
    """The names in facebook/vit-mae-base on the hub and in transformers 4."""
    return convert(state_dict, "huggingface", transformers=4).tensors


def rename(state_dict, rules):
    out = {}
    for key, value in state_dict.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        out[key] = value
    return out


# ---- one round trip a kind


def test_ours(make_rmae):
    for arguments in ({}, {"regions": None}, {"decoder": None}):
        expected = make_rmae(**arguments).state_dict()
        for content in (expected, {"model": expected, "iteration": 7, "trainer": {"lr": 0.1}}):
            kind, state_dict = load_weights(content)
            assert kind == "rmae_d2"
            assert same(state_dict, expected)


def test_mae(ours):
    theirs = mae_names(ours)
    assert {"cls_token", "mask_token", "decoder_blocks.0.attn.qkv.weight"} <= theirs.keys()
    kind, state_dict = load_weights({"model": theirs, "epoch": 3})
    assert kind == "mae"
    assert same(state_dict, ours)


def test_a_deep_region_decoder_of_0_1(make_rmae):
    """Its cross-attention had q, k and v in one tensor, as torch's MultiheadAttention has."""
    ours = make_rmae(regions={"decoder_depth": 3}).state_dict()
    old = rename(
        ours,
        [
            (r"(decoder\.\d)\.attn\.qkv\.", r"\1.self_attn.in_proj_"),
            (r"(decoder\.\d)\.attn\.proj\.", r"\1.self_attn.out_proj."),
            (r"(decoder\.\d\.cross_attn)\.proj\.", r"\1.out_proj."),
        ],
    )
    for key in [k for k in old if ".cross_attn.q." in k]:
        both = old.pop(key), old.pop(key.replace(".q.", ".kv."))
        old[key.replace(".q.", ".in_proj_")] = torch.cat(both)
    kind, state_dict = load_weights({"model": old})
    assert kind == "rmae_d2"
    assert same(state_dict, ours)
    assert same(convert(old, "rmae").tensors, ours)


@pytest.mark.parametrize("num_classes", [0, 7])
@pytest.mark.parametrize(
    ("class_token", "global_pool"), [(True, "token"), (True, "avg"), (False, "avg")]
)
def test_timm(num_classes, class_token, global_pool):
    theirs = VisionTransformer(
        **SIZE, num_classes=num_classes, global_pool=global_pool, class_token=class_token
    ).state_dict()
    kind, state_dict = load_weights(theirs)
    head = ("head.", "fc_norm.")
    expected = {k if k.startswith(head) else f"backbone.net.{k}": v for k, v in theirs.items()}
    assert ("head.weight" in expected) == bool(num_classes)
    assert same(state_dict, expected)
    assert kind == "timm"


def test_moco_v3(tmp_path):
    """A training checkpoint, as its authors write it: the base encoder is taken, without its projector."""
    theirs = VisionTransformer(**SIZE, num_classes=0).state_dict()
    wrapped = {
        f"module.{net}.{key}": value
        for net in ("base_encoder", "momentum_encoder")
        for key, value in {**theirs, "head.0.weight": torch.zeros(3, 32)}.items()
    }
    wrapped["module.predictor.0.weight"] = torch.zeros(3, 3)
    torch.save({"epoch": 300, "arch": "vit_base", "state_dict": wrapped}, tmp_path / "moco.pth.tar")
    kind, state_dict = load_weights(str(tmp_path / "moco.pth.tar"))
    assert kind == "moco_v3"
    assert same(state_dict, {f"backbone.net.{key}": value for key, value in theirs.items()})
    conversion = convert(str(tmp_path / "moco.pth.tar"), "detectron2")
    assert not conversion.refused
    left = [key for key, why in conversion.not_taken.items() if "momentum encoder" in why]
    assert len(left) == len(theirs) + 3


def test_hugging_face(mae, ours):
    theirs = hub_names(ours)
    name = "vit.encoder.layer.1.attention.attention.query.weight"
    assert torch.equal(theirs[name], ours["backbone.net.blocks.1.attn.qkv.weight"][:32])
    from_file = {k: v.clone() for k, v in theirs.items()}
    kind, state_dict = load_weights(theirs)
    assert kind == "hf_vitmae" and same(state_dict, ours)
    assert same(theirs, from_file)  # the caller's own is left alone
    # The encoder class by itself has the same keys without the prefix, and as it is installed.
    kind, encoder = load_weights(hugging_face().vit.state_dict())
    assert kind == "hf_vitmae"
    assert all(k.startswith("backbone.net.") and "attention" not in k for k in encoder)
    head = {"weight": torch.zeros(2, 32), "bias": torch.zeros(2)}
    with_head = {**theirs, "vit.pooler.dense.weight": torch.zeros(32, 32)}
    with_head |= {f"classifier.{k}": v for k, v in head.items()}
    expected = {**ours, **{f"head.{k}": v for k, v in head.items()}}
    assert same(load_weights(with_head)[1], expected)
    load_pretrained(mae, theirs, require_all=True)


def test_a_hugging_face_file_without_its_keys(ours):
    theirs = hub_names(ours)
    del theirs["vit.encoder.layer.0.attention.attention.key.weight"]
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn.*key"):
        load_weights(theirs)


def test_detectron2():
    net = detectron2_vit(use_rel_pos=True)
    expected = detector(net).state_dict()
    kind, state_dict = load_weights({"model": expected, "iteration": 9})
    assert kind == "detectron2"
    assert same(state_dict, expected)
    kind, state_dict = load_weights(net.state_dict())  # as we export it
    assert kind == "detectron2"
    assert same(state_dict, {f"backbone.net.{k}": v for k, v in net.state_dict().items()})


# ---- containers


def test_files(tmp_path, ours):
    save_file(mae_names(ours), tmp_path / "a.safetensors")
    torch.save(
        {"model": mae_names(ours), "args": argparse.Namespace(lr=1e-4, x=[1])}, tmp_path / "b.pth"
    )
    torch.save({"state_dict": mae_names(ours)}, tmp_path / "c.pt")
    torch.save(mae_names(ours), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pth", "c.pt", "old.pth", "b.pth?matching_heuristics=True"):
        kind, state_dict = load_weights(str(tmp_path / name))
        assert kind == "mae", name
        assert same(state_dict, ours), name


def test_module_prefix_of_ddp(ours):
    for names in (mae_names(ours), ours, hub_names(ours)):
        wrapped = {f"module.{k}": v for k, v in names.items()}
        assert same(load_weights({"model": wrapped})[1], ours)
    assert same(load_weights({"module": mae_names(ours)})[1], ours)  # DeepSpeed


def test_not_named_tensors(tmp_path):
    path = str(tmp_path / "list.pth")
    torch.save([torch.zeros(3)], path)
    with pytest.raises(CheckpointError, match=r"list\.pth: holds a list"):
        load_weights(path)
