"""Pictures in rows and columns; regions in colours."""

import numpy as np

from rmae_d2.regions import RegionRecord
from rmae_d2.visualization import draw_regions
from rmae_d2.visualization.sheets import SheetRow, contact_sheet


def flat(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def test_pictures_stand_where_they_should():
    rows = [
        SheetRow("first", [flat(10, 20, 50), None]),
        SheetRow("", [flat(40, 20, 90), flat(20, 40, 120)]),
    ]
    sheet = contact_sheet(rows, ["left", "right"], side=40)
    assert sheet.shape[1] == 40 + 40 + 3 * 6
    for value, size in ((50, (20, 40)), (90, (40, 20)), (120, (20, 40))):
        places = np.argwhere((sheet == value).all(-1))
        low, high = places.min(0), places.max(0)
        # Letters have grays of their own: only a block counts.
        inside = sheet[high[0] - size[0] + 1 : high[0] + 1, high[1] - size[1] + 1 : high[1] + 1]
        assert (inside == value).all(), (value, low, high)


def test_titles_and_caption_fit():
    rows = [SheetRow("a title that is far longer than the sheet is wide", [flat(50, 50, 200)])]
    sheet = contact_sheet(rows, ["so is this one"], " ".join(["caption"] * 12), side=60)
    assert sheet.shape[1] == 72
    assert (sheet[:, -4:] == 255).all()
    without = contact_sheet([SheetRow("", rows[0].pictures)], ["t"], side=60)
    assert len(sheet) > len(without) + 100


def test_rows_may_differ_in_length_and_columns_need_no_titles():
    wide, tall = flat(40, 80, 0), flat(90, 30, 0)
    rows = [SheetRow("wide", [wide, wide]), SheetRow("tall", [tall])]
    sheet = contact_sheet(rows, side=60)
    assert sheet.shape[1] == 60 + 60 + 3 * 6
    assert sheet.shape[0] == contact_sheet(rows, ["a", "b"], side=60).shape[0] - 26


def test_planes_are_tinted_by_label_and_outlined():
    image = np.full((20, 30, 3), 100, np.uint8)
    labels = np.zeros((2, 20, 30), np.uint8)
    labels[0, :, 10:] = 1
    labels[1, 5:] = 2
    original, first, second = draw_regions(image, RegionRecord.from_labels(labels))
    np.testing.assert_array_equal(original, image)
    assert (first[:, 10] == 255).all()  # the outline
    assert (first[3, 3] != first[3, 20]).any()
    assert (second[5] == 255).all()
    assert (second[0, 0] != second[10, 0]).any()


def test_ignored_pixels_and_pixels_outside_masks_keep_their_colour():
    image = np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 5:25] = 1
    shown = draw_regions(image, RegionRecord.from_labels(labels, ignore_label=0))[1]
    np.testing.assert_array_equal(shown[:5], image[:5])
    masks = np.zeros((2, 20, 30), np.bool_)
    masks[0, 2:18, 2:28] = True
    masks[1, 8:12, 8:12] = True
    shown = draw_regions(image, RegionRecord.from_masks(masks))[1]
    np.testing.assert_array_equal(shown[0], image[0])
    assert (shown[9, 9] != image[9, 9]).any()
    assert (shown[8, 9] == 255).all()  # the small mask lies on top of the large one
