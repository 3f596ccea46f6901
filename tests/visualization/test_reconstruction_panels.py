"""Figure 5: the pictures are what was given, predicted and there."""

import numpy as np
import pytest
import torch

from rmae_d2.visualization.reconstruction import (
    Panel,
    draw_contact_sheet,
    draw_panel,
    region_iou,
)

SIDE = 64
GAP = 6


def make_panel(regions=2, pixels=True, with_regions=True, ratio=0.75):
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
    return Panel("photo.jpg", ratio, image, output, masks, overview)


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
    sheet = draw_contact_sheet([panel, make_panel(ratio=0.5)], True, SIDE)
    assert sheet.shape[1] == 7 * (SIDE + GAP) + GAP
    tops = set()
    for column, tile in enumerate(expected_tiles(panel, 0)):
        top, found = find(sheet, tile)
        assert found == column
        tops.add(top)
    assert len(tops) == 1


def test_a_photos_panel_has_a_row_a_region():
    panel = make_panel()
    sheet = draw_panel([panel], True, SIDE)
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
    sheet = draw_contact_sheet([panel], True, SIDE)
    assert sheet.shape[1] == columns * (SIDE + GAP) + GAP
    alone = draw_panel([panel], True, SIDE)
    assert alone.shape[1] == (3 if absent == "with_regions" else 4) * (SIDE + GAP) + GAP
    assert find(alone, panel.image)[1] == 2 if absent == "pixels" else 1


def test_photos_without_regions_and_what_pixels_are():
    panel = make_panel(regions=0)
    assert find(draw_contact_sheet([panel], True, SIDE), panel.all_regions)[1] == 6
    # The caption is the only difference.
    normalised, plain = (draw_panel([panel], norm, SIDE) for norm in (True, False))
    assert len(normalised) > len(plain)


def test_iou_of_hidden_pixels():
    truth = np.array([[True, True, False, False]])
    predicted = np.array([[0.9, 0.2, 0.7, 0.1]])
    everywhere, half = np.ones((1, 4), bool), np.array([[True, False, False, True]])
    assert region_iou(truth, predicted, everywhere) == pytest.approx(1 / 3)
    assert region_iou(truth, predicted, half) == 1
    assert region_iou(~truth & False, predicted * 0, everywhere) == 1
