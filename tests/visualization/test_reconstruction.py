"""The pictures are what samples and outputs say, pixel by pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rmae_d2.visualization import draw_reconstructions
from rmae_d2.visualization.reconstruction import (
    Panel,
    _region_title,
    draw_contact_sheet,
    draw_panel,
    region_iou,
)
from rmae_d2.visualization.sheets import _GAP

_HEADER = 26


def make_sample(size=(128, 192), K=5, channels=3):
    return {
        "image": torch.randint(0, 256, (channels, *size), dtype=torch.uint8),
        "regions": torch.randint(0, 32, (1, *size), dtype=torch.uint8),
        "num_regions": K,
    }


def make_output(size=(128, 192), K=5, channels=3, patch=16):
    L = size[0] * size[1] // patch**2
    return {
        "mask": torch.rand(L) < 0.75,
        "region_mask": torch.rand(L) < 0.5,
        "reconstruction": torch.rand(channels, *size) * 255,
        "region_probability": torch.rand(K, *size),
    }


def tiles_of(picture, size=(128, 192), rows=2):
    """Splits a picture into rows of tiles."""
    height, width = size[0] + _GAP, size[1] + _GAP
    body = picture[_HEADER:, _GAP:]
    assert body.shape[0] == rows * height and body.shape[1] % width == 0
    return [
        [
            body[r * height + 1 :, c * width :][: size[0], : size[1]]  # below its frame's line
            for c in range(body.shape[1] // width)
        ]
        for r in range(rows)
    ]


def test_tiles_show_inputs_masks_and_predictions():
    samples, outputs = [make_sample() for _ in range(2)], [make_output() for _ in range(2)]
    picture = draw_reconstructions(samples, outputs, max_regions=2)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    for tiles, sample, output in zip(tiles_of(picture), samples, outputs, strict=True):
        assert len(tiles) == 3 + 2 * 3
        image = sample["image"].permute(1, 2, 0).numpy()
        assert np.array_equal(tiles[0], image)
        for i in range(8):
            for j in range(12):
                block = np.s_[i * 16 : i * 16 + 16, j * 16 : j * 16 + 16]
                hidden = output["mask"][i * 12 + j]
                assert np.array_equal(
                    tiles[1][block], np.full((16, 16, 3), 128) if hidden else image[block]
                )
                region = tiles[3][block]
                hidden = output["region_mask"][i * 12 + j]
                assert np.array_equal(
                    tiles[4][block], np.full((16, 16, 3), 128) if hidden else region
                )
        assert np.array_equal(tiles[2], output["reconstruction"].round().permute(1, 2, 0).numpy())
        truths = [(sample["regions"][0].numpy() >> k) & 1 for k in range(5)]
        largest = sorted(range(5), key=lambda k: -int(truths[k].sum()))
        for place, k in enumerate(largest[:2]):
            assert np.array_equal(tiles[3 + 3 * place][:, :, 1], truths[k] * 255)
            expected = (output["region_probability"][k] * 255).numpy().astype(np.uint8)
            assert np.array_equal(tiles[5 + 3 * place][:, :, 0], expected)


@pytest.mark.parametrize("absent", ["reconstruction", "region_probability"])
def test_mae_and_rae(absent):
    samples, outputs = [make_sample()], [make_output()]
    for key in {"reconstruction": ["reconstruction"]}.get(
        absent, ["region_probability", "region_mask"]
    ):
        del outputs[0][key]
    picture = draw_reconstructions(samples, outputs, max_regions=1)
    assert len(tiles_of(picture, rows=1)[0]) == (5 if absent == "reconstruction" else 3)


def test_one_channel_is_gray_and_small_images_are_enlarged():
    size = (32, 32)
    picture = draw_reconstructions(
        [make_sample(size, channels=1)], [make_output(size, channels=1, patch=8)], max_regions=9
    )
    rows = tiles_of(picture, size=(128, 128), rows=1)
    assert len(rows[0]) == 3 + 5 * 3  # five regions are all there are
    tile = rows[0][0]
    assert (tile[:, :, 0] == tile[:, :, 1]).all() and (tile[:4, :4] == tile[0, 0]).all()


def test_mask_probabilities_are_shown_where_there_are_some():
    """The highest is white, 0 is black, a patch has one colour."""
    output = make_output()
    probability = torch.zeros(96)
    probability[5], probability[40] = 0.75, 0.25
    output["mask_probability"] = probability
    picture = draw_reconstructions([make_sample()], [output], max_regions=1)
    (tiles,) = tiles_of(picture, rows=1)
    assert len(tiles) == 4 + 3
    heat = tiles[1].reshape(8, 16, 12, 16, 3).transpose(0, 2, 1, 3, 4).reshape(96, 256, 3)
    assert (heat == heat[:, :1]).all()
    brightness = heat[:, 0].astype(int).sum(axis=1)
    assert brightness[5] == 3 * 255 and 0 < brightness[40] < brightness[5]
    rest = [i for i in range(96) if i not in (5, 40)]
    assert brightness[rest].max() < 20


SIDE = 64
GAP = 6


def make_panel(regions=2, pixels=True, with_regions=True, ratio=0.75, normalised=True):
    random = np.random.default_rng(0)
    output = {"mask": torch.arange(16) >= 4}
    if pixels:
        output["reconstruction"] = torch.from_numpy(random.random((3, SIDE, SIDE)) * 255)
    if with_regions:
        output["region_mask"] = torch.arange(16) >= 8
        output["region_probability"] = torch.from_numpy(random.random((4, SIDE, SIDE)))
    image = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    masks = random.random((regions, SIDE, SIDE)) < 0.5
    overview = np.full((SIDE, SIDE, 3), 77, np.uint8) if with_regions else None
    nearest = random.random((regions, SIDE, SIDE)) < 0.5
    return Panel("photo.jpg", ratio, image, output, masks, nearest, overview, normalised)


def find(sheet, picture):
    """(top, left) of a picture on a sheet."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (SIDE, SIDE, 3))[:, :, 0]
    for left in range(GAP, sheet.shape[1] - SIDE + 1, SIDE + GAP):
        for top in range(len(windows)):
            if np.array_equal(windows[top, left], picture):
                return top, left // (SIDE + GAP)
    return None


def gray(values):
    return np.repeat(np.asarray(values).round().astype(np.uint8)[:, :, None], 3, axis=2)


def expected_tiles(panel, k):
    hidden = np.arange(SIDE)[:, None] >= 16
    region_hidden = np.repeat(np.arange(SIDE)[:, None] >= 32, SIDE, axis=1)
    region = panel.regions[k] * 255
    return [
        np.where(hidden[:, :, None], 128, panel.image).astype(np.uint8),
        panel.output["reconstruction"].numpy().transpose(1, 2, 0).round().astype(np.uint8),
        panel.image,
        gray(np.where(region_hidden, 128, region)),
        gray(panel.output["region_probability"][k].numpy() * 255),
        gray(region),
        panel.all_regions,
    ]


def test_a_contact_sheet_has_the_papers_columns():
    panel = make_panel()
    sheet = draw_contact_sheet([panel, make_panel(ratio=0.5)], SIDE)
    assert sheet.shape[1] == 7 * (SIDE + GAP) + GAP
    tops = set()
    for column, tile in enumerate(expected_tiles(panel, 0)):
        top, found = find(sheet, tile)
        assert found == column
        tops.add(top)
    assert len(tops) == 1


def test_a_photos_panel_has_a_row_a_region():
    panel = make_panel()
    sheet = draw_panel([panel], SIDE)
    assert sheet.shape[1] == 4 * (SIDE + GAP) + GAP
    tiles = [expected_tiles(panel, k) for k in (0, 1)]
    places = [find(sheet, t) for t in (*tiles[0], *tiles[1][3:6])]
    assert [column for _, column in places] == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2]
    tops = [top for top, _ in places]
    assert tops[0] == tops[1] == tops[2] == tops[6] < tops[3] == tops[5] < tops[7] == tops[9]
    dim = np.where(panel.regions[1][:, :, None], panel.image, panel.image // 4)
    assert find(sheet, dim) == (tops[7], 3)


@pytest.mark.parametrize(("absent", "columns"), [("pixels", 6), ("with_regions", 3)])
def test_mae_and_rae_leave_their_columns_out(absent, columns):
    panel = make_panel(**{absent: False})
    sheet = draw_contact_sheet([panel], SIDE)
    assert sheet.shape[1] == columns * (SIDE + GAP) + GAP
    alone = draw_panel([panel], SIDE)
    assert alone.shape[1] == (3 if absent == "with_regions" else 4) * (SIDE + GAP) + GAP
    assert find(alone, panel.image)[1] == 2 if absent == "pixels" else 1


def test_photos_without_regions_and_what_pixels_are():
    panel = make_panel(regions=0)
    assert find(draw_contact_sheet([panel], SIDE), panel.all_regions)[1] == 6
    # The caption is the only difference.
    normalised, plain = (draw_panel([make_panel(0, normalised=n)], SIDE) for n in (True, False))
    assert len(normalised) > len(plain)


def test_models_of_several_kinds_share_columns():
    """R-MAE, MAE and RAE below each other: what one has not stays empty."""
    rmae, mae, rae = make_panel(), make_panel(with_regions=False), make_panel(pixels=False)
    panels = [rmae, replace(mae, normalised=False), rae]
    sheet = draw_contact_sheet(panels, SIDE)
    assert sheet.shape[1] == 7 * (SIDE + GAP) + GAP
    places = [find(sheet, panel.image) for panel in panels]
    assert [column for _, column in places] == [2, 2, 2]
    tops = [top for top, _ in places]
    assert tops == sorted(tops) and len(set(tops)) == 3
    tile = SIDE + GAP
    assert (sheet[tops[1] : tops[1] + SIDE, 3 * tile + GAP :] == 255).all()  # of MAE no regions
    assert (sheet[tops[2] : tops[2] + SIDE, tile + GAP : 2 * tile] == 255).all()  # of RAE no pixels
    assert find(sheet, gray(rae.output["region_probability"][0].numpy() * 255)) == (tops[2], 4)
    # What is said of pixels is true of each.
    assert not np.array_equal(sheet, draw_contact_sheet([rmae, mae, rae], SIDE))
    alone = draw_panel(panels, SIDE)
    assert alone.shape[1] == 4 * (SIDE + GAP) + GAP


def test_an_iou_comes_with_that_of_the_nearest_patch():
    panel = make_panel()
    hidden = np.repeat(np.arange(SIDE)[:, None] >= 32, SIDE, axis=1)
    iou, nearest = (
        (panel.regions[1] & other & hidden).sum() / ((panel.regions[1] | other) & hidden).sum()
        for other in (panel.output["region_probability"][1].numpy() >= 0.5, panel.nearest[1])
    )
    said = f"region 2, IoU {iou:.2f} on hidden patches (nearest visible patch {nearest:.2f})"
    assert _region_title(panel, 1) == said


def test_iou_of_hidden_pixels():
    truth = np.array([[True, True, False, False]])
    predicted = np.array([[0.9, 0.2, 0.7, 0.1]])
    everywhere, half = np.ones((1, 4), bool), np.array([[True, False, False, True]])
    assert region_iou(truth, predicted, everywhere) == pytest.approx(1 / 3)
    assert region_iou(truth, predicted, half) == 1
    assert region_iou(~truth & False, predicted * 0, everywhere) == 1
