"""The index of a json: images found, any layout and encoding, damage named, one file for all."""

import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest

from rmae_d2.annotations.index import CocoJson
from rmae_d2.errors import UserError

BOX = [2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]


def annotation(segmentation, **changes):
    return {"id": 70, "image_id": 5, "iscrowd": 0, "segmentation": segmentation, **changes}


def photo(name="a.jpg", number=5):
    return {"id": number, "file_name": name}


def index(folder, annotations, images=None):
    file = folder / "instances.json"
    images = [photo()] if images is None else images
    file.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    return CocoJson(file, include_crowd=False)


def found(held, file_name, image_id=None):
    entry = held.find({"file_name": file_name, "image_id": image_id})
    return entry and (entry[0]["id"], [each["id"] for each in entry[1]])


def test_images_are_found_by_id_path_and_name(tmp_path):
    names = {1: "x/a.jpg", 2: "y/a.jpg", 3: "b.jpg", 4: "x/ü.jpg", 9: "2014/c.jpg"}
    images = [photo(name, number) for number, name in names.items()]
    entries = [annotation([BOX], id=n, image_id=n) for n in names]
    entries += [annotation([BOX], id=100, image_id=4)]
    held = pickle.loads(pickle.dumps(index(tmp_path, entries[::-1], images[::-1])))
    assert found(held, "/photos/x/a.jpg", "x/a.jpg") == (1, [1])
    assert found(held, "y/a.jpg") == (2, [2])
    assert found(held, "/p/b.jpg", "set/b.jpg") == found(held, "/p/b.png", 3) == (3, [3])
    assert found(held, "/p/x/ü.jpg", "x/ü.jpg") == (4, [100, 4])
    assert found(held, "c.jpg", np.int64(9)) == found(held, "/flat/c.jpg", 77) == (9, [9])
    assert found(held, "q.jpg", "q") is None
    with pytest.raises(UserError, match=r"2 images called a\.jpg"):
        found(held, "/flat/a.jpg")
    with pytest.raises(UserError, match=r"image 3 is b\.jpg, the data set says q\.jpg"):
        found(held, "q.jpg", 3)


def test_crowds_are_kept_where_asked_for(tmp_path):
    index(tmp_path, [annotation([BOX]), annotation([BOX], id=71, iscrowd=1)])
    for include_crowd, ids in ((False, [70]), (True, [70, 71])):
        held = CocoJson(tmp_path / "instances.json", include_crowd=include_crowd)
        assert found(held, "a.jpg") == (5, ids)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("indent", [None, 2])
def test_layouts_and_encodings_of_json(tmp_path, encoding, indent):
    name = "ö.jpg" if encoding == "utf-8" else "o.jpg"
    content = {
        "categories": [{"name": 'ß, ["]}'}],
        "annotations": [annotation([BOX])],
        "images": [photo(name)],
        "licences": None,
    }
    text = "\n " + json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    (tmp_path / "a.json").write_bytes(text.encode(encoding))
    assert found(CocoJson(tmp_path / "a.json", include_crowd=False), name) == (5, [70])


def test_damaged_jsons_are_refused(tmp_path):
    index(tmp_path, [annotation([BOX])])
    text = (tmp_path / "instances.json").read_bytes()
    file = tmp_path / "cut.json"
    for keep in range(len(text)):
        file.write_bytes(text[:keep])
        with pytest.raises(UserError, match=r"cut\.json is not usable"):
            CocoJson(file, include_crowd=False)
    with pytest.raises(UserError, match=r"absent\.json"):
        CocoJson(tmp_path / "absent.json", include_crowd=False)


@pytest.mark.parametrize(
    ("annotations", "images", "message"),
    [
        ([annotation([BOX])], [], "no images"),
        ([annotation([])], [photo()], "none of its annotations has a mask"),
        ([], [photo()], "none of its annotations has a mask"),
        ([annotation([BOX], image_id=8)], [photo()], "image id 8"),
        ([annotation([BOX], image_id="5")], [photo()], "image_id '5', no integer"),
        ([annotation([BOX])], [photo(), photo("b.jpg")], "image id 5 stands in it twice"),
        ([annotation([BOX])], [{"id": 5}], "neither file_name nor coco_url"),
        ([annotation([BOX])], [{"file_name": "a.jpg"}], "id None, no integer"),
        ([3], [photo()], "annotations hold a int"),
    ],
)
def test_other_jsons_are_refused(tmp_path, annotations, images, message):
    with pytest.raises(UserError, match=rf"instances\.json is not usable .*{message}"):
        index(tmp_path, annotations, images)


def test_a_json_changed_while_in_use_is_no_fault_of_the_image(tmp_path):
    held = index(tmp_path, [annotation([BOX])])
    assert found(held, "a.jpg") == (5, [70])
    (tmp_path / "instances.json").write_bytes(b" " * 10)
    for each in (held, pickle.loads(pickle.dumps(held))):
        with pytest.raises(RuntimeError, match="changed while in use"):
            found(each, "a.jpg")


def _found(held, queue):
    queue.put([found(held, f"{n}.jpg", n) for n in range(200)] * 5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_share_one_index(tmp_path):
    entries = [annotation([BOX], id=1000 + n, image_id=n) for n in range(200)]
    held = index(tmp_path, entries, [photo(f"{n}.jpg", n) for n in range(200)])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_found, args=(held, queue)) for _ in "abc"]
    for worker in workers:
        worker.start()
    for _ in workers:
        assert queue.get(timeout=120) == [(n, [1000 + n]) for n in range(200)] * 5
    for worker in workers:
        worker.join()
