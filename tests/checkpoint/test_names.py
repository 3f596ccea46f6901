"""Names of other projects, here and back; whole files are in test_formats and test_convert."""

import pytest

from rmae_d2.checkpoint.names import TARGETS, our_names, target_name

OURS = [
    "backbone.net.cls_token",
    "backbone.net.pos_embed",
    "backbone.net.patch_embed.proj.weight",
    "backbone.net.norm.bias",
    "backbone.net.blocks.11.attn.proj.weight",
    "backbone.net.blocks.11.mlp.fc2.bias",
    "pixel_decoder.mask_token",
    "pixel_decoder.blocks.0.norm1.weight",
    "pixel_decoder.pred.weight",
]


@pytest.mark.parametrize("transformers", [4, 5])
@pytest.mark.parametrize("target", TARGETS)
def test_there_and_back(target, transformers):
    kinds = {"huggingface": "hf_vitmae", "dinov2": "hf_vitmae", "rmae": "rmae_d2"}
    kind = "mmpretrain" if target.startswith("mm") else kinds.get(target, "mae")
    ours = [n for n in OURS if TARGETS[target].decoder or n.startswith("backbone.")]
    theirs = [target_name(target, name, transformers) for name in ours]
    assert list(our_names(kind, theirs).values()) == ours
    assert len(set(theirs)) == len(ours)


@pytest.mark.parametrize(
    ("target", "theirs"),
    [
        ("mmpretrain", ["ln1.", "attn.qkv.", "attn.proj.", "ffn.layers.0.0.", "ffn.layers.1."]),
        (
            "mmsegmentation",
            [
                "ln1.",
                "attn.attn.in_proj_",
                "attn.attn.out_proj.",
                "ffn.layers.0.0.",
                "ffn.layers.1.",
            ],
        ),
    ],
)
def test_blocks_of_mm(target, theirs):
    """As in the state dicts of mmpretrain 1.2.0 and mmsegmentation 1.2.2."""
    ours = ["norm1.", "attn.qkv.", "attn.proj.", "mlp.fc1.", "mlp.fc2."]
    found = [target_name(target, f"backbone.net.blocks.7.{name}weight") for name in ours]
    assert found == [f"layers.7.{name}weight" for name in theirs]
    outside = {"patch_embed.proj.bias": "patch_embed.projection.bias", "norm.bias": "ln1.bias"}
    for name, expected in outside.items():
        assert target_name(target, f"backbone.net.{name}") == expected


@pytest.mark.parametrize(
    ("kind", "theirs", "ours"),
    [
        ("hf_vitmae", "vit.encoder.layer.1.attention.output.dense.bias", "1.attn.proj.bias"),
        ("hf_vitmae", "encoder.layer.1.output.dense.bias", "1.mlp.fc2.bias"),
        ("hf_vitmae", "layers.1.attention.q_proj.bias", "1.attn.qkv.bias"),
        ("hf_vitmae", "vit.layers.1.attention.o_proj.bias", "1.attn.proj.bias"),
        ("timm", "blocks.1.ls1.gamma", "1.ls1.gamma"),
        ("moco_v3", "base_encoder.blocks.1.norm1.bias", "1.norm1.bias"),
    ],
)
def test_blocks(kind, theirs, ours):
    assert our_names(kind, [theirs]) == {theirs: f"backbone.net.blocks.{ours}"}


def test_what_no_table_knows_stays_and_what_nobody_needs_goes():
    for kind in ("timm", "hf_vitmae", "rmae_reference"):
        assert our_names(kind, ["foo.bar"]) == {"foo.bar": "foo.bar"}
    assert our_names("timm", ["head.weight"]) == {"head.weight": "head.weight"}
    assert our_names("hf_vitmae", ["pooler.dense.bias", "vit.pooler.dense.bias"]) == {}
    assert our_names("moco_v3", ["momentum_encoder.norm.bias", "base_encoder.head.0.bias"]) == {}
