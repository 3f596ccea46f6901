"""Annotation files: whole, found image by image, one copy for all processes; and what is wrong has a name."""

import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest

from rmae_d2.annotations.coco import (
    check_instances,
    forget_annotations,
    read_annotations,
    read_images,
)
from rmae_d2.errors import AnnotationError, UserError
from tests.helpers import HUNG, coco_rectangle

BOX = [2, 3, 10, 6]
DOG = {"id": 9, "name": "dog"}


def photo(name="a.jpg", number=5):
    return {"id": number, "file_name": name, "height": 20, "width": 30}


def write(folder, content, name="own.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def read(folder, annotations, images=None):
    images = [photo()] if images is None else images
    content = {"info": {}, "images": images, "annotations": annotations, "categories": [DOG]}
    return read_annotations(write(folder, content))


def found(held, file_name, image_id=None):
    entry = held.find({"file_name": file_name, "image_id": image_id})
    return entry and (entry[0].id, [each.id for each in entry[1]])


def test_images_are_found_by_id_path_and_name(tmp_path):
    names = {1: "x/a.jpg", 2: "y/a.jpg", 3: "b.jpg", 4: "x/ü.jpg", 9: "2014/c.jpg"}
    images = [photo(name, number) for number, name in names.items()]
    entries = [coco_rectangle(n, n, 9, BOX) for n in names] + [coco_rectangle(100, 4, 9, BOX)]
    held = pickle.loads(pickle.dumps(read(tmp_path, entries[::-1], images[::-1])))
    assert [image.id for image, _ in held] == [1, 2, 3, 4, 9]
    assert found(held, "/photos/x/a.jpg", "x/a.jpg") == (1, [1])
    assert found(held, "y/a.jpg") == (2, [2])
    assert found(held, "/p/b.jpg", "set/b.jpg") == found(held, "/p/b.png", 3) == (3, [3])
    assert found(held, "/p/x/ü.jpg", "x/ü.jpg") == (4, [100, 4])
    assert found(held, "c.jpg", np.int64(9)) == found(held, "/flat/c.jpg", 77) == (9, [9])
    assert found(held, "/p/B.PNG", "B.PNG") == (3, [3])
    assert found(held, "q.jpg", "q") is None
    with pytest.raises(UserError, match=r"2 images called a\.jpg"):
        found(held, "/flat/a.jpg")
    with pytest.raises(UserError, match=r"image 3 is b\.jpg, the data set says q\.jpg"):
        found(held, "q.jpg", 3)


def test_a_file_is_read_once_until_it_changes(tmp_path):
    held = read(tmp_path, [coco_rectangle(1, 5, 9, BOX)])
    assert read_annotations(held.path) is held and held.labelled
    forget_annotations()
    again = read_annotations(held.path)
    assert again is not held and again.digest == held.digest
    changed = read(tmp_path, [coco_rectangle(12, 5, 9, BOX)])
    assert changed.digest != held.digest and found(changed, "a.jpg") == (5, [12])
    assert found(held, "a.jpg") == (5, [1])


@pytest.mark.parametrize("indent", [None, 2])
def test_layouts_of_json(tmp_path, indent):
    content = {
        "categories": [{"id": 9, "name": 'ß, ["]}'}],
        "annotations": [coco_rectangle(70, 5, 9, BOX)],
        "images": [photo("ö.jpg")],
        "licences": None,
    }
    text = "\n " + json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    held = read_annotations(write(tmp_path, text))
    assert found(held, "ö.jpg") == (5, [70]) and held.categories[0].name == 'ß, ["]}'


def test_a_file_cut_anywhere_is_refused(tmp_path):
    held = read(tmp_path, [coco_rectangle(1, 5, 9, BOX)])
    with open(held.path) as file:
        text = file.read()
    for keep in range(len(text)):
        with pytest.raises(AnnotationError, match=r"cut\.json (is cut off|is not)"):
            read_annotations(write(tmp_path, text[:keep], "cut.json"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is cut off"),
        (b"{'a': 1}", "is not JSON"),
        (b"<html>", "is not JSON"),
        (b"PK\x03\x04\xff\xfe", "is a zip archive, not text: unpack it"),
        (b'{"a": "\xe9"}', r"not in UTF-8 \(line 1, byte 7: 0xe9\).*Latin-1"),
        (b"[1]", "begins with '\"\\[1\\]\"' and not with an object"),
        (b'{"annotations": []}', "needs a list 'images' with entries, it has '\"annotations\"'"),
        (b'{"images": []} {}', "Extra data"),
    ],
)
def test_files_that_are_no_labels(tmp_path, data, message):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(AnnotationError, match=rf"a\.json .*{message}"):
        read_annotations(str(tmp_path / "a.json"))
    if data != b'{"images": []} {}':
        with pytest.raises(AnnotationError, match=rf"a\.json .*{message}"):
            read_images(str(tmp_path / "a.json"))


def test_absent_files(tmp_path):
    path = str(tmp_path / "a.json")
    with pytest.raises(UserError, match=f"no annotation file {path}"):
        read_annotations(path)
    with pytest.raises(UserError, match="(?s)coco_2017_val is not there.*annotations_trainval2017"):
        read_annotations(path, "coco_2017_val")


def test_images_alone_need_neither_sizes_nor_good_annotations(tmp_path):
    content = {
        "images": [
            photo(),
            {"file_name": "b.jpg"},
            {"id": 7, "coco_url": "http://x/val2017/c.jpg"},
        ],
        "annotations": 3,
    }
    images = read_images(write(tmp_path, content))
    assert [tuple(image[:4]) for image in images] == [
        (5, "a.jpg", 20, 30),
        ("b.jpg", "b.jpg", 0, 0),
        (7, "val2017/c.jpg", 0, 0),
    ]


def test_class_numbers(tmp_path):
    held = read(tmp_path, [])
    assert held.class_ids() == {0: 9} and held.class_ids(first=1) == {8: 9}
    assert held.class_ids({9: 4}) == {4: 9}
    with pytest.raises(AnnotationError, match="in one of the two only: 8, 9"):
        held.class_ids({8: 0})
    bare = read_annotations(write(tmp_path, {"images": [photo()]}))
    assert not bare.labelled
    with pytest.raises(AnnotationError, match="needs a list 'categories'"):
        bare.class_ids()


def test_annotations_of_somebodys_loader(caplog):
    """As in a file; what cannot be read is named."""
    entries = [
        coco_rectangle(1, 5, 0, BOX),
        coco_rectangle(2, 5, 0, BOX, segmentation=[[1, 1, float("inf"), 4, 4, 4]]),
        coco_rectangle(3, 5, 0, [1, 1, 0, 4], segmentation=None),
    ]
    first, second, third = check_instances(entries, (20, 30), "my_set, a.jpg")
    assert first.box == (2, 3, 10, 6) and len(first.mask[0]) == 8
    assert second is third is None
    assert "my_set, a.jpg, annotation '3': bbox '[1, 1, 0, 4]' has no area, nor has a mask" in (
        caplog.text
    )
    assert "my_set, a.jpg, annotation '2': segmentation has a polygon with the coordinate 'Inf" in (
        caplog.text
    )


def _found(held, queue):
    queue.put([found(held, f"{n}.jpg", n) for n in range(200)] * 5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_share_one_copy(tmp_path):
    entries = [coco_rectangle(1000 + n, n, 9, BOX) for n in range(200)]
    held = read(tmp_path, entries, [photo(f"{n}.jpg", n) for n in range(200)])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_found, args=(held, queue)) for _ in "abc"]
    for worker in workers:
        worker.start()
    for _ in workers:
        assert queue.get(timeout=HUNG) == [(n, [1000 + n]) for n in range(200)] * 5
    for worker in workers:
        worker.join()
