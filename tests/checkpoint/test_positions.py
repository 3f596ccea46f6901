"""Position embeddings whose grid nobody recorded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rmae_d2.checkpoint import load_pretrained, load_weights
from rmae_d2.checkpoint.encoder import load_encoder
from rmae_d2.checkpoint.positions import grid_of_table, resample_table, sincos_grid, square_grid
from rmae_d2.errors import CheckpointError
from rmae_d2.modeling import sincos_position_embedding
from tests.checkpoint.helpers import POS, SIZE, resampled, same, snapshot, vitdet


@given(st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_a_sine_cosine_table_tells_its_grid(Gh, Gw, cls_token):
    table = sincos_position_embedding(32, (Gh, Gw), cls_token)
    for dtype in (torch.float32, torch.bfloat16):
        assert grid_of_table(table.to(dtype)) == ((Gh, Gw), int(cls_token))


def test_a_learned_table_is_taken_to_be_square():
    for rows, known in ((17, ((4, 4), 1)), (16, ((4, 4), 0)), (1, ((1, 1), 0)), (33, None)):
        table = torch.randn(1, rows, 32)
        assert sincos_grid(table) is None and square_grid(table) == known
    with pytest.raises(CheckpointError, match="33 rows in the file: neither a square"):
        grid_of_table(table)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("after", [0, 1])
def test_the_cls_row_of_a_resampled_table(before, after):
    table = torch.randn(1, before + 15, 8)
    for grid in ((3, 5), (4, 4)):
        out = resample_table(table, ((3, 5), before), (grid, after))
        assert torch.equal(out[:, after:], resampled(table[:, before:], (3, 5), grid))
        if after:
            assert torch.equal(out[:, 0], table[:, 0] if before else torch.zeros(1, 8))


# ---- in models


def test_square_to_square(make_rmae):
    source = make_rmae()
    nn.init.normal_(source.backbone.net.pos_embed)
    table = source.backbone.net.pos_embed.data
    for side in (6, 2):
        model = vitdet(pretrain_img_size=8 * side)
        report = load_pretrained(model, source.state_dict())
        assert list(report.resampled) == [POS]
        assert "copied: 26 tensors, 26 of them of the pixel encoder" in str(report)
        assert "resampled: backbone.net.pos_embed: " in str(report)
        loaded = model.state_dict()[POS]
        assert torch.equal(loaded[:, :1], table[:, :1])
        assert torch.allclose(loaded[:, 1:], resampled(table[:, 1:], (4, 4), (side, side)))


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (8, 64), (64, 8), (24, 40)])
def test_wide_images_to_square(make_rmae, size):
    """Nobody records the grid of a checkpoint; a sine-cosine table tells it."""
    grid = (size[0] // 8, size[1] // 8)
    source, detector = make_rmae(img_size=size), vitdet(pretrain_img_size=48)
    report = load_pretrained(detector, source.state_dict())
    assert list(report.resampled) == [POS]
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


def test_to_a_model_without_a_cls_row(make_rmae):
    source = make_rmae()
    nn.init.normal_(source.backbone.net.pos_embed)
    table = source.backbone.net.pos_embed.data
    for side in (4, 6):
        detector = vitdet(pretrain_img_size=8 * side, cls_row=False)
        report = load_pretrained(detector, source.state_dict())
        assert list(report.resampled) == [POS]
        expected = table[:, 1:] if side == 4 else resampled(table[:, 1:], (4, 4), (6, 6))
        assert torch.allclose(detector.state_dict()[POS], expected)


def test_from_a_file_without_a_cls_row():
    """timm's ViTs pooled by average: nothing for the cls row, which Detectron2 drops anyway."""
    theirs = VisionTransformer(**SIZE, num_classes=5, class_token=False, global_pool="avg")
    nn.init.normal_(theirs.pos_embed)
    detector = vitdet()
    report = load_pretrained(detector, theirs.state_dict())
    assert list(report.resampled) == [POS]
    loaded = detector.state_dict()[POS]
    assert not loaded[:, 0].any()
    assert torch.equal(loaded[:, 1:], theirs.pos_embed.data)


def test_a_learned_table_of_unknown_grid(make_rmae):
    source, detector = make_rmae(img_size=(32, 64)), vitdet()
    nn.init.normal_(source.backbone.net.pos_embed)
    before = snapshot(detector)
    with pytest.raises(CheckpointError, match="33 rows in the file: neither a square"):
        load_pretrained(detector, source.state_dict())
    assert same(detector.state_dict(), before)


def test_tables_with_sides_of_their_own(make_rmae):
    """As SAM's: (1, side, side, D), without a row for a cls token."""
    model = make_rmae(regions=None)
    table = torch.randn(1, 6, 6, 32)
    state = {**model.state_dict(), POS: table}
    assert torch.equal(load_weights(state)[1][POS], table.flatten(1, 2))
    of_vitdet = {k: v for k, v in state.items() if "cls_token" not in k and ".net.norm." not in k}
    detector = vitdet()
    load_pretrained(detector, of_vitdet)
    expected = resampled(table.flatten(1, 2), (6, 6), (4, 4))
    assert torch.equal(detector.backbone.net.pos_embed[:, 1:], expected)
    assert not detector.backbone.net.pos_embed[:, 0].any()
    size, net, _ = load_encoder(of_vitdet, num_heads=4)
    assert size.grid == (6, 6) and torch.equal(net.pos_embed, table.flatten(1, 2))


@pytest.mark.parametrize("shape", [(1, 4, 6, 32), (1, 1, 17, 32), (17, 32), (2, 17, 32), (32,)])
def test_tables_of_other_shapes_are_refused(make_rmae, shape):
    model = make_rmae(regions=None)
    state = {**model.state_dict(), POS: torch.randn(shape)}
    with pytest.raises(
        CheckpointError, match=rf"pos_embed is \({shape[0]},.*, not \(1, rows, width"
    ):
        load_pretrained(model, state)
    name = "pixel_decoder.pos_embed"
    state = {**model.state_dict(), name: torch.randn(shape)}
    with pytest.raises(CheckpointError, match=rf"{name}: \({shape[0]},.* in the file"):
        load_pretrained(model, state)
