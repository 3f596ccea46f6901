"""YOLO folders as Ultralytics, Roboflow, Label Studio and Darknet have them."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.annotations.coco import read_annotations, read_images
from rmae_d2.errors import AnnotationError, UserError
from tests.annotations.formats.helpers import held, photo, text

BOX = "1 0.5 0.5 0.2 0.4\n"  # of an image of 80 x 100 pixels: x 40 to 60, y 24 to 56
POLYGON = "0 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n"
EXPECTED = ("dog", [40, 24, 60, 56], None)


@pytest.fixture
def folder(tmp_path):
    photo(tmp_path / "images/train/a.jpg")
    photo(tmp_path / "images/train/b.png", (40, 60), orientation=6)
    photo(tmp_path / "images/val/c.jpg")
    text(tmp_path / "labels/train/a.txt", BOX + POLYGON)
    text(tmp_path / "labels/val/c.txt", BOX)
    return tmp_path


def describe(folder, **content):
    whole = {"train": "images/train", "val": "images/val", "names": ["cat", "dog"]} | content
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in whole.items() if v is not None}))
    return str(folder)


def test_boxes_and_polygons(folder, caplog):
    root = describe(folder, nc=2)
    found = held(root)
    assert found["images/train/a.jpg"] == [EXPECTED, ("cat", [10, 8, 50, 48], 1600)]
    assert found["images/val/c.jpg"] == [EXPECTED]
    assert found["images/train/b.png"] == []
    annotations = read_annotations(root)
    assert [(c.id, c.name) for c in annotations.categories] == [(0, "cat"), (1, "dog")]
    assert annotations.folder == root
    sizes = {image.file_name: (image.height, image.width) for image, _ in annotations}
    assert sizes["images/train/b.png"] == (40, 60), "as it is shown"
    note = "images without a label file, taken as without objects: 1, such as images/train/b.png"
    assert list(map(str, annotations.notes)) == [note] and note in caplog.text


@pytest.mark.parametrize("split", ["val", "valid", "validation"])
def test_a_split_by_any_name(folder, split):
    assert held(f"{describe(folder)}#{split}") == {"images/val/c.jpg": [EXPECTED]}
    with pytest.raises(UserError, match="has no split dev2: it has train, val"):
        held(f"{describe(folder)}#dev2")


@pytest.mark.parametrize(
    "content",
    {
        "dict of names": {"names": {0: "cat", 1: "dog"}},
        "numbers as text": {"names": {"0": "cat", "1": "dog"}},
        "lists of places": {"train": ["images/train"], "val": ["images/val"]},
        "Roboflow's": {"train": "../images/train", "val": "../images/val"},
        "another machine's": {"path": "/content/set", "train": "/content/set/images/train"},
        "backslashes": {"train": "images\\train", "val": ".\\images\\val"},
        "a test set that is not there": {"test": "images/test"},
    }.values(),
)
def test_layouts_of_data_yaml(folder, content):
    found = held(describe(folder, **content))
    assert found["images/train/a.jpg"][0] == found["images/val/c.jpg"][0] == EXPECTED


def test_a_path_and_the_yaml_itself(folder, tmp_path):
    (folder / "config").mkdir()
    describe(folder / "config", path="..")
    assert held(str(folder / "config/data.yaml"))[str(folder / "images/val/c.jpg")] == [EXPECTED]


def test_lists_of_images(folder):
    text(folder / "train.txt", f"./images/train/a.jpg\n\n{folder}/images/val/c.jpg\n")
    found = held(describe(folder, train="train.txt", val=None))
    assert set(found) == {"images/train/a.jpg", "images/val/c.jpg"}
    assert found["images/val/c.jpg"] == [EXPECTED]


def test_darknets_layout(tmp_path):
    """As CVAT exports it: labels beside the images, paths of another place."""
    photo(tmp_path / "obj_train_data/a.jpg")
    text(tmp_path / "obj_train_data/a.txt", BOX)
    text(tmp_path / "obj.names", "cat\ndog\n")
    text(tmp_path / "train.txt", "data/obj_train_data/a.jpg\n")
    lines = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    text(tmp_path / "obj.data", lines)
    assert held(str(tmp_path)) == {"obj_train_data/a.jpg": [EXPECTED]}


def test_label_studios_layout(folder):
    text(folder / "classes.txt", "cat\ndog\n")
    assert held(str(folder))["images/val/c.jpg"] == [EXPECTED]


def test_keypoints_are_ignored(folder):
    text(folder / "labels/val/c.txt", BOX.strip() + " 0.4 0.5 2 0.6 0.5 1\n")
    assert held(f"{describe(folder, kpt_shape=[2, 3])}#val")["images/val/c.jpg"] == [EXPECTED]


def test_lines_twice_are_taken_once(folder):
    text(folder / "labels/val/c.txt", BOX + BOX)
    address = f"{describe(folder)}#val"
    assert held(address)["images/val/c.jpg"] == [EXPECTED]
    assert [*map(str, read_annotations(address).notes)] == [
        "lines that stand in a label file twice, taken once: 1, such as labels/val/c.txt:2"
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 40 24 20 32", "goes beyond 0 to 1: .* shares of the image's sides, not pixels"),
        ("1 0.5 0.5 0.2 0.4 0.9", "six numbers: a prediction with its score"),
        ("1 0.5 0.5 0.2", "neither a class and four numbers nor"),
        ("dog 0.5 0.5 0.2 0.4", "has '\"dog\"' is not a whole number"),
        ("1 0.5 nan 0.2 0.4", "is not a finite number"),
        ("7 0.5 0.5 0.2 0.4", r"does not list: '7' of annotation '\"labels/val/c.txt:1\"'"),
    ],
)
def test_lines_that_have_no_reading_are_refused_by_name(folder, line, message):
    text(folder / "labels/val/c.txt", line)
    with pytest.raises(AnnotationError, match=message) as error:
        held(f"{describe(folder)}#val")
    assert "labels/val/c.txt:1" in str(error.value)


def test_one_line_in_ten_may_be_lost(folder):
    lines = [f"1 0.5 0.5 0.2 0.{k:02d}" for k in range(20, 40)]
    text(folder / "labels/val/c.txt", "\n".join([*lines, "1 300 24 20 32"]))
    address = f"{describe(folder)}#val"
    assert len(held(address)["images/val/c.jpg"]) == 20
    assert "annotations that cannot be read, left out" in read_annotations(address).notes[0].reason


def test_what_contradicts_itself_is_refused(folder):
    with pytest.raises(AnnotationError, match="nc is '3', and names has 2"):
        held(describe(folder, nc=3))
    with pytest.raises(AnnotationError, match="names is '\"cat\"'|number: name"):
        held(describe(folder, names={"cat": 0}))
    with pytest.raises(UserError, match="train is '\"nowhere\"', and there is no .*nowhere"):
        held(f"{describe(folder, train='nowhere')}#train")
    with pytest.raises(AnnotationError, match="kpt_shape is '17', not two numbers"):
        held(describe(folder, kpt_shape=17))
    (folder / "labels").rename(folder / "etikett")
    with pytest.raises(
        AnnotationError, match=r"none of its 3 images has a label file, such as .*labels/"
    ):
        held(describe(folder))


def test_images_alone_need_no_labels(folder):
    (folder / "labels").rename(folder / "etikett")
    images = read_images(f"yolo:{describe(folder)}#train")
    assert [i.file_name for i in images] == [
        f"{folder}/images/train/a.jpg",
        f"{folder}/images/train/b.png",
    ]


@given(
    st.tuples(st.integers(8, 200), st.integers(8, 200)),
    st.tuples(*[st.floats(0.01, 0.99)] * 4),
    st.booleans(),
)
def test_shares_are_of_the_upright_images_sides(tmp_path_factory, size, numbers, polygon):
    """A box comes back as pixels, in images of any size; as a polygon too, whose mask it then is."""
    folder = tmp_path_factory.mktemp("yolo")
    photo(folder / "images/a.png", size, orientation=6)
    left, right = sorted(numbers[:2])
    top, bottom = sorted(numbers[2:])
    if right - left < 0.01 or bottom - top < 0.01:
        return
    words = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    if polygon:
        words = [left, top, right, top, right, bottom, left, bottom]
    text(folder / "labels/a.txt", " ".join(map(str, (0, *words))))
    text(folder / "classes.txt", "thing\n")
    ((name, box, area),) = held(str(folder))["images/a.png"]
    height, width = size
    expected = [left * width, top * height, right * width, bottom * height]
    assert name == "thing" and box == pytest.approx(expected, abs=2e-3)
    if polygon:
        w, h = expected[2] - expected[0], expected[3] - expected[1]
        assert abs(area - w * h) <= 2 * (w + h) + 4
    else:
        assert area is None
