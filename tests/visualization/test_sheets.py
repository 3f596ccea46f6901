"""Pictures in rows and columns."""

import numpy as np

from rmae_d2.visualization.sheets import SheetRow, grid_sheet


def flat(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def test_pictures_stand_where_they_should():
    rows = [
        SheetRow("first", [flat(10, 20, 50), None]),
        SheetRow("", [flat(40, 20, 90), flat(20, 40, 120)]),
    ]
    sheet = grid_sheet(rows, ["left", "right"], side=40)
    assert sheet.shape[1] == 40 + 40 + 3 * 6
    for value, size in ((50, (20, 40)), (90, (40, 20)), (120, (20, 40))):
        places = np.argwhere((sheet == value).all(-1))
        low, high = places.min(0), places.max(0)
        # Letters have grays of their own: only a block counts.
        inside = sheet[high[0] - size[0] + 1 : high[0] + 1, high[1] - size[1] + 1 : high[1] + 1]
        assert (inside == value).all(), (value, low, high)


def test_titles_and_caption_fit():
    rows = [SheetRow("a title that is far longer than the sheet is wide", [flat(50, 50, 200)])]
    sheet = grid_sheet(rows, ["so is this one"], " ".join(["caption"] * 12), side=60)
    assert sheet.shape[1] == 72
    assert (sheet[:, -4:] == 255).all()
    without = grid_sheet([SheetRow("", rows[0].pictures)], ["t"], side=60)
    assert len(sheet) > len(without) + 100
