import logging
import re

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rmae_d2.checkpoint import LoadReport, load_pretrained
from rmae_d2.errors import CheckpointError
from rmae_d2.modeling import sincos_position_embedding
from tests.checkpoint.helpers import SIZE, detector, detectron2_vit

POS = "backbone.net.pos_embed"


def vitdet(cls_row=True, **arguments):
    """A ViTDet with its two additions, relative positions and pyramid."""
    windows = {"use_rel_pos": True, "window_size": 2, "window_block_indexes": [0]}
    arguments = {"img_size": 64, "pretrain_use_cls_token": cls_row, **windows, **arguments}
    return detector(detectron2_vit(**arguments))


def snapshot(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


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


def test_a_model_whose_vit_is_elsewhere_is_refused(make_rmae):
    """Not one tensor would fit, which must not pass for a success."""
    model = nn.Module()
    model.encoder = vitdet().backbone
    with pytest.raises(CheckpointError, match="no such part"):
        load_pretrained(model, make_rmae().state_dict())


# ---- position embeddings


def resampled(table, old, new):
    return resample_abs_pos_embed(table, list(new), list(old), num_prefix_tokens=0)


def test_square_to_square(make_rmae):
    source = make_rmae()
    nn.init.normal_(source.backbone.net.pos_embed)
    table = source.backbone.net.pos_embed.data
    for side in (6, 2):
        model = vitdet(pretrain_img_size=8 * side)
        report = load_pretrained(model, source.state_dict())
        assert report.resampled == [POS]
        assert "copied: 26 tensors, 26 of them of the pixel encoder" in str(report)
        assert "position embedding resampled: 1 (backbone.net.pos_embed: 1)" in str(report)
        loaded = model.state_dict()[POS]
        assert torch.equal(loaded[:, :1], table[:, :1])
        assert torch.allclose(loaded[:, 1:], resampled(table[:, 1:], (4, 4), (side, side)))


def test_all_tables_of_a_pretraining_network(make_rmae):
    source, target = make_rmae(), make_rmae(img_size=(48, 64))
    report = load_pretrained(target, source.state_dict(), require_all=True)
    assert sorted(report.resampled) == [
        "backbone.net.pos_embed",
        "pixel_decoder.pos_embed",
        "region_branch.encoder.pos_embed",
        "region_branch.neck.pos_embed",
    ]
    own = target.region_branch.encoder.pos_embed  # the one without a cls row
    expected = resampled(source.region_branch.encoder.pos_embed.data, (4, 4), (6, 8))
    assert torch.allclose(own, expected)


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (8, 64), (64, 8), (24, 40)])
def test_wide_images_to_square(make_rmae, size):
    """Nobody records the grid of a checkpoint; a sine-cosine table tells it."""
    grid = (size[0] // 8, size[1] // 8)
    source, detector = make_rmae(img_size=size), vitdet(pretrain_img_size=48)
    report = load_pretrained(detector, source.state_dict())
    assert report.resampled == [POS]
    table = sincos_position_embedding(32, grid)
    expected = resampled(table[:, 1:], grid, (6, 6))
    assert torch.allclose(detector.state_dict()[POS][:, 1:], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new"), [((16, 64), (32, 32)), ((32, 64), (64, 32)), ((32, 72), (48, 48))]
)
def test_as_many_patches_on_another_grid(make_rmae, old, new):
    """The table's shape fits, its rows would land at other places: 2x8 patches are not 4x4."""
    grids = [(h // 8, w // 8) for h, w in (old, new)]
    source = make_rmae(img_size=old)
    models = [make_rmae(img_size=new)]
    if new[0] == new[1]:
        models.append(vitdet(pretrain_img_size=new[0]))
    for model in models:
        assert model.state_dict()[POS].shape == source.state_dict()[POS].shape
        report = load_pretrained(model, source.state_dict())
        assert POS in report.resampled
        table = sincos_position_embedding(32, grids[0])
        expected = resampled(table[:, 1:], *grids)
        assert torch.allclose(model.state_dict()[POS][:, 1:], expected, atol=1e-6)


def test_half_precision_tables_are_recognised(make_rmae):
    source, model = make_rmae(img_size=(16, 64)), make_rmae()
    weights = {k: v.bfloat16() for k, v in source.state_dict().items()}
    assert POS in load_pretrained(model, weights).resampled
    assert model.state_dict()[POS].dtype == torch.float32


def test_to_a_model_without_a_cls_row(make_rmae):
    source = make_rmae()
    nn.init.normal_(source.backbone.net.pos_embed)
    table = source.backbone.net.pos_embed.data
    for side in (4, 6):
        detector = vitdet(pretrain_img_size=8 * side, cls_row=False)
        report = load_pretrained(detector, source.state_dict())
        assert report.resampled == [POS]
        expected = table[:, 1:] if side == 4 else resampled(table[:, 1:], (4, 4), (6, 6))
        assert torch.allclose(detector.state_dict()[POS], expected)


def test_from_a_file_without_a_cls_row():
    """timm's ViTs pooled by average: nothing for the cls row, which Detectron2 drops anyway."""
    theirs = VisionTransformer(**SIZE, num_classes=5, class_token=False, global_pool="avg")
    nn.init.normal_(theirs.pos_embed)
    detector = vitdet()
    report = load_pretrained(detector, theirs.state_dict())
    assert report.resampled == [POS]
    loaded = detector.state_dict()[POS]
    assert not loaded[:, 0].any()
    assert torch.equal(loaded[:, 1:], theirs.pos_embed.data)


def test_a_learned_table_on_its_own_wide_grid(make_rmae):
    source, target = make_rmae(img_size=(32, 64)), make_rmae(img_size=(32, 64))
    nn.init.normal_(source.backbone.net.pos_embed)
    assert POS in load_pretrained(target, source.state_dict()).copied
    assert unchanged(target, source.state_dict())


def test_a_learned_table_of_unknown_grid(make_rmae):
    source, detector = make_rmae(img_size=(32, 64)), vitdet()
    nn.init.normal_(source.backbone.net.pos_embed)
    before = snapshot(detector)
    with pytest.raises(CheckpointError, match="33 rows in the file: neither a square"):
        load_pretrained(detector, source.state_dict())
    assert unchanged(detector, before)


def test_report_is_short_for_long_lists():
    report = LoadReport("x.pth", "mae", unused=[f"part{i}.weight" for i in range(100)])
    assert len(str(report).splitlines()) == 3
    assert re.search(r"100 \(part0\.weight: 1, .*\.\.\.\)", str(report))
