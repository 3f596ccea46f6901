"""labelme's json files, old and new."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rmae_d2.annotations.coco import read_annotations
from rmae_d2.errors import AnnotationError
from tests.annotations.formats.helpers import held, photo, pixels

SQUARE = [[10, 20], [30, 20], [30, 60], [10, 60]]


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def write(folder, name, *shapes, size=(80, 100), **more):
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg"}
    content |= {"imageData": None, "imageHeight": size[0], "imageWidth": size[1]} | more
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_every_shape(tmp_path):
    photo(tmp_path / "a.jpg")
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:6] = True
    write(
        tmp_path,
        "a",
        shape("dog", SQUARE),
        shape("cat", [[30, 60], [10, 20]], "rectangle"),
        shape("ball", [[50, 40], [60, 40]], "circle"),
        shape("dog", [[8, 9], [14, 13]], "mask", mask=png(mask)),
        shape("dog", [[1, 1], [9, 1], [9, 9], [1, 9]], "rotation", direction=0.3),
        shape("dog", [[1, 1]], "point"),
        shape("dog", [[1, 1], [5, 5]], "linestrip"),
        shape("__ignore__", SQUARE),
    )
    *drawn, circle = sorted(held(str(tmp_path))["a.jpg"], key=lambda o: o[0] == "ball")
    assert drawn == [
        ("dog", [10, 20, 30, 60], 800),
        ("cat", [10, 20, 30, 60], None),
        ("dog", [10, 10, 14, 13], 12),
        ("dog", [1, 1, 9, 9], None),
    ]
    assert circle[1] == [40, 30, 60, 50] and abs(circle[2] - np.pi * 100) < 20
    (note,) = map(str, read_annotations(str(tmp_path)).notes)
    assert note.startswith(
        "shapes without an area or a class (points, lines), left out: 3, such as a."
    )


def test_shapes_of_a_group_are_one_object(tmp_path):
    photo(tmp_path / "a.jpg")
    other = [[50, 20], [60, 20], [60, 30], [50, 30]]
    mask = np.ones((10, 10), bool)
    write(
        tmp_path,
        "a",
        shape("dog", SQUARE, group_id=1),
        shape("dog", other, group_id=1),
        shape("cat", other, group_id=1),
        shape("cat", [[70, 50], [79, 59]], "mask", mask=png(mask), group_id=1),
    )
    assert held(str(tmp_path))["a.jpg"] == [
        ("dog", [10, 20, 60, 60], 900),
        ("cat", [50, 20, 80, 60], 200),
    ]
    union = pixels(str(tmp_path), "a.jpg")
    assert union[20:60, 10:30].all() and union[20:30, 50:60].all() and union.sum() == 900


def test_old_files_and_names_of_another_machine(tmp_path):
    """No shape_type, no sizes; the image is the one beside the json."""
    photo(tmp_path / "set/a.jpg", (80, 100), orientation=8)
    old = {"label": "dog", "points": SQUARE, "line_color": None}
    write(tmp_path / "set", "a", old, size=(None, None), imagePath="..\\photos\\A.JPG")
    assert held(str(tmp_path / "set")) == {"a.jpg": [("dog", [10, 20, 30, 60], 800)]}
    ((image, _),) = read_annotations(str(tmp_path / "set"))
    assert (image.height, image.width) == (80, 100)


def test_what_is_not_labelled_is_not_empty(tmp_path):
    for name in "abc":
        photo(tmp_path / f"train/{name}.jpg")
    photo(tmp_path / "val/d.jpg")
    write(tmp_path / "train", "a", shape("dog", SQUARE))
    write(tmp_path / "train", "b")
    write(tmp_path / "val", "d", shape("ant", SQUARE))
    (tmp_path / "train/notes.json").write_text("[]")
    found = read_annotations(f"{tmp_path}#train")
    assert [image.file_name for image, _ in found] == ["train/a.jpg", "train/b.jpg"]
    assert [(c.id, c.name) for c in found.categories] == [(0, "ant"), (1, "dog")]
    assert list(map(str, found.notes)) == [
        "json files that are not labelme's, left out: 1, such as train/notes.json",
        "images without a json file, not labelled, left out: 1, such as train/c.jpg",
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (shape("dog", SQUARE[:2]), "polygon of 2 points, it must have 3"),
        (shape("dog", [[1, 2, 3]] * 3), "points that are not pairs of numbers"),
        (shape("dog", SQUARE, "cuboid"), "is a '\"cuboid\"', which is not a known shape"),
        (shape("dog", [[1, 1], [5, 5]], "mask", mask="no"), "a mask that is not a PNG in base64"),
        (shape("dog", [[10, 20], [30, 20], [30, 9e9]]), "coordinate '9000000000.0'"),
    ],
)
def test_shapes_without_a_reading_are_refused_by_name(tmp_path, bad, message):
    photo(tmp_path / "a.jpg")
    write(tmp_path, "a", bad)
    with pytest.raises(AnnotationError, match=message) as error:
        held(str(tmp_path))
    assert "a.json:1" in str(error.value)


def test_a_mask_beyond_its_image_is_refused(tmp_path):
    photo(tmp_path / "a.jpg")
    mask = np.ones((10, 10), bool)
    write(tmp_path, "a", shape("dog", [[95, 5], [104, 14]], "mask", mask=png(mask)))
    with pytest.raises(
        AnnotationError, match="a mask of 10x10 pixels at 95, 5, in an image of 100x80"
    ):
        held(str(tmp_path))


@given(st.integers(0, 90), st.integers(0, 70), st.integers(1, 10), st.integers(1, 10))
def test_masks_stand_where_they_are_said_to(tmp_path_factory, x, y, width, height):
    folder = tmp_path_factory.mktemp("labelme")
    photo(folder / "a.jpg")
    mask = np.random.default_rng(x).random((height, width)) > 0.4
    mask[0, 0] = True
    corners = [[x, y], [x + width - 1, y + height - 1]]
    write(folder, "a", shape("dog", corners, "mask", mask=png(mask)))
    found = pixels(str(folder), "a.jpg")
    assert (found[y : y + height, x : x + width] == mask).all() and found.sum() == mask.sum()
