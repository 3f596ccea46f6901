"""Annotation files: what is read is whole and consistent, and what is wrong has a name."""

import json

import pytest

from rmae_d2.annotations.coco_json import check_coco, examples, mask_of, read_coco_json
from rmae_d2.errors import AnnotationError, UserError

IMAGE = {"id": 1, "height": 4, "width": 6, "file_name": "a.jpg"}
DOG = {"id": 9, "name": "dog"}
BOX = {"id": 7, "image_id": 1, "category_id": 9, "bbox": [0, 0, 2, 2.5]}
CONTENT = {"images": [IMAGE], "categories": [DOG], "annotations": [BOX]}


def test_what_is_right_is_given_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.json").write_text(json.dumps(CONTENT))
    assert read_coco_json("~/a.json") == CONTENT
    check_coco({"images": [IMAGE], "categories": [DOG]}, "a test set")


def test_absent_files(tmp_path):
    path = str(tmp_path / "a.json")
    with pytest.raises(UserError, match=f"no annotation file {path}"):
        read_coco_json(path)
    with pytest.raises(UserError, match="(?s)coco_2017_val is not there.*annotations_trainval2017"):
        read_coco_json(path, "coco_2017_val")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is cut off"),
        (json.dumps(CONTENT).encode()[:-9], "is cut off"),
        (b"{'a': 1}", "is not JSON"),
        (b"<html>", "is not JSON"),
        (b"PK\x03\x04\xff\xfe", "is not text.*archive"),
        (b"[1]", "holds a list"),
    ],
)
def test_files_that_are_no_json(tmp_path, data, message):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(AnnotationError, match=rf"a\.json.* {message}"):
        read_coco_json(str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": []}, "needs a list 'images', it has annotations, categories, images"),
        ({"categories": {}}, "needs a list 'categories'"),
        ({"images": [{"id": 1, "height": 4}]}, "entry 0 of 'images' has no width"),
        ({"annotations": [3]}, "entry 0 of 'annotations' has no id, image_id"),
        ({"annotations": [BOX, BOX]}, "1 ids stand more than once in 'annotations', such as 7"),
        ({"annotations": [BOX | {"category_id": 8}]}, "'categories' does not list: 8"),
        ({"annotations": [BOX | {"bbox": [1, 2, 3]}]}, "annotation 7 has the bbox"),
        ({"annotations": [BOX | {"bbox": [1, 2, 3, float("nan")]}]}, "annotation 7 has the bbox"),
    ],
)
def test_contents_that_contradict_themselves(changes, message):
    with pytest.raises(AnnotationError, match=f"a.json.*{message}"):
        check_coco(CONTENT | changes, "a.json")


def test_masks_of_annotations():
    triangle, rle = [0, 0, 1, 0, 1, 1], {"size": [4, 6], "counts": "abc"}
    assert mask_of({"segmentation": [triangle, [1, 2, 3, 4], [*triangle, 1]]}) == [triangle]
    assert mask_of({"segmentation": rle}) == rle
    for nothing in (
        {},
        {"segmentation": []},
        {"segmentation": [[1, 2]]},
        {"segmentation": {"counts": ""}},
    ):
        assert mask_of(nothing) is None


def test_a_few_of_many():
    assert examples([3, 7]) == "3, 7" and examples(range(9)) == "0, 1, 2, 3, 4 ..."
