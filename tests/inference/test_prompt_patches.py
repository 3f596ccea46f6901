"""Points, boxes, lines and patches on an image, as patches of a grid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.errors import UserError
from rmae_d2.inference.region_prompt import label_patches

GRID, SIZE = (4, 6), (40, 120)  # patches of 10 rows and 20 columns of pixels


def drawn(**arguments):
    rows = label_patches(GRID, SIZE, **arguments)
    return ["".join({-1: ".", 0: "-", 1: "+"}[int(v)] for v in row) for row in rows]


def test_points():
    points = [(0, 0), (19, 9), (119, 39), (20, 9)]
    assert drawn(points=points, labels=[1, 1, 0, 1]) == ["++....", "......", "......", ".....-"]
    assert drawn(points=points[:1]) == ["+.....", "......", "......", "......"]


def test_the_later_word_counts():
    assert drawn(points=[(0, 0), (5, 5)], labels=[1, 0])[0] == "-....."
    assert drawn(patches=[(0, 0), (0, 1)], negative_patches=[(0, 1), (0, 2)])[0] == "+--..."
    assert drawn(negative_patches=[(0, 0)], points=[(0, 0)])[0] == "+....."


def test_a_box_is_a_ring_and_its_middle():
    expected = ["------", "-....-", "-..+.-", "------"]
    assert drawn(box=(20, 10, 100, 30)) == expected
    assert drawn(box=(21, 10.5, 99, 29.9)) == expected
    # What is outside the image has no patches.
    assert drawn(box=(-50, -5, 25, 100)) == ["..-...", "..-...", "+.-...", "..-..."]


def test_a_line_marks_the_patches_on_its_way():
    assert drawn(scribble=[(5, 5), (5, 35), (115, 35)]) == ["+.....", "+.....", "+.....", "++++++"]
    assert drawn(scribble=[(0, 0), (119, 39)]) == ["++....", ".++...", "...++.", "....++"]
    assert drawn(scribble=[(50, 15)])[1] == "..+..."


def test_a_pixel_of_a_small_image_counts_by_its_middle():
    assert label_patches((3, 3), (1, 1), points=[(0, 0)]).tolist() == [
        [-1, -1, -1],
        [-1, 1, -1],
        [-1, -1, -1],
    ]


@given(
    st.tuples(*[st.integers(1, 20)] * 2),
    st.tuples(*[st.integers(1, 700)] * 2),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
)
def test_any_pixel_of_any_image_has_a_patch(grid, size, places):
    points = [(int(x * (size[1] - 1)), int(y * (size[0] - 1))) for x, y in places]
    marked = label_patches(grid, size, points=points)
    line = label_patches(grid, size, scribble=points)
    assert 1 <= (marked == 1).sum() <= len(points) and (marked != 0).all()
    assert (line[marked == 1] == 1).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"points": [(120, 0)]}, "(120, 0) is outside the image of 120 x 40"),
        ({"points": [(-1, 3)]}, "outside the image"),
        ({"points": [(float("nan"), 3)]}, "finite"),
        ({"points": [1, 2]}, "points of shape (2,)"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "1 points with labels of shape (2,)"),
        ({"points": [(1, 2)], "labels": [2]}, "labels are 1"),
        ({"labels": [1]}, "without points"),
        ({"scribble": [(0, 0), (0, 40)]}, "outside the image"),
        ({"patches": [(4, 0)]}, "patches has (row, column) = (4, 0)"),
        ({"negative_patches": [(0, -1)]}, "outside the grid of 4 x 6"),
        ({"box": (10, 10, 10, 20)}, "holds nothing"),
        ({"box": (200, 0, 300, 20)}, "holds nothing"),
        ({"box": (0, 0, 1)}, "(x0, y0, x1, y1)"),
    ],
)
def test_what_cannot_be_is_told(arguments, said):
    with pytest.raises(UserError) as error:
        label_patches(GRID, SIZE, **arguments)
    assert said in str(error.value)
