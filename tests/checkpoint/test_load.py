import logging
import re

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from rmae_d2.checkpoint import LoadReport, load_pretrained
from rmae_d2.errors import CheckpointError
from tests.checkpoint.helpers import SIZE, snapshot, vitdet


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
        ({"in_chans": 1}, r"\(32, 3, 8, 8\) in the file, \(32, 1, 8, 8\) in the model"),
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
        ({"init_values": 1e-5}, "ls1.gamma"),
        ({"qk_norm": True}, "attn.q_norm"),
        ({"reg_tokens": 2, "no_embed_class": True}, "reg_token"),
        ({"pre_norm": True}, "norm_pre"),
        ({"img_size": (24, 40)}, "dist_token"),  # DeiT's, with as many rows as ours
    ],
)
def test_other_vits_are_refused(make_rmae, arguments, part):
    mae = make_rmae(regions=None)
    before = snapshot(mae)
    kind = VisionTransformerDistilled if part == "dist_token" else VisionTransformer
    theirs = kind(**{**SIZE, **arguments}, num_classes=0)
    with pytest.raises(CheckpointError, match=rf"{part}\S*: the model has no such part"):
        load_pretrained(mae, theirs.state_dict())
    assert unchanged(mae, before)


def test_require_all(make_rmae):
    rmae, mae = make_rmae(), make_rmae(regions=None)
    before = snapshot(rmae)
    with pytest.raises(CheckpointError, match=r"region_branch\..*: not in the file"):
        load_pretrained(rmae, mae.state_dict(), require_all=True)
    assert unchanged(rmae, before)
    detector = vitdet()
    with pytest.raises(CheckpointError, match=r"REFUSED: 20 \(.*rel_pos: 4"):
        load_pretrained(detector, mae.state_dict(), require_all=True)
    report = load_pretrained(make_rmae(), rmae.state_dict(), require_all=True)
    assert not report.new and not report.unused


def test_report_is_short_for_long_lists():
    report = LoadReport("x.pth", "mae", unused=[f"part{i}.weight" for i in range(100)])
    assert len(str(report).splitlines()) == 3
    assert re.search(r"100 \(part0\.weight: 1, .*\.\.\.\)", str(report))
