import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rmae_d2.checkpoint import (
    TARGETS,
    build_from_reference,
    convert,
    export_backbone,
    load_pretrained,
    load_weights,
    save_conversion,
)
from rmae_d2.checkpoint.convert import Conversion
from rmae_d2.checkpoint.positions import resample_table
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.modeling import random_shuffle, sincos_position_embedding
from rmae_d2.modeling.block_features import block_features
from tests.checkpoint.helpers import SIZE, detector, detectron2_vit, hugging_face, resampled, same
from tests.helpers import jittered

ENCODER_ONLY = {name for name, target in TARGETS.items() if not target.decoder}


@pytest.fixture
def mae(make_rmae):
    return make_rmae(regions=None).eval()


def tensors(weights, to, **arguments):
    conversion = convert(weights, to, **arguments)
    assert not conversion.refused, conversion
    return conversion.tensors


# ---- there and back, bit for bit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transformers", [4, 5])
@pytest.mark.parametrize("to", TARGETS)
def test_round_trip_from_ours(mae, to, transformers, dtype):
    ours = {k: v.to(dtype) for k, v in mae.state_dict().items()}
    back = tensors(tensors(ours, to, transformers=transformers), "rmae")
    kept = {k: v for k, v in ours.items() if to not in ENCODER_ONLY or k.startswith("backbone")}
    if to == "detectron2":
        for name in ("cls_token", "norm.weight", "norm.bias"):
            del kept[f"backbone.net.{name}"]
    if to == "dinov2":  # whose LayerScale is folded in float32
        back = {k: v.to(dtype) for k, v in back.items()}
    assert same(back, kept)


def theirs_of(source):
    if source == "detectron2":  # the row for a cls token that it does not use too
        return detectron2_vit().state_dict()
    if source.startswith("huggingface"):
        theirs = hugging_face()
        return (theirs if source == "huggingface" else theirs.vit).state_dict()
    no_token = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    theirs = VisionTransformer(**SIZE, num_classes=0, **(no_token if "without" in source else {}))
    nn.init.normal_(theirs.pos_embed)
    return theirs.state_dict()


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        ("detectron2", ["mae", "rmae", "huggingface"]),
        ("timm", ["mae", "rmae", "huggingface"]),
        ("timm without a token", ["mae", "rmae", "huggingface"]),
        ("huggingface", ["mae", "rmae"]),
        ("huggingface's encoder", ["mae", "rmae", "timm"]),
    ],
)
def test_round_trip_from_others(source, targets):
    theirs, project = theirs_of(source), re.match(r"\w+", source)[0]
    for to in targets:
        assert same(tensors(tensors(theirs, to), project), theirs)
        wrapped = {"model": theirs, "matching_heuristics": True, "__author__": "x"}
        assert same(tensors(tensors(wrapped, to), project), theirs)


@pytest.mark.parametrize("decoder_depth", [1, 3])
def test_the_region_branch_is_ours(make_rmae, decoder_depth):
    ours = make_rmae(regions={"decoder_depth": decoder_depth}).state_dict()
    assert same(tensors(ours, "rmae"), ours)
    there = convert(ours, "mae")
    assert not there.refused
    assert {k for k in ours if k.startswith("region_branch.")} == set(there.not_taken)
    back = convert(there.tensors, "rmae")
    assert same(back.tensors, {k: v for k, v in ours.items() if "region_branch" not in k})
    assert list(back.new) == ["region_branch.*"]


def test_the_reference_code(golden):
    ours = tensors(golden["state_dict"], "rmae")
    assert same(ours, load_weights(golden["state_dict"])[1])
    build_from_reference(golden["config"]).load_state_dict(ours)
    twice = {**golden["state_dict"], "region_dec_blocks.0.gate.weight": torch.zeros(2)}
    assert list(convert(twice, "rmae").refused) == ["region_dec_blocks.0.gate.weight"]
    assert not convert(twice, "detectron2").refused
    last = f"region_dec_blocks.{golden['config']['region_dec_depth'] - 1}."
    cut = {k: v for k, v in golden["state_dict"].items() if not k.startswith(last)}
    assert "region_branch.expansion.proj.weight" in convert(cut, "rmae").refused


# ---- the same features and predictions in every library


def close(a, b):
    return torch.allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("start", ["ours", "timm", "huggingface"])
def test_features_are_equal_everywhere(make_rmae, start):
    """The encoder's output: after the final norm in three libraries, before it in Detectron2."""
    ours = make_rmae(regions=None).eval()
    timm_vit = jittered(VisionTransformer(**SIZE, num_classes=0, global_pool=""), 0.1)
    theirs = hugging_face(mask_ratio=0.0)
    encoder = theirs.vit
    source = {"ours": ours, "timm": timm_vit, "huggingface": theirs}[start].state_dict()

    load_pretrained(ours, tensors(source, "rmae"))
    timm_vit.load_state_dict(tensors(source, "timm"))
    hf_weights = tensors(source, "huggingface")
    encoder.load_state_dict(
        {k.removeprefix("vit."): v for k, v in hf_weights.items() if "decoder" not in k}
    )
    d2_vit = detectron2_vit()
    d2_vit.load_state_dict(tensors(source, "detectron2"))
    for model in (ours, timm_vit, encoder, d2_vit):
        model.eval()

    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = ours.backbone.encode_image(images)
        assert expected.std() > 0.1
        assert close(timm_vit.forward_features(images), expected)
        in_order = torch.arange(16.0).expand(2, 16)
        assert close(encoder(images, noise=in_order).last_hidden_state, expected)
        # Detectron2's ViT has neither cls token nor norm, so it is held against timm's blocks.
        tokens = timm_vit.patch_embed(images) + timm_vit.pos_embed[:, 1:]
        tokens = timm_vit.blocks(tokens)
        features = d2_vit(images)["last_feat"]
        assert close(features.flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize("transformers", [4, 5])
def test_predictions_are_those_of_hugging_face(mae, transformers):
    """Decoder and all, by the way that its users load weights; 4 and the hub, or 5's own names."""
    theirs = hugging_face(mask_ratio=0.75, norm_pix_loss=True)
    weights = tensors(mae.state_dict(), "huggingface", transformers=transformers)
    theirs = type(theirs).from_pretrained(None, config=theirs.config, state_dict=weights).eval()
    images = torch.randn(2, 3, 32, 32)
    ids = random_shuffle(torch.tensor([3, 4]), 16)
    mae.mask_ratio, mae.norm_pix_loss = 0.75, True
    with torch.no_grad():
        ours = mae.forward_tensors(images, ids_shuffle_BL=ids)
        logits = theirs(images, noise=ids.argsort(dim=1).float())
    hidden = ours["mask"].bool()
    assert torch.equal(hidden, logits.mask.bool())
    assert close(ours["loss"], logits.loss)
    assert close(ours["pred_pixels"][hidden], logits.logits[hidden])


@pytest.fixture
def dinov2(tmp_path):
    """Dinov2Backbone as people load it, from a folder with converted weights; it misses none of them."""
    hf = pytest.importorskip("transformers")

    def load(weights, side, transformers=None, **arguments):
        conversion = convert(weights, "dinov2", transformers=transformers, **arguments)
        save_conversion(conversion, str(tmp_path / "model.safetensors"), force=True)
        sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, patch_size=8)
        config = hf.Dinov2Config(**sizes, image_size=side, out_indices=[1, 2])
        load = hf.Dinov2Backbone.from_pretrained
        theirs, loading = load(str(tmp_path), config=config, output_loading_info=True)
        assert not loading["missing_keys"] and not loading["unexpected_keys"]
        return theirs.eval()

    return load


@torch.no_grad()
def same_maps(net, theirs, *size):
    images = torch.randn(2, 3, *size)
    expected = [block.patches for block in block_features(net, images, 2)]
    found = theirs(images).feature_maps
    return all(close(*maps) for maps in zip(found, expected, strict=True))


@pytest.mark.parametrize("transformers", [4, 5])
def test_feature_maps_are_those_of_dinov2(mae, dinov2, transformers):
    net = mae.backbone.net
    assert same_maps(net, dinov2(mae.state_dict(), 32, transformers), 32, 32)
    # Made for another size, it has our numbers there.
    theirs = dinov2(mae.state_dict(), 64, transformers, img_size=(64, 64))
    assert same_maps(net, theirs, 64, 64)


def test_dinov2_interpolates_positions_by_another_cubic(mae, make_rmae, dinov2):
    """At sizes that the file is not made for: the one without antialias."""
    theirs = dinov2(mae.state_dict(), 32)
    assert not same_maps(mae.backbone.net, theirs, 48, 64)
    net = make_rmae(img_size=(48, 64), regions=None).eval().backbone.net
    table = mae.backbone.net.pos_embed.data
    rows = resample_table(table, ((4, 4), 1), ((6, 8), 1), antialias=False)
    net.load_state_dict({**mae.backbone.net.state_dict(), "pos_embed": rows})
    assert same_maps(net, theirs, 48, 64)


@torch.no_grad()
def test_features_are_those_of_mmpretrain(mae):
    needs = "needs mmpretrain, which is in no extra: its mmcv has to be compiled, or mmcv-lite"
    backbones = pytest.importorskip("mmpretrain.models.backbones", reason=needs)
    arch = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=128)
    theirs = backbones.VisionTransformer(arch, img_size=32, patch_size=8, out_type="raw")
    weights = tensors(mae.state_dict(), "mmpretrain")
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in weights.items()} == shapes
    theirs.load_state_dict(weights)
    theirs.eval()  # which returns nothing
    images = torch.randn(2, 3, 32, 32)
    assert close(theirs(images)[-1], mae.backbone.encode_image(images))


# ---- what goes where


def test_every_tensor_is_accounted_for(make_rmae):
    ours = make_rmae().state_dict()
    for to in TARGETS:
        conversion = convert(ours, to, transformers=4)
        made = [name for name in conversion.new if name in conversion.tensors]
        assert sorted(conversion.copied + made) == sorted(conversion.tensors)
        copied = len(tensors(conversion.tensors, "rmae"))
        assert copied + len(conversion.not_taken) == len(ours)


DECODER = {"mask_token", "decoder_*"}
SCALES = {f"encoder.layer.{i}.layer_scale{j}.lambda1" for i in (0, 1) for j in (1, 2)}


@pytest.mark.parametrize(
    ("to", "new", "not_taken"),
    [
        ("detectron2", {"blocks.*.attn.rel_pos_[hw]"}, {"cls_token", "norm", *DECODER}),
        ("timm", set(), DECODER),
        ("mae", set(), set()),
        ("huggingface", set(), set()),
        ("dinov2", {"embeddings.mask_token", *SCALES}, DECODER),
        ("mmpretrain", set(), DECODER),
        ("mmsegmentation", set(), DECODER),
        ("rmae", {"region_branch.*"}, set()),
    ],
)
def test_lists_from_mae(mae, to, new, not_taken):
    conversion = convert(tensors(mae.state_dict(), "mae"), to)
    assert conversion.kind == "mae"
    assert set(conversion.new) == new
    stems = {re.sub(r"^decoder_.*", "decoder_*", k).split(".")[0] for k in conversion.not_taken}
    assert stems == not_taken
    assert "refused: 0" in str(conversion)


def test_lists_from_a_detector():
    model = detector(detectron2_vit(use_rel_pos=True))
    for name, parameter in model.named_parameters():
        if "rel_pos" in name:
            nn.init.zeros_(parameter)
    conversion = convert(model.state_dict(), "rmae")
    assert not conversion.refused
    encoder = {f"backbone.net.{name}" for name in ("cls_token", "norm.weight", "norm.bias")}
    assert set(conversion.new) == {*encoder, "pixel_decoder.*", "region_branch.*"}
    assert conversion.not_taken["roi_heads.weight"] == "another part of the model than its ViT"
    assert conversion.not_taken["backbone.net.blocks.1.attn.rel_pos_h"].endswith("no loss")
    # and to itself, as a backbone alone
    backbone = convert(model.state_dict(), "detectron2")
    assert same(backbone.tensors, model.backbone.net.state_dict())
    assert not backbone.new


def test_relative_positions_are_not_lost_in_silence():
    theirs = detectron2_vit(use_rel_pos=True).state_dict()
    for to in set(TARGETS) - {"detectron2"}:
        conversion = convert(theirs, to)
        assert len(conversion.refused) == 4 and not conversion.tensors
        assert "--drop '*.rel_pos_?'" in conversion.refused["blocks.0.attn.rel_pos_h"]
        conversion = convert(theirs, to, drop=["*.rel_pos_?"])
        assert not conversion.refused
        assert conversion.not_taken["blocks.0.attn.rel_pos_h"] == "left out as asked"
        more = {"huggingface": 8, "dinov2": 8 + 5}.get(to, 0)
        assert len(conversion.tensors) == 3 + 24 + more


def test_heads_are_not_taken():
    theirs = VisionTransformer(**SIZE, num_classes=7, global_pool="avg").state_dict()
    conversion = convert(theirs, "timm")
    assert sorted(conversion.not_taken) == [
        *("fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight")
    ]
    assert set(conversion.new) == {"norm.weight", "norm.bias"}
    pooled = {**hugging_face().vit.state_dict(), "pooler.dense.weight": torch.zeros(32, 32)}
    assert list(convert(pooled, "rmae").not_taken) == ["pooler.dense.weight"]


def test_a_detectron2_backbone_goes_on_pre_training(make_rmae):
    """Loading is refused until somebody says that a new cls token and norm are what they want."""
    theirs = detectron2_vit().state_dict()
    partial_encoder = convert(theirs, "rmae")
    model = make_rmae()
    with pytest.raises(CheckpointError, match="cls_token: not in the file"):
        load_pretrained(model, partial_encoder.tensors)
    filled = convert(theirs, "rmae", fill=True)
    parts = {"pixel_decoder.*", "region_branch.*"}
    assert set(filled.tensors) - set(filled.copied) == set(filled.new) - parts
    assert "made up as asked" in filled.new["backbone.net.cls_token"]
    load_pretrained(model, filled.tensors)
    assert torch.equal(model.backbone.net.norm.weight, torch.ones(32))
    assert same(filled.tensors, convert(theirs, "rmae", fill=True).tensors)
    VisionTransformer(**SIZE, num_classes=0).load_state_dict(tensors(theirs, "timm", fill=True))


# ---- refusals


@pytest.mark.parametrize("unknown", ["blocks.0.foo.weight", "memory", "foo.bar"])
@pytest.mark.parametrize("to", TARGETS)
def test_unknown_tensors_are_refused(mae, unknown, to):
    theirs = {**tensors(mae.state_dict(), "mae"), unknown: torch.ones(32)}
    conversion = convert(theirs, to)
    assert list(conversion.refused) == [unknown]
    assert "has no such part" in conversion.refused[unknown]
    assert not conversion.tensors and len(conversion.copied) >= 27
    with pytest.raises(CheckpointError, match=f"1 tensors refused.*{re.escape(unknown)}"):
        save_conversion(conversion, "nowhere.pth")


@given(data=st.data())
def test_one_wrong_shape_is_refused(make_rmae, data):
    theirs = tensors(make_rmae(regions=None).state_dict(), "mae")
    # The kernel and the mask token set the sizes that others are held against.
    sizes = ("patch_embed.proj.weight", "mask_token", "blocks.0.mlp.fc1.weight", "pos_embed")
    name = data.draw(st.sampled_from(sorted(set(theirs) - set(sizes))))
    theirs[name] = torch.zeros([side + 1 for side in theirs[name].shape])
    conversion = convert(theirs, "rmae")
    assert list(conversion.refused) == [name]
    assert re.match(r"is \(.*\), should be \(", conversion.refused[name])


@given(data=st.data())
def test_one_missing_tensor_is_refused(make_rmae, data):
    ours = make_rmae(regions=None).state_dict()
    optional = [f"backbone.net.{n}" for n in ("cls_token", "norm.weight", "norm.bias")]
    sizes = ["backbone.net.patch_embed.proj.weight", "pixel_decoder.mask_token"]
    name = data.draw(st.sampled_from(sorted(set(ours) - set(optional) - set(sizes))))
    del ours[name]
    assert convert(ours, "mae").refused == {name: "not in the input, which is incomplete"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"patch_embed.proj.weight": None}, "not weights of MAE"),
        ({"patch_embed.proj.weight": torch.zeros(32, 192)}, "not .width, channels, patch, patch."),
        ({"patch_embed.proj.weight": torch.zeros(32, 3, 8, 4)}, "not .width, channels, patch, pat"),
        ({"pos_embed": torch.zeros(17, 32)}, r"pos_embed is \(17, 32\)"),
    ],
)
def test_no_vit_at_all(mae, change, says):
    theirs = {**tensors(mae.state_dict(), "mae"), **change}
    theirs = {k: v for k, v in theirs.items() if v is not None}
    with pytest.raises(CheckpointError, match=says):
        convert(theirs, "rmae")


def test_gaps_and_halves(make_rmae):
    ours = make_rmae(depth=3, regions=None).state_dict()
    without = {k: v for k, v in ours.items() if not k.startswith("backbone.net.blocks.1.")}
    assert len(convert(without, "timm").refused) == 12
    del ours["backbone.net.norm.bias"]
    assert list(convert(ours, "timm").refused) == ["backbone.net.norm.bias"]
    assert not convert(ours, "detectron2").refused


def test_requests_that_make_no_sense(mae):
    with pytest.raises(CheckpointError, match="unknown target 'jax': one of detectron2, mae"):
        convert(mae.state_dict(), "jax")
    with pytest.raises(CheckpointError, match=r"no tensor is called like 'heads\.\*'"):
        convert(mae.state_dict(), "mae", drop=["heads.*"])
    with pytest.raises(UserError, match="30x32 is not a positive multiple of the patch size 8"):
        convert(mae.state_dict(), "mae", img_size=(30, 32))


# ---- position embeddings


@pytest.mark.parametrize("request_", [{"grid": (6, 8)}, {"img_size": (48, 64)}])
def test_all_tables_are_resized(make_rmae, request_):
    source, target = make_rmae(), make_rmae(img_size=(48, 64))
    conversion = convert(source.state_dict(), "rmae", **request_)
    assert conversion.grid == (6, 8)
    assert len(conversion.resized) == 4
    assert set(conversion.resized.values()) == {"4x4 -> 6x8 patches, bicubic"}
    by_loader = make_rmae(img_size=(48, 64))
    load_pretrained(by_loader, source.state_dict(), require_all=True)
    target.load_state_dict(conversion.tensors)
    assert same(target.state_dict(), by_loader.state_dict())


def test_a_table_without_a_cls_row():
    theirs = VisionTransformer(
        **SIZE, num_classes=0, class_token=False, global_pool="avg", fc_norm=False
    )
    nn.init.normal_(theirs.pos_embed)
    table = theirs.pos_embed.data
    conversion = convert(theirs.state_dict(), "detectron2")
    assert conversion.resized == {"pos_embed": "a cls row of zeros added"}
    assert torch.equal(conversion.tensors["pos_embed"][:, 1:], table)
    assert not conversion.tensors["pos_embed"][:, 0].any()
    detectron2_vit().load_state_dict(conversion.tensors)
    # Detectron2's has the row but no token: a timm ViT without either gives the same features.
    back = convert(conversion.tensors, "timm")
    assert back.resized == {"pos_embed": "its cls row left out"}
    theirs.load_state_dict(
        {**back.tensors, "norm.weight": torch.ones(32), "norm.bias": torch.zeros(32)}
    )


def test_some_have_square_tables_only(make_rmae, tmp_path):
    wide = make_rmae(img_size=(24, 40)).state_dict()  # with the cls row as many rows as 4x4
    for to, whose in (("dinov2", "Hugging Face's Dinov2"), ("detectron2", "Detectron2's ViT")):
        why = convert(wide, to).refused["pos_embed"]
        assert why.startswith(f"is for a grid of 3x5, and {whose} has only") and "--grid" in why
    conversion = convert(wide, "detectron2", grid=(4, 4))
    detectron2_vit().load_state_dict(conversion.tensors)
    expected = resampled(sincos_position_embedding(32, (3, 5))[:, 1:], (3, 5), (4, 4))
    assert torch.allclose(conversion.tensors["pos_embed"][:, 1:], expected, atol=1e-6)
    # A run must not end in an error for that: the export takes the square of as many patches.
    export_backbone(wide, str(tmp_path / "wide.pth"))
    exported = torch.load(tmp_path / "wide.pth")["model"]
    assert same(exported, conversion.tensors)


def test_a_learned_table_of_unknown_grid(make_rmae):
    source = make_rmae(img_size=(24, 40), regions=None)
    nn.init.normal_(source.backbone.net.pos_embed)
    ours = source.state_dict()
    assert same(tensors(tensors(ours, "huggingface"), "rmae"), ours)  # nothing has to be known
    with pytest.raises(CheckpointError, match="can't be resized.*height and width are unknown"):
        convert(ours, "rmae", grid=(4, 4))
    assert "unknown shape" in convert(ours, "detectron2").refused["pos_embed"]


# ---- the report


def test_the_report_is_short_for_deep_networks(make_rmae):
    conversion = convert(make_rmae(depth=12).state_dict(), "detectron2")
    text = str(conversion)
    assert "-> detectron2: embed_dim 32, depth 12, patch_size 8, in_chans 3, grid 4x4" in text
    assert "copied: 147\n" in text and "  blocks.N.attn.qkv (24)\n" in text
    assert len(text.splitlines()) < 60
    assert "refused: 0" in text
    refused = Conversion("x.pth", "mae", "rmae", refused={"a.0.b": "why", "a.1.b": "why"})
    assert str(refused).splitlines()[-3:] == ["refused: 2", "  a.0.b: why", "  a.1.b: why"]


def test_nothing_is_shared_with_the_input(mae):
    ours = mae.state_dict()
    before = {k: v.clone() for k, v in ours.items()}
    for to in TARGETS:
        for tensor in tensors(ours, to).values():
            assert tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
            tensor.zero_()
    assert same(ours, before)
