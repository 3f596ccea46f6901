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
    kind = {"huggingface": "hf_vitmae", "rmae": "rmae_d2"}.get(target, "mae")
    theirs = [target_name(target, name, transformers) for name in OURS]
    assert list(our_names(kind, theirs).values()) == OURS
    assert len(set(theirs)) == len(OURS)


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
