"""Panoptic jsons: real ones, and odd ones with a message."""

import json

import pytest

from rmae_d2.annotations.coco import read_annotations
from rmae_d2.annotations.panoptic import read_panoptic
from rmae_d2.errors import AnnotationError


def content():
    numbers = range(1, 13)
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 4, "width": 6} for n in numbers],
        "annotations": [
            {"image_id": n, "file_name": f"{n}.png", "segments_info": []} for n in numbers
        ],
        "categories": [{"id": 1, "name": "sky"}],
    }


def write(folder, changed):
    (folder / "panoptic.json").write_text(json.dumps(changed))
    return str(folder / "panoptic.json")


def test_real_data(shared_data):
    found = read_panoptic(str(shared_data / "coco/annotations/panoptic_train2017.json"))
    assert len(found) == 48
    for image, png in found:
        assert png == image.file_name.replace(".jpg", ".png")
        assert (shared_data / "coco/panoptic_train2017" / png).is_file()


def test_odd_values(tmp_path, caplog):
    odd = content()
    odd["annotations"][3]["file_name"] = None
    odd["annotations"][4]["image_id"] = "5"
    odd["annotations"][5]["image_id"] = 99
    found = read_panoptic(write(tmp_path, odd))
    assert [png for _, png in found] == [f"{n}.png" for n in (1, 2, 3, 5, *range(7, 13))]
    assert [image.id for image, _ in found][3] == 5
    assert "file_name 'null' names no PNG" in caplog.text
    assert "images that it does not list, left out: 1, such as 6.png" in caplog.text


def test_other_jsons_are_refused(tmp_path):
    with pytest.raises(AnnotationError, match="panoptic.json is a panoptic json.*instances json"):
        read_annotations(write(tmp_path, content()))
    odd = content()
    for entry in odd["annotations"]:
        del entry["segments_info"]
    with pytest.raises(AnnotationError, match="12 of 12 annotations.*segments_info 'null' is no"):
        read_panoptic(write(tmp_path, odd))
    with pytest.raises(AnnotationError, match="has no annotations with 'segments_info'"):
        read_panoptic(write(tmp_path, content() | {"annotations": []}))
