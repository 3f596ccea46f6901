import logging
import re

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.utils import get_abs_pos
from timm.models import adapt_input_conv
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rmae_d2.checkpoint import LoadReport, convert, load_pretrained
from rmae_d2.errors import CheckpointError
from rmae_d2.modeling import ViT
from rmae_d2.modeling.patches import patchify
from tests.checkpoint.helpers import POS, SIZE, snapshot, vitdet
from tests.helpers import jittered


def unchanged(model, before):
    return all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def is_encoder(name):
    return name.startswith("backbone.net.") and "rel_pos" not in name


# ---- transfer


def test_pretraining_checkpoint_into_vitdet(make_rmae, tmp_path, caplog):
    rmae, detector = make_rmae(), vitdet()
    before = snapshot(detector)
    path = str(tmp_path / "model_final.pth")
    torch.save({"model": rmae.state_dict(), "iteration": 11}, path)
    with caplog.at_level(logging.INFO):
        report = load_pretrained(detector, path)

    after, source = detector.state_dict(), rmae.state_dict()
    encoder = [k for k in after if is_encoder(k)]
    assert len(encoder) == 3 + 2 * 12
    assert sorted(report.copied) == sorted(encoder)
    assert all(torch.equal(after[k], source[k]) for k in encoder)
    assert sorted(report.new) == sorted(set(after) - set(encoder))
    assert all(torch.equal(after[k], before[k]) for k in report.new)
    assert {k.rpartition(".")[2] for k in report.new if "net." in k} == {"rel_pos_h", "rel_pos_w"}
    assert sorted(report.unused) == sorted(set(source) - set(encoder))
    assert not report.refused and not report.resampled
    text = str(report)
    assert f"loaded {path} (recognised as rmae_d2):" in text
    assert "copied: 27 tensors, 27 of them of the pixel encoder" in text
    assert "new by design, initialised at random" in text and "rel_pos: 4" in text
    assert "backbone.simfp_" in text and "roi_heads.weight: 1" in text
    assert "not used by this model" in text and "backbone.net.cls_token: 1" in text
    assert "REFUSED" not in text
    assert text in caplog.text


# ---- segmentation, which keeps the cls token


def segmentor(**arguments):
    """Parts of one: its ViT for images of 64 pixels, and something like a head."""
    model = nn.Module()
    model.backbone = nn.Module()
    sizes = {**SIZE, "img_size": 64, "pretrain_img_size": 64, "keep_cls_token": True, **arguments}
    model.backbone.net = jittered(ViT(**sizes, use_rel_pos=True))
    model.sem_seg_head = nn.Linear(32, 3)
    return model


def table_of(model, side):
    """What the former recipe made of a table of 4x4 at every pass."""
    return get_abs_pos(model.backbone.net.pos_embed, True, (side, side)).flatten(1, 2)


@pytest.mark.parametrize("kind", ["rmae_d2", "mae", "timm", "hf_vitmae", "moco_v3"])
def test_the_cls_token_comes_from_every_kind_of_file(make_rmae, kind):
    """And the table is resized once to what it was interpolated to at every pass."""
    ours = make_rmae(regions=None)
    nn.init.normal_(ours.backbone.net.pos_embed)
    if kind == "moco_v3":
        weights = convert(ours.state_dict(), "timm").tensors
        weights = {f"module.base_encoder.{k}": v for k, v in weights.items()}
    elif kind == "rmae_d2":
        weights = ours.state_dict()
    else:
        weights = convert(ours.state_dict(), {"hf_vitmae": "huggingface"}.get(kind, kind)).tensors
    model = segmentor()
    report = load_pretrained(model, weights)
    net, source = model.backbone.net.state_dict(), ours.backbone.net.state_dict()
    assert report.kind == kind and list(report.resampled) == [POS]
    assert all(
        torch.equal(net[k], source[k]) for k in net if k != "pos_embed" and "rel_pos" not in k
    )
    assert torch.equal(net["cls_token"], ours.backbone.net.cls_token)
    assert torch.equal(net["pos_embed"][:, :1], ours.backbone.net.pos_embed[:, :1])
    torch.testing.assert_close(net["pos_embed"][:, 1:], table_of(ours, 8))


def test_segmentation_with_and_without_a_cls_token():
    """Neither is taken for the other; in training, what has one may begin what has none."""
    old, new = segmentor(keep_cls_token=False, pretrain_img_size=32), segmentor()
    for require_all in (False, True):
        with pytest.raises(CheckpointError, match=r"without a cls token: .*keep_cls_token=false"):
            load_pretrained(new, old.state_dict(), require_all)
    with pytest.raises(CheckpointError, match=r"with a cls token: .*keep_cls_token=true"):
        load_pretrained(segmentor(keep_cls_token=False), new.state_dict(), require_all=True)
    report = load_pretrained(segmentor(keep_cls_token=False), new.state_dict())
    assert report.unused == ["backbone.net.cls_token"]
    # A table of an older run, resized once.
    model = segmentor(keep_cls_token=False)
    assert load_pretrained(model, old.state_dict(), require_all=True).resampled.keys() == {POS}
    torch.testing.assert_close(model.state_dict()[POS][:, 1:], table_of(old, 8))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = (x.backbone.net(images)["last_feat"] for x in (model, old))
    torch.testing.assert_close(found, expected)


def test_vitdet_back_into_pretraining(make_rmae):
    """A fine-tuned detector's encoder, further pre-trained: cls token and final norm are not in it."""
    detector = vitdet()
    with pytest.raises(CheckpointError, match=r"cls_token: not in the file"):
        load_pretrained(make_rmae(), detector.state_dict())


def test_a_fine_tuned_vitdet_into_another(make_rmae):
    first, second = vitdet(), vitdet()
    report = load_pretrained(second, first.state_dict(), require_all=True)
    assert report.kind == "detectron2"
    assert unchanged(second, first.state_dict())


def test_rmae_into_mae_and_back(make_rmae):
    rmae, mae = make_rmae(), make_rmae(regions=None)
    report = load_pretrained(mae, rmae.state_dict())
    assert all(k.startswith("region_branch.") for k in report.unused)
    assert unchanged(mae, rmae.state_dict())
    report = load_pretrained(rmae, mae.state_dict())
    assert report.new and all(k.startswith("region_branch.") for k in report.new)


# ---- refusals leave the model as it was


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (
            {"embed_dim": 48},
            r"patch_embed\.proj\.weight: \(32, 3, 8, 8\) in the file, \(48, 3, 8, 8\)",
        ),
        ({"depth": 3}, r"blocks\.2\.norm1\.weight: not in the file"),
        ({"depth": 1}, r"blocks\.1\.norm1\.weight: the model has no such part"),
    ],
)
@pytest.mark.parametrize("target", ["vitdet", "rmae"])
def test_another_encoder_is_refused(make_rmae, other, says, target):
    model = vitdet(**other) if target == "vitdet" else make_rmae(**other)
    before = snapshot(model)
    weights = make_rmae().state_dict()
    with pytest.raises(CheckpointError, match=says) as caught:
        load_pretrained(model, weights)
    assert unchanged(model, before)
    assert "nothing was loaded" in str(caught.value)
    assert "model.backbone.net.{embed_dim,depth,patch_size}" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"qk_norm": True}, "QK norm"),
        ({"pre_norm": True}, "a layer norm before its first block"),
        (
            {"img_size": (24, 40)},
            "of 16 rows in the file: neither a square",
        ),  # DeiT's, 16 rows in all
    ],
)
def test_other_vits_are_refused(make_rmae, arguments, part):
    mae = make_rmae(regions=None)
    before = snapshot(mae)
    kind = VisionTransformerDistilled if "img_size" in arguments else VisionTransformer
    theirs = kind(**{**SIZE, **arguments}, num_classes=0)
    with pytest.raises(CheckpointError, match=part):
        load_pretrained(mae, theirs.state_dict())
    assert unchanged(mae, before)


def test_require_all(make_rmae):
    rmae, mae = make_rmae(), make_rmae(regions=None)
    before = snapshot(rmae)
    with pytest.raises(CheckpointError, match=r"region_branch\..*: not in the file"):
        load_pretrained(rmae, mae.state_dict(), require_all=True)
    assert unchanged(rmae, before)
    detector = vitdet()
    with pytest.raises(CheckpointError, match=r"REFUSED: 21 \(.*rel_pos: 4.*cls_token: 1"):
        load_pretrained(detector, mae.state_dict(), require_all=True)
    report = load_pretrained(make_rmae(), rmae.state_dict(), require_all=True)
    assert not report.new and not report.unused


def test_report_is_short_for_long_lists():
    report = LoadReport("x.pth", "mae", unused=[f"part{i}.weight" for i in range(100)])
    assert len(str(report).splitlines()) == 3
    assert re.search(r"100 \(part0\.weight: 1, .*\.\.\.\)", str(report))


def test_a_patch_embedding_for_another_patch_size_answers_an_enlarged_image_alike(make_rmae):
    torch.manual_seed(0)
    small = make_rmae(img_size=(24, 24), patch_size=6, regions=None)
    large = make_rmae(img_size=(32, 32), patch_size=8, regions=None)
    report = load_pretrained(
        large, {k: v for k, v in small.state_dict().items() if "backbone" in k}
    )
    assert (
        "resampled: backbone.net.patch_embed.proj.weight: 6 -> 8 pixels per side, by FlexiViT's"
        in str(report)
    )
    patch = torch.randn(5, 3, 6, 6)
    enlarged = F.interpolate(patch, (8, 8), mode="bicubic", antialias=True)
    theirs = F.conv2d(patch, small.backbone.net.patch_embed.proj.weight).flatten(1)
    ours = F.conv2d(enlarged, large.backbone.net.patch_embed.proj.weight).flatten(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    # Evaluation wants the very weights.
    with pytest.raises(
        CheckpointError, match=r"patch_embed.proj.weight: \(32, 3, 6, 6\) in the file"
    ):
        load_pretrained(large, small.state_dict(), require_all=True)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_a_patch_embedding_for_another_number_of_channels(make_rmae, channels):
    theirs = make_rmae(regions=None)
    ours = make_rmae(regions=None, in_chans=channels)
    encoder = {k: v for k, v in theirs.state_dict().items() if "backbone" in k}
    report = load_pretrained(ours, encoder)
    assert f"proj.weight: 3 -> {channels} channels, " in str(report)
    kernel = encoder["backbone.net.patch_embed.proj.weight"]
    expected = adapt_input_conv(channels, kernel)  # timm's
    assert torch.allclose(ours.backbone.net.patch_embed.proj.weight, expected)
    if channels == 1:  # a gray image is the color image of three equal channels
        gray = torch.rand(2, 1, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(
                ours.backbone.encode_image(gray),
                theirs.backbone.encode_image(gray.expand(-1, 3, -1, -1)),
                rtol=1e-4,
                atol=1e-5,
            )


def test_decoders_for_other_patches_are_new(make_rmae):
    """What they predict has another size; their other layers are taken."""
    model = make_rmae(patch_size=4, img_size=(16, 16), in_chans=2)
    before = snapshot(model)
    report = load_pretrained(model, make_rmae().state_dict())
    assert "8 -> 4 pixels per side" in str(report) and "3 -> 2 channels" in str(report)
    new = [key for key in report.new if torch.equal(model.state_dict()[key], before[key])]
    assert new == report.new
    assert {"pixel_decoder.pred.weight", "pixel_decoder.pred.bias"} <= set(new)
    assert all(key.startswith(("pixel_decoder.pred", "region_branch.")) for key in new)
    assert "pixel_decoder.blocks.0.attn.qkv.weight" in report.copied
    assert "region_branch.neck.mask_token" in report.copied


def test_what_to_do_without_a_cls_token(make_rmae, tmp_path):
    """As SigLIP's encoder: refused with the command that makes it fit, which does."""
    theirs = VisionTransformer(
        **SIZE, num_classes=0, class_token=False, global_pool="map", fc_norm=False
    )
    torch.save(theirs.state_dict(), tmp_path / "siglip.pth")
    model = make_rmae(regions=None)
    with pytest.raises(CheckpointError, match="--to rmae --fill --output NEW.pth makes one up"):
        load_pretrained(model, str(tmp_path / "siglip.pth"))
    filled = convert(str(tmp_path / "siglip.pth"), "rmae", fill=True)
    assert not filled.refused
    assert filled.not_taken["attn_pool.q.weight"] == "a classification head"
    load_pretrained(model, filled.tensors)
    (images,) = torch.randn(1, 2, 3, 32, 32)
    embed = theirs.patch_embed(images) + theirs.pos_embed
    ours = model.backbone.net.patch_embed(patchify(images, 8)) + model.backbone.net.pos_embed[:, 1:]
    torch.testing.assert_close(ours, embed, rtol=1e-4, atol=1e-5)
