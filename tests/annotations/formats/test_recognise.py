"""Which format a path is taken for, and why; COCO's jsons as several tools lay them out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.annotations.coco import located, read_annotations
from rmae_d2.annotations.formats.addresses import NAMES, Address, address_of
from rmae_d2.annotations.formats.recognise import FORMATS, recognise
from rmae_d2.errors import UserError
from tests.annotations.formats.helpers import photo, text
from tests.helpers import coco_rectangle


def coco(path, names, first=0):
    """A json as tools write it: ids from 0, no info."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"id": first + k, "file_name": name, "height": 80, "width": 100}
        for k, name in enumerate(names)
    ]
    entries = [coco_rectangle(k, first + k, 0, [10, 20, 30, 40]) for k in range(len(names))]
    categories = [{"id": 0, "name": "dog"}]
    path.write_text(
        json.dumps({"images": images, "annotations": entries, "categories": categories})
    )
    return path


def name_of(path):
    return recognise(address_of(path)).name


def test_every_format_has_its_name():
    assert set(FORMATS) == set(NAMES)


def test_what_is_recognised(tmp_path, caplog):
    photo(tmp_path / "photos/cat/a.jpg")
    photo(tmp_path / "photos/dog/b.jpg")
    text(tmp_path / "list.txt", "photos/cat/a.jpg")
    text(tmp_path / "yolo/data.yaml", "train: images\nnames: [a]")
    photo(tmp_path / "yolo/images/a.jpg")
    text(tmp_path / "voc/Annotations/a.xml", "<annotation></annotation>")
    text(tmp_path / "labelme/a.json", '{"version": "5", "shapes": [], "imagePath": "a.jpg"}')
    text(tmp_path / "hf/train/metadata.csv", "file_name,label\na.jpg,1")
    coco(tmp_path / "coco/annotations/instances_val2017.json", ["a.jpg"])
    text(tmp_path / "coco/annotations/captions_val2017.json", '{"info": {}, "images": []}')
    found = {
        "photos": "images",
        "list.txt": "list",
        "yolo": "yolo",
        "yolo/data.yaml": "yolo",
        "voc": "voc",
        "labelme": "labelme",
        "hf": "imagefolder",
        "coco": "coco",
        "coco/annotations/captions_val2017.json": "coco",
    }
    with caplog.at_level("INFO"):
        assert {path: name_of(tmp_path / path) for path in found} == found
    assert f"{tmp_path}/photos is read as a folder of images (images), by cat/a.jpg" in caplog.text
    assert "/yolo is read as YOLO (yolo), by data.yaml; its splits: train" in caplog.text


def test_the_format_can_be_said(tmp_path, caplog):
    text(tmp_path / "data.yaml", "train: images\nnames: [dog]")
    photo(tmp_path / "images/a.jpg")
    text(tmp_path / "labels/a.txt", "0 0.5 0.5 0.5 0.5")
    coco(tmp_path / "result.json", ["images/a.jpg"])
    with caplog.at_level("INFO"):
        assert name_of(tmp_path) == "yolo"
    assert "It could be coco, too: dataset.format=coco" in caplog.text
    assert located(f"coco:{tmp_path}") == str(tmp_path / "result.json")
    ((_, (instance,)),) = read_annotations(f"coco:{tmp_path}")
    assert instance.box == (10, 20, 30, 40)
    ((_, (instance,)),) = read_annotations(str(tmp_path))
    assert instance.box == (25, 20, 50, 40)
    with pytest.raises(UserError, match="format=yoloo is not a known format: did you mean yolo"):
        address_of(tmp_path, "yoloo")


def test_nothing_that_fits(tmp_path):
    text(tmp_path / "set/readme.md", "hello")
    with pytest.raises(
        UserError, match=r"(?s)set is not a data set in a known format: looked for\n.*data\.yaml"
    ) as error:
        recognise(address_of(tmp_path / "set"))
    assert all(f"\n  {name} " in str(error.value) for name in NAMES)
    with pytest.raises(UserError, match="there is no .*nowhere"):
        recognise(address_of(tmp_path / "nowhere"))
    photo(tmp_path / "set/a.jpg")
    with pytest.raises(
        UserError, match="a folder of images, which says nothing of what is on them"
    ):
        read_annotations(str(tmp_path / "set"))


@given(
    st.text(st.characters(categories=("L", "N"), include_characters="/._- "), min_size=1),
    st.sampled_from([None, *NAMES]),
    st.sampled_from([None, "train", "val", "x"]),
)
def test_addresses_come_back(path, format, split):
    address = Address(path, format, split)
    assert address_of(str(address)) == address == address_of(path, format, split)


def test_a_file_of_that_very_name_goes_before(tmp_path):
    odd = photo(tmp_path / "yolo:a#b" / "c.jpg").parent
    assert address_of(odd) == (str(odd), None, None)
    assert address_of(f"images:{odd}#train") == (str(odd), "images", "train")


# ------------------------------------------------------------------------------- COCO as it lies


def test_roboflows_export(tmp_path):
    """A json beside the images of each split; category 0 is its name for all, which nothing uses."""
    for split, first in (("train", 0), ("valid", 5)):
        photo(tmp_path / split / "a_jpg.rf.1.jpg")
        path = coco(tmp_path / split / "_annotations.coco.json", ["a_jpg.rf.1.jpg"], first)
        content = json.loads(path.read_text())
        content["categories"] = [
            {"id": 0, "name": "animals", "supercategory": "none"},
            {"id": 1, "name": "dog", "supercategory": "animals"},
        ]
        content["annotations"][0]["category_id"] = 1
        path.write_text(json.dumps({"info": {"year": "2024"}, "licenses": []} | content))
    assert located(f"{tmp_path}#val") == str(tmp_path / "valid/_annotations.coco.json")
    found = read_annotations(f"{tmp_path}#train")
    assert [category.name for category in found.categories] == ["animals", "dog"]
    ((image, (instance,)),) = found
    assert (image.id, instance.category_id, instance.box) == (0, 1, (10, 20, 30, 40))
    with pytest.raises(UserError, match=r"has 2 jsons in COCO's format.* or dataset\.split=train"):
        read_annotations(str(tmp_path))
    with pytest.raises(UserError, match="has no split test: it has train, val"):
        read_annotations(f"{tmp_path}#test")


def test_cocos_own_layout(tmp_path):
    for name in (
        "instances_train2017",
        "instances_val2017",
        "captions_val2017",
        "person_keypoints_val2017",
    ):
        coco(tmp_path / f"annotations/{name}.json", ["a.jpg"])
    panoptic = {"images": [], "annotations": [{"segments_info": []}]}
    text(tmp_path / "annotations/panoptic_val2017.json", json.dumps(panoptic))
    assert located(f"{tmp_path}#val") == str(tmp_path / "annotations/instances_val2017.json")


def test_cvats_and_label_studios_exports(tmp_path):
    cvat = coco(tmp_path / "cvat/annotations/instances_default.json", ["sub/a.jpg"])
    assert located(str(tmp_path / "cvat")) == str(cvat)
    studio = coco(tmp_path / "studio/result.json", ["images\\a.jpg"])
    text(tmp_path / "studio/notes.json", "[1]")
    assert located(str(tmp_path / "studio")) == str(studio)
