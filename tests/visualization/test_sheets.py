import numpy as np

from rmae_d2.visualization.sheets import SheetRow, _wrapped, contact_sheet


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


def test_titles_are_wrapped_and_not_cut():
    """A line more for each that a title takes, the same for a short one beside it."""
    pictures = [flat(60, 60, 200)] * 2
    heights = [
        len(contact_sheet([SheetRow("", pictures)], ["t", title], side=60))
        for title in ("mean", "mean of twelve", "mean of twelve heads in block eleven")
    ]
    assert heights[1] - heights[0] == 20 and heights[2] - heights[0] >= 60
    names = ("mean of twelve heads", "mean of twelve")
    one, other = (contact_sheet([SheetRow(name, pictures[:1])], side=60) for name in names)
    assert len(one) == len(other) + 20
    assert _wrapped("a mean of " + "x" * 50, 60)[-1].endswith("…")  # a single word has no other way


def test_a_white_picture_has_a_frame():
    sheet = contact_sheet([SheetRow("", [flat(20, 20, 255), None])], side=20)
    gray = np.argwhere((sheet == 190).all(-1))
    assert gray.min(0).tolist() == [0, 5] and gray.max(0).tolist() == [21, 26]
    assert len(gray) == 4 * 21 and (sheet[1:21, 6:26] == 255).all()


def test_rows_may_differ_in_length_and_columns_need_no_titles():
    wide, tall = flat(40, 80, 0), flat(90, 30, 0)
    rows = [SheetRow("wide", [wide, wide]), SheetRow("tall", [tall])]
    sheet = contact_sheet(rows, side=60)
    assert sheet.shape[1] == 60 + 60 + 3 * 6
    assert sheet.shape[0] == contact_sheet(rows, ["a", "b"], side=60).shape[0] - 26
