"""Pascal VOC's xml files, as VOC, LabelImg, Roboflow and CVAT write them."""

import math

import pytest

from rmae_d2.annotations.coco import read_annotations, read_images
from rmae_d2.errors import AnnotationError, UserError
from tests.annotations.formats.helpers import held, photo, text


def box(name, corners, more=""):
    keys = ("xmin", "ymin", "xmax", "ymax")
    inside = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, corners, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{inside}</bndbox></object>"


def xml(objects, filename="", size=(80, 100)):
    height, width = size
    return (
        f"<annotation><filename>{filename}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{objects}</annotation>"
    )


@pytest.fixture
def voc(tmp_path):
    """The official layout."""
    for name, objects in {
        "2008_1": box("dog", (1, 1, 100, 80)) + box("cat", (11, 21, 30, 60)),
        "2008_2": box("dog", (11, 21, 30, 60)),
        "2008_3": "",
    }.items():
        photo(tmp_path / f"JPEGImages/{name}.jpg")
        photo(tmp_path / f"SegmentationClass/{name}.png")
        text(tmp_path / f"Annotations/{name}.xml", xml(objects, f"{name}.jpg"))
    text(tmp_path / "ImageSets/Main/train.txt", "2008_1\n2008_3\n")
    text(tmp_path / "ImageSets/Main/val.txt", "2008_2\n")
    text(tmp_path / "ImageSets/Main/dog_train.txt", "2008_1  1\n2008_3 -1\n")
    return tmp_path


def test_pixels_count_from_one(voc):
    """As Detectron2 reads VOC: a box from 1 to W is the whole image."""
    assert held(str(voc)) == {
        "JPEGImages/2008_1.jpg": [
            ("dog", [0, 0, 100, 80], None),
            ("cat", [10, 20, 30, 60], None),
        ],
        "JPEGImages/2008_2.jpg": [("dog", [10, 20, 30, 60], None)],
        "JPEGImages/2008_3.jpg": [],
    }


def test_splits_number_their_classes_alike(voc):
    val = read_annotations(f"{voc}#val")
    assert [image.file_name for image, _ in val] == ["JPEGImages/2008_2.jpg"]
    assert [(c.id, c.name) for c in val.categories] == [(0, "cat"), (1, "dog")]
    assert len(read_annotations(f"{voc}#train")) == 2
    with pytest.raises(UserError, match="no split test: it has train, val"):
        held(f"{voc}#test")
    (voc / "ImageSets/Main/val.txt").write_text("2008_2\n2008_9\n")
    (note,) = map(str, read_annotations(f"voc:{voc}#validation").notes)
    assert note == "images of the split without an xml file, left out: 1, such as 2008_9"


def test_images_alone_are_the_photos_not_the_label_images(voc):
    assert [i.file_name for i in read_images(f"voc:{voc}")] == [
        f"{voc}/JPEGImages/2008_{k}.jpg" for k in (1, 2, 3)
    ]


@pytest.mark.parametrize("corners", [(0, 20, 30, 60), (10.5, 20.25, 30, 60)])
def test_a_zero_or_a_fraction_says_that_pixels_count_from_zero(tmp_path, corners):
    photo(tmp_path / "a.png")
    text(tmp_path / "a.xml", xml(box("dog", corners) + box("dog", (5, 6, 7, 9)), "a.png"))
    assert held(str(tmp_path)) == {
        "a.png": [("dog", list(corners), None), ("dog", [5, 6, 7, 9], None)]
    }


@pytest.mark.parametrize(
    ("label", "said", "image"),
    [
        ("train/a.xml", "a.jpg", "train/a.jpg"),
        ("train/a.xml", "C:\\photos\\renamed.jpg", "train/a.jpg"),
        ("train/a.xml", "", "train/a.jpg"),
        ("valid/b.xml", "b", "valid/b.png"),
        ("valid/x.xml", "b.png", "valid/b.png"),
        ("valid/B.xml", "B.PNG", "valid/b.png"),
    ],
)
def test_which_image_a_file_belongs_to(tmp_path, label, said, image):
    """Its own name goes before the one that it says; folders train and valid, as Roboflow's."""
    photo(tmp_path / image)
    photo(tmp_path / "train/other.jpg")
    text(tmp_path / label, xml(box("dog", (1, 1, 9, 9)), said))
    assert held(str(tmp_path)) == {image: [("dog", [0, 0, 9, 9], None)]}
    assert held(f"{tmp_path}#{label.split('/')[0]}") == held(str(tmp_path))


def test_sizes_that_are_not_said_are_the_images(tmp_path):
    photo(tmp_path / "a.png", (40, 60), orientation=6)
    text(tmp_path / "a.xml", xml(box("dog", (1, 1, 60, 40)), "a.png", (0, 0)))
    ((image, (instance,)),) = read_annotations(str(tmp_path))
    assert (image.height, image.width) == (40, 60) and instance.box == (0, 0, 60, 40)


def test_polygons_and_turned_boxes(tmp_path):
    numbers = {"x1": 10, "y1": 20, "x2": 30, "y2": 20, "x3": 30, "y3": 60, "x4": 10, "y4": 60}
    outline = "".join(f"<{k}>{v}</{k}>" for k, v in numbers.items())
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((0, 0), (9, 0), (9, 9), (0, 9)))
    turned = {"cx": 50, "cy": 40, "w": 20, "h": 10, "angle": math.pi / 2}
    turned = "".join(f"<{k}>{v}</{k}>" for k, v in turned.items())
    objects = (
        box("a", (10, 20, 30, 60), f"<polygon>{outline}</polygon>")
        + box("b", (0, 0, 9, 9), f"<polygon>{points}</polygon>")
        + f"<object><name>c</name><robndbox>{turned}</robndbox></object>"
    )
    photo(tmp_path / "a.png")
    text(tmp_path / "a.xml", xml(objects, "a.png"))
    assert held(str(tmp_path))["a.png"] == [
        ("a", [10, 20, 30, 60], 800),
        ("b", [0, 0, 9, 9], 81),
        ("c", [45, 30, 55, 50], None),
    ]
    (note,) = map(str, read_annotations(str(tmp_path)).notes)
    assert note == "turned boxes, of which the upright box around is taken: 1, such as a.xml:3"


def test_odd_objects_are_counted_and_named(tmp_path):
    photo(tmp_path / "a.png")
    many = "".join(box("dog", (k, 5, k + 9, 20)) for k in range(1, 20))
    odd = box("", (1, 2, 3, 4)) + box("dog", (30, 30, 40, 40), "<difficult>1</difficult>")
    broken = "<object><name>dog</name><bndbox><xmin>x</xmin></bndbox></object>"
    text(tmp_path / "a.xml", xml(many + odd + broken, "a.png"))
    found = read_annotations(str(tmp_path))
    assert len(held(str(tmp_path))["a.png"]) == 20
    assert sorted(note.partition(" (")[0] for note in map(str, found.notes)) == [
        "annotations that cannot be read, left out",
        "objects marked as difficult, taken like others: 1, such as a.xml:21",
        "objects without a name, left out: 1, such as a.xml:20",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", r"b\.xml is not complete XML"),
        ("<annotations><image/></annotations>", "CVAT's own xml: export as COCO"),
        (
            '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><annotation>&z;</annotation>',
            "declares entities, which no annotation needs",
        ),
    ],
)
def test_files_that_are_no_annotations_are_refused(tmp_path, content, message):
    photo(tmp_path / "a.png")
    text(tmp_path / "a.xml", xml(box("dog", (1, 1, 9, 9)), "a.png"))
    text(tmp_path / "b.xml", content)
    with pytest.raises(AnnotationError, match=message):
        held(str(tmp_path))
