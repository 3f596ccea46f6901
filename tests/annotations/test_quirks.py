"""What tools and people do to COCO's format, beside what `test_one_reader` changes; each with its value."""

import copy
import json
import math

import pytest

from rmae_d2.annotations.coco import read_annotations, read_images
from rmae_d2.errors import AnnotationError
from tests.annotations.formats.helpers import held
from tests.helpers import coco_rectangle

BOX = [10, 20, 30, 40]


def content(count=2):
    """Photos with ids from 0, no info, one object each."""
    return {
        "images": [
            {"id": k, "file_name": f"{k}.jpg", "height": 80, "width": 100} for k in range(count)
        ],
        "annotations": [coco_rectangle(k, k, 0, BOX) for k in range(count)],
        "categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}],
    }


@pytest.fixture
def write(tmp_path):
    def write(changed):
        path = tmp_path / "own.json"
        path.write_text(json.dumps(changed))
        return str(path)

    return write


DOG = ("dog", [10, 20, 40, 60], 1200)


def test_ids_from_zero_and_no_info(write):
    path = write(content())
    assert held(path) == {"0.jpg": [DOG], "1.jpg": [DOG]}
    assert read_annotations(path).notes == ()


def test_a_file_under_two_ids_is_one_image(write):
    """As after two exports were joined: objects of both, those that are the same once."""
    whole = content()
    whole["images"].append({"id": 7, "file_name": ".\\0.jpg", "height": 80, "width": 100})
    whole["annotations"] += [
        coco_rectangle(70, 7, 0, BOX),
        coco_rectangle(71, 7, 1, [50, 5, 10, 10]),
    ]
    path = write(whole)
    assert held(path) == {"0.jpg": [DOG, ("cat", [50, 5, 60, 15], 100)], "1.jpg": [DOG]}
    assert list(map(str, read_annotations(path).notes)) == [
        "images whose file is there under another id, taken as that one: 1, such as 7",
        "annotations that are there for both ids of their image, taken once: 1, such as 70",
    ]
    assert [image.id for image in read_images(path)] == [0, 1]


def test_a_name_with_two_sizes_is_two_images(write):
    """Two folders may hold a photo of that name."""
    whole = content()
    whole["images"].append({"id": 7, "file_name": "0.jpg", "height": 90, "width": 100})
    assert len(read_annotations(write(whole))) == 3


def test_categories_unused_and_named_twice(write):
    """They keep their numbers: another split may use them."""
    whole = content()
    whole["categories"].append({"id": 5, "name": "dog"})
    found = read_annotations(write(whole))
    assert found.class_ids() == {0: 0, 1: 1, 2: 5}
    assert list(map(str, found.notes)) == [
        "categories with the name of another one, each a class of its own: 2, such as dog (id 0), dog (id 5)"
    ]


def test_keypoints_are_ignored(write):
    whole = content(1)
    whole["annotations"][0] |= {"keypoints": [1, 2, 2] * 17, "num_keypoints": 17}
    whole["categories"][0] |= {"keypoints": ["nose"], "skeleton": [[1, 1]]}
    assert held(write(whole)) == {"0.jpg": [DOG]}


def test_empty_polygons_and_those_of_four_numbers(write):
    """Two points are neither a mask nor a box; an object's other polygons stay."""
    whole = content(3)
    whole["annotations"][0]["segmentation"] = []
    whole["annotations"][1]["segmentation"] = [[], [1, 1, 5, 5]]
    whole["annotations"][2]["segmentation"].append([1, 1, 5, 5])
    bare = (*DOG[:2], None)
    assert held(write(whole)) == {"0.jpg": [bare], "1.jpg": [bare], "2.jpg": [DOG]}


@pytest.mark.parametrize("with_masks", [True, False])
def test_normalised_coordinates_are_refused(write, with_masks):
    whole = content()
    for annotation in whole["annotations"]:
        annotation["bbox"] = [0.1, 0.25, 0.3, 0.5]
        if not with_masks:
            annotation["segmentation"] = []
        else:
            annotation["segmentation"] = [[0.1, 0.25, 0.4, 0.25, 0.4, 0.75]]
    with pytest.raises(
        AnnotationError, match=r"own\.json has boxes within the first pixel.*to 0\.75.*pixels"
    ):
        read_annotations(write(whole))
    whole["annotations"][1]["bbox"] = BOX
    assert len(read_annotations(write(whole))) == 2, "a small object among others"


@pytest.mark.parametrize("degrees", [90, -90, 270.0, "90"])
def test_boxes_that_cvat_has_turned(write, degrees):
    """The upright box around: 30 x 40 around (25, 40) becomes 40 x 30; a mask says it itself."""
    whole = content()
    for annotation in whole["annotations"]:
        annotation["attributes"] = {"occluded": False, "rotation": degrees}
    whole["annotations"][0]["segmentation"] = []
    assert held(write(whole)) == {"0.jpg": [("dog", [5, 25, 45, 55], None)], "1.jpg": [DOG]}


def test_a_turn_of_45_degrees(write):
    whole = content(1)
    whole["annotations"][0] |= {"attributes": {"rotation": 45}, "segmentation": []}
    ((_, (instance,)),) = read_annotations(write(whole))
    side = 70 / math.sqrt(2)
    assert instance.box == pytest.approx((25 - side / 2, 40 - side / 2, side, side))


def test_turned_boxes_of_five_numbers_are_refused(write):
    whole = content()
    for annotation in whole["annotations"]:
        annotation |= {"bbox": [25, 40, 30, 40, 0.3], "segmentation": []}
    with pytest.raises(AnnotationError, match="four numbers; a turned box with its angle"):
        read_annotations(write(whole))
    masked = copy.deepcopy(content(1))
    masked["annotations"][0]["bbox"] = [25, 40, 30, 40, 0.3]
    assert held(write(masked)) == {"0.jpg": [DOG]}, "the mask says where it is"


def test_other_jsons_are_refused_by_name(write, tmp_path):
    labelme = {"version": "5", "shapes": [], "imagePath": "a.jpg"}
    with pytest.raises(AnnotationError, match="labelme's: give the folder"):
        read_annotations(write(labelme))
    with pytest.raises(AnnotationError, match="Of Label Studio's own json export as COCO"):
        read_annotations(write([{"id": 1, "annotations": []}]))
