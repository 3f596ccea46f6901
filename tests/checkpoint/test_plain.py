"""Encoders of other families against their own code: the same features, or a refusal."""

import logging
from functools import partial

import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rmae_d2.checkpoint import convert, load_pretrained, load_weights
from rmae_d2.checkpoint.encoder import load_encoder
from rmae_d2.checkpoint.plain import TOKENS_LEFT_OUT
from rmae_d2.errors import CheckpointError
from rmae_d2.modeling import ViT
from rmae_d2.modeling.patches import patchify
from tests.checkpoint.helpers import POS, SIZE, vitdet
from tests.helpers import jittered

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def timm_vit(cls=VisionTransformer, **arguments):
    return jittered(cls(**{**SIZE, "num_classes": 0, **arguments}), 0.1).eval()


def hugging_face(name, **arguments):
    transformers = pytest.importorskip("transformers")
    sizes = dict(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=4, layer_norm_eps=1e-6) | arguments
    with torch.random.fork_rng():
        config = getattr(transformers, f"{name}Config")(**sizes)
        model = getattr(transformers, f"{name}Model")(config)
    return jittered(model, 0.1).eval()


@torch.no_grad()
def ours(state_dict):
    """Tokens of the ViT that we build of a file."""
    _, net, _ = load_encoder(state_dict, num_heads=4)
    if hasattr(net, "norm"):
        return net(patchify(IMAGES, net.patch_size))
    return net(IMAGES)["last_feat"].flatten(2).transpose(1, 2)


@torch.no_grad()
def close(state_dict, theirs):
    found = ours(state_dict)
    assert found.std() > 0.1
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)


# ---- LayerScale, missing rows and biases: exact


@pytest.mark.parametrize(
    "arguments",
    [
        {"init_values": 1.0},  # DINOv2
        {"init_values": 1.0, "no_embed_class": True},  # DeiT-III
        {"qkv_bias": False},
    ],
    ids=["dinov2", "deit3", "no qkv bias"],
)
def test_a_timm_vit(arguments):
    theirs = timm_vit(**arguments)
    close(theirs.state_dict(), theirs.forward_features(IMAGES))


def test_half_precision_is_folded_in_full():
    """The product is not rounded again: it is that of the numbers in the file."""
    theirs = timm_vit(init_values=1.0).half()
    state_dict = {k: v.clone() for k, v in theirs.state_dict().items()}
    close(state_dict, theirs.float().forward_features(IMAGES))
    weights = load_weights(state_dict)[1]
    assert weights["backbone.net.blocks.1.mlp.fc2.weight"].dtype == torch.float32
    assert weights["backbone.net.blocks.1.mlp.fc1.weight"].dtype == torch.float16


@pytest.mark.parametrize("name", ["Dinov2", "ViT", "IJepa", "Dinov2WithRegisters"])
def test_hugging_face(name):
    theirs = hugging_face(name)
    state_dict = theirs.state_dict()
    if name == "Dinov2WithRegisters":  # without them, as we take it
        theirs.embeddings.register_tokens = torch.nn.Parameter(torch.zeros(1, 0, 32))
    with torch.no_grad():
        features = theirs(IMAGES).last_hidden_state
    if name == "IJepa":  # no cls token: Detectron2's backbone, which ends before the norm
        found = theirs.layernorm(ours(state_dict))
        torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)
        return
    close(state_dict, features)


def test_names_of_transformers_4():
    """Of the hub's files."""
    theirs = hugging_face("Dinov2")
    old = {
        name.replace("attention.o_proj", "attention.output.dense")
        .replace("attention.q_proj", "attention.attention.query")
        .replace("attention.k_proj", "attention.attention.key")
        .replace("attention.v_proj", "attention.attention.value"): tensor
        for name, tensor in theirs.state_dict().items()
    }
    assert any(".attention.attention.query." in name for name in old)
    close(old, theirs(IMAGES).last_hidden_state)


def test_groups_of_blocks():
    """As in DINOv2's training checkpoints, where a block's number counts on through the groups."""
    theirs = timm_vit(init_values=1.0)
    state_dict = {
        f"backbone.{name.replace('blocks.0.', 'blocks.0.0.').replace('blocks.1.', 'blocks.1.1.')}": tensor
        for name, tensor in theirs.state_dict().items()
    }
    teacher = {**state_dict, "dino_head.mlp.0.weight": torch.zeros(4, 32)}
    close({"teacher": teacher}, theirs.forward_features(IMAGES))


def test_mmpretrain():
    theirs = timm_vit(init_values=1.0)
    names = [
        ("patch_embed.proj.", "patch_embed.projection."),
        ("blocks.", "layers."),
        (".norm1.", ".ln1."),
        (".norm2.", ".ln2."),
        (".mlp.fc1.", ".ffn.layers.0.0."),
        (".mlp.fc2.", ".ffn.layers.1."),
        (".ls1.gamma", ".attn.gamma1.weight"),
        (".ls2.gamma", ".ffn.gamma2.weight"),
    ]
    state_dict = {}
    for name, tensor in theirs.state_dict().items():
        name = name.replace("norm.", "ln1.") if name.startswith("norm.") else name
        for old, new in names:
            name = name.replace(old, new)
        state_dict[f"backbone.{name}"] = tensor
    state_dict["head.layers.head.weight"] = torch.zeros(4, 32)
    content = {"meta": {}, "state_dict": state_dict}
    close(content, theirs.forward_features(IMAGES))
    assert load_weights(content)[0] == "mmpretrain"
    # MMSegmentation's attention is torch's.
    for name in [n for n in state_dict if ".attn." in n and "gamma" not in n]:
        new = name.replace(".attn.qkv.", ".attn.attn.in_proj_")
        new = new.replace(".attn.proj.", ".attn.attn.out_proj.")
        state_dict[new] = state_dict.pop(name)
    close(content, theirs.forward_features(IMAGES))


def test_biases_that_are_missing_are_not_made_up(make_rmae):
    """Only timm leaves them out by design."""
    model = make_rmae(regions=None)
    incomplete = {k: v for k, v in model.state_dict().items() if "attn.qkv.bias" not in k}
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn\.qkv\.bias: not in the file"):
        load_pretrained(make_rmae(regions=None), incomplete)


# ---- tokens that are left out


@pytest.mark.parametrize("arguments", [{}, {"no_embed_class": True}])
def test_registers_are_left_out_with_a_warning(arguments, caplog):
    theirs = timm_vit(init_values=1.0, reg_tokens=4, **arguments)
    state_dict = theirs.state_dict()
    if not arguments:  # timm's then has rows for them, DINOv2's has none
        state_dict["pos_embed"] = torch.cat(
            [state_dict["pos_embed"][:, :1], state_dict["pos_embed"][:, 5:]], dim=1
        )
    with caplog.at_level(logging.WARNING):
        load_weights(state_dict)
    assert TOKENS_LEFT_OUT in caplog.text
    assert "reg_token" in caplog.text
    without = timm_vit(init_values=1.0, **arguments)
    without.load_state_dict({k: v for k, v in state_dict.items() if k != "reg_token"})
    close(state_dict, without.forward_features(IMAGES))
    conversion = convert(state_dict, "rmae")
    assert conversion.not_taken["reg_token"] == TOKENS_LEFT_OUT
    assert "folded" in conversion.not_taken["blocks.0.ls1.gamma"]
    assert not conversion.refused


def test_a_distillation_token_goes_with_its_row(caplog):
    theirs = timm_vit(VisionTransformerDistilled)
    state_dict = theirs.state_dict()
    with caplog.at_level(logging.WARNING):
        rows = load_weights(state_dict)[1]["backbone.net.pos_embed"]
    assert "dist_token" in caplog.text
    table = state_dict["pos_embed"]
    assert torch.equal(rows, torch.cat([table[:, :1], table[:, 2:]], dim=1))
    without = timm_vit()
    without.load_state_dict(
        {k: v for k, v in state_dict.items() if k != "dist_token" and "head" not in k}
        | {"pos_embed": rows}
    )
    close(state_dict, without.forward_features(IMAGES))


def test_a_distillation_token_of_hugging_face(caplog):
    state_dict = hugging_face("DeiT").state_dict()
    with caplog.at_level(logging.WARNING):
        rows = load_weights(state_dict)[1]["backbone.net.pos_embed"]
    assert "distillation_token" in caplog.text
    table = state_dict["embeddings.position_embeddings"]
    assert torch.equal(rows, torch.cat([table[:, :1], table[:, 2:]], dim=1))


@pytest.mark.parametrize("name", ["I-JEPA", "SigLIP"])
def test_without_a_cls_token_into_vitdet(name):
    if name == "I-JEPA":
        state_dict = hugging_face("IJepa", intermediate_size=128).state_dict()
        table = state_dict["embeddings.position_embeddings"]
    else:
        state_dict = timm_vit(class_token=False, global_pool="map").state_dict()
        table = state_dict["pos_embed"]
    detector = vitdet()
    report = load_pretrained(detector, state_dict)
    rows = detector.state_dict()[POS]
    assert torch.equal(rows[:, 1:], table) and not rows[:, 0].any()
    assert all("rel_pos" in key or not key.startswith("backbone.net.") for key in report.new)


# ---- every target takes them unchanged


def test_every_target(make_rmae):
    theirs = timm_vit(init_values=1.0)
    expected = theirs.forward_features(IMAGES)
    state_dict = theirs.state_dict()
    for to in ("rmae", "mae", "huggingface", "timm"):
        close(convert(state_dict, to).tensors, expected)
    back = timm_vit()
    back.load_state_dict(convert(state_dict, "timm").tensors)
    torch.testing.assert_close(back.forward_features(IMAGES), expected, rtol=1e-4, atol=1e-5)
    model = make_rmae()
    load_pretrained(model, state_dict)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model.backbone.encode_image(IMAGES), expected, rtol=1e-4, atol=1e-5
        )


def test_transfer_backbones():
    """Segmentation's, which keeps the cls token, and ends before the final norm."""
    theirs = timm_vit(init_values=1.0)
    model = nn.Module()
    model.backbone = nn.Module()
    sizes = dict(SIZE, pretrain_img_size=32, keep_cls_token=True)
    model.backbone.net = ViT(**sizes, norm_layer=partial(nn.LayerNorm, eps=1e-6)).eval()
    load_pretrained(model, theirs.state_dict())
    with torch.no_grad():
        (expected,) = theirs.get_intermediate_layers(IMAGES, n=1, reshape=True)
        torch.testing.assert_close(
            model.backbone.net(IMAGES)["last_feat"], expected, rtol=1e-4, atol=1e-5
        )


# ---- what can't be plain is refused in one line


@pytest.mark.parametrize(
    "name, what",
    [
        ("eva02_tiny_patch14_224", "SwiGLU"),
        ("vit_small_patch16_dinov3", "RoPE"),
        ("vit_base_patch16_clip_224", "before its first block"),
        ("beit_base_patch16_224", "relative position biases"),
        ("vit_giant_patch14_dinov2", "SwiGLU"),
    ],
)
def test_what_is_no_plain_vit(name, what, make_rmae):
    with torch.device("meta"):
        state_dict = timm.create_model(name).state_dict()
    # Of one block: what the file is shows in its names and shapes.
    few = {k: torch.zeros(v.shape) for k, v in state_dict.items() if ".0." in k or "block" not in k}
    for use in (load_weights, lambda w: convert(w, "rmae"), load_encoder):
        with pytest.raises(CheckpointError, match=what) as caught:
            use(few)
        assert "\n" not in str(caught.value)
        assert "DINOv2 (S, B, L)" in str(caught.value)


@pytest.mark.parametrize(
    "name, what",
    [
        ("DINOv3ViT", "RoPE"),
        ("SiglipVision", "timm's copy"),
        ("Beit", "as BEiT"),
    ],
)
def test_what_is_none_of_hugging_face(name, what):
    theirs = hugging_face(name)
    with pytest.raises(CheckpointError, match=what):
        load_weights(theirs.state_dict())


# ---- SAM's


def test_sams_image_encoder():
    """Its blocks with windows and relative positions, without the neck behind them."""
    sam = pytest.importorskip("segment_anything.modeling")
    sizes = {**SIZE, "img_size": 64, "out_chans": 16, "use_rel_pos": True, "qkv_bias": True}
    layer_norm = partial(nn.LayerNorm, eps=1e-6)
    theirs = sam.ImageEncoderViT(
        **sizes, norm_layer=layer_norm, window_size=4, global_attn_indexes=(1,)
    )
    theirs = jittered(theirs, 0.1).eval()
    whole = {f"image_encoder.{name}": tensor for name, tensor in theirs.state_dict().items()}
    whole["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = torch.zeros(2, 8)
    size, net, kind = load_encoder(whole, num_heads=4)
    assert (size.grid, size.window, size.windowed, kind) == ((8, 8), 4, (0,), "detectron2")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens = theirs.patch_embed(images) + theirs.pos_embed
        for block in theirs.blocks:
            tokens = block(tokens)
        torch.testing.assert_close(
            net(images)["last_feat"], tokens.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4
        )
    detector = vitdet(window_size=4, window_block_indexes=[0], pretrain_img_size=64)
    load_pretrained(detector, whole)
    table = theirs.blocks[0].attn.rel_pos_h
    assert torch.equal(detector.backbone.net.blocks[0].attn.rel_pos_h, table)
    conversion = convert(whole, "detectron2")
    assert not conversion.refused
    assert conversion.not_taken["neck.0.weight"] == "another part of the model than its ViT"
