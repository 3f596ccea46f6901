"""Semantic data for training and testing: ADE20K's own layout, registered sets, somebody's own folders."""

import os
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_ade20k
from PIL import Image

from rmae_d2.data.datasets import images_from
from rmae_d2.data.datasets.semantic import check_label_size, semantic_classes, semantic_dataset
from rmae_d2.errors import AnnotationError, UserError
from rmae_d2.photos.label_images import read_labels

NAMES = ("ade20k_sem_seg_train", "ade20k_sem_seg_val")


@pytest.fixture
def register():
    """Registers ADE20K under another root, for one test."""
    before = {name: (DatasetCatalog[name], MetadataCatalog.pop(name)) for name in NAMES}

    def at(root):
        for name in NAMES:
            for catalog in (DatasetCatalog, MetadataCatalog):
                if name in catalog:
                    catalog.pop(name)
        register_all_ade20k(str(root))

    yield at
    for name, (function, metadata) in before.items():
        DatasetCatalog.pop(name)
        DatasetCatalog.register(name, function)
        MetadataCatalog.pop(name)
        MetadataCatalog[name] = metadata


@pytest.fixture
def own(tmp_path):
    """Own data: four images, one in a sub-folder, and their labels of three classes."""
    for i, name in enumerate(("b", "a", "c", "deep/d")):
        for folder, suffix in (("images", "jpg"), ("labels", "png")):
            path = tmp_path / folder / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (10 + i, 8)
            Image.new("L" if folder == "labels" else "RGB", size, i % 3).save(path)
    return tmp_path


def load(folder, **kwargs):
    kwargs = {"num_classes": 3, **kwargs}
    return semantic_dataset(images=str(folder / "images"), labels=str(folder / "labels"), **kwargs)


def test_own_data(own):
    dicts = load(own)
    assert [sample["image_id"] for sample in dicts] == ["a.jpg", "b.jpg", "c.jpg", "deep/d.jpg"]
    for sample in dicts:
        assert sample["file_name"] == str(own / "images" / sample["image_id"])
        labels = own / "labels" / sample["image_id"].replace("jpg", "png")
        assert sample["sem_seg_file_name"] == str(labels)
        assert sample["num_classes"] == 3 and sample["zero_is_ignored"] is False
    arguments = {"images": str(own), "num_classes": 3}
    assert semantic_classes(**arguments) == ("0", "1", "2")
    assert semantic_classes(**arguments, zero_is_ignored=True) == ("1", "2", "3")


def test_the_official_release(register, shared_data):
    register(shared_data)
    for name, count in zip(NAMES, (8, 3), strict=True):
        dicts = semantic_dataset(name, num_classes=150)
        assert len(dicts) == count and all(sample["zero_is_ignored"] for sample in dicts)
        assert "/annotations/" in dicts[0]["sem_seg_file_name"]
    assert len(semantic_dataset(NAMES)) == 11
    assert semantic_classes(NAMES)[:2] == ("wall", "building")


def test_detectron2s_converted_folder(register, shared_data, tmp_path):
    """Where only that is there; both give the same labels."""
    register(shared_data)
    official = semantic_dataset(NAMES[1])
    root = tmp_path / "ADEChallengeData2016"
    shutil.copytree(shared_data / "ADEChallengeData2016/images", root / "images")
    for sample in official:
        with Image.open(sample["sem_seg_file_name"]) as image:
            converted = np.asarray(image) - np.uint8(1)  # as prepare_ade20k_sem_seg.py
        path = root / "annotations_detectron2/validation"
        path.mkdir(parents=True, exist_ok=True)
        name = sample["sem_seg_file_name"].rpartition("/")[2]
        Image.fromarray(converted).save(path / name)
    register(tmp_path)
    again = semantic_dataset(NAMES[1])
    assert not any(sample["zero_is_ignored"] for sample in again)
    for a, b in zip(official, again, strict=True):
        expected, found = (
            read_labels(x["sem_seg_file_name"], 150, x["zero_is_ignored"]) for x in (a, b)
        )
        assert (expected == found).all() and (expected == 255).any()


def test_any_registered_dataset(own):
    name = "own_semantic"
    DatasetCatalog.register(name, lambda: load(own))
    try:
        with pytest.raises(UserError, match="no semantic labels"):
            semantic_dataset(name)
        MetadataCatalog.get(name).set(stuff_classes=["x", "y", "z"], ignore_label=255)
        assert len(semantic_dataset(name)) == 4 and semantic_classes(name) == ("x", "y", "z")
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def test_a_missing_dataset(register, tmp_path):
    register(tmp_path)
    with pytest.raises(UserError) as error:
        semantic_dataset(NAMES[0])
    for text in (
        "the dataset ade20k_sem_seg_train is not there",
        f"{tmp_path}/ADEChallengeData2016/images/training",
        "DETECTRON2_DATASETS",
        "ADEChallengeData2016.zip",
        "dataset.images=FOLDER",
    ):
        assert text in str(error.value)
    (tmp_path / "ADEChallengeData2016/images/training").mkdir(parents=True)
    with pytest.raises(UserError, match="annotations/training.*annotations_detectron2"):
        semantic_dataset(NAMES[0])


def test_missing_labels(own, caplog):
    (own / "labels/a.png").unlink()
    with pytest.raises(UserError, match=r"1 of the 4 images.*such as a\.jpg.*At most 1%"):
        load(own)
    dicts = load(own, allow_missing=0.5)
    assert len(dicts) == 3 and "such as a.jpg. They are left out" in caplog.text
    shutil.rmtree(own / "labels")
    with pytest.raises(UserError, match=f"no folder {own}/labels.*dataset.labels"):
        load(own)


def test_images_and_labels_in_one_folder(own, caplog):
    """Paired by name and kind: a label image is never taken for a photo, whatever its extension."""
    for path in list((own / "labels").rglob("*.png")):
        shutil.move(path, own / "images" / path.relative_to(own / "labels"))
    with Image.open(own / "images/c.jpg") as photo:
        photo.save(own / "images/c.bmp")  # a photo in a lossless format
    (own / "images/c.jpg").unlink()
    both = str(own / "images")
    dicts = semantic_dataset(images=both, labels=both, num_classes=3)
    pairs = [(d["image_id"], os.path.relpath(d["sem_seg_file_name"], both)) for d in dicts]
    assert pairs == [(f"{n}.jpg", f"{n}.png") for n in "ab"] + [
        ("c.bmp", "c.png"),
        ("deep/d.jpg", "deep/d.png"),
    ]
    # Nor does pre-training on such a folder take them.
    assert [d["image_id"] for d in images_from(both)] == ["a.jpg", "b.jpg", "c.bmp", "deep/d.jpg"]
    assert (
        "4 images of one channel lie beside photos of the same names, such as a.png" in caplog.text
    )
    Image.new("L", (11, 8)).save(own / "images/a.tif")
    with pytest.raises(AnnotationError, match=r"several label images.*a\.png, a\.tif"):
        semantic_dataset(images=both, labels=both, num_classes=3)
    (own / "images/a.tif").unlink()
    (own / "images/b.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of the 4 images .* have no label.*such as b\.png"):
        semantic_dataset(images=both, labels=both, num_classes=3)


def test_labels_in_a_folder_within_that_of_the_images(own):
    shutil.move(own / "labels", own / "images/labels")
    places = {"images": str(own / "images"), "labels": str(own / "images/labels")}
    dicts = semantic_dataset(**places, num_classes=3)
    assert [d["image_id"] for d in dicts] == ["a.jpg", "b.jpg", "c.jpg", "deep/d.jpg"]


def test_several_labels_for_one_image(own):
    Image.new("L", (11, 8)).save(own / "labels/a.tif")
    with pytest.raises(AnnotationError, match=r"several label images.*a\.png, a\.tif"):
        load(own)


def test_a_label_out_of_range(own):
    Image.new("L", (12, 8), 7).save(own / "labels/c.png")
    with pytest.raises(AnnotationError, match=r"labels/c\.png has the label 7.*0 to 2 for the 3"):
        load(own)


@pytest.mark.parametrize("zero_is_ignored, void", [(False, 255), (True, 0)])
def test_labels_without_any_class(own, zero_is_ignored, void):
    for path in (own / "labels").rglob("*.png"):
        with Image.open(path) as image:
            Image.new("L", image.size, void).save(path)
    with pytest.raises(AnnotationError, match=rf"all pixels of the 4 label .*{void}.* not a class"):
        load(own, zero_is_ignored=zero_is_ignored)


def test_masks_of_0_and_255(own, caplog):
    """As drawing programs save them: 255 is not a class, so all that is left is the background."""
    for path in (own / "labels").rglob("*.png"):
        with Image.open(path) as image:
            masks = np.zeros((image.height, image.width), np.uint8)
        masks[2:] = 255
        Image.fromarray(masks).save(path)
    with pytest.raises(AnnotationError, match="hold 0 and 255 alone.*save masks .* as 0 and 1"):
        load(own, num_classes=2)
    assert len(load(own, num_classes=3)) == 4
    assert "4 label images looked at show 1 of the 3 classes; 255 is not a class" in caplog.text
    caplog.clear()
    load(own, num_classes=1)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_labels_of_another_size(own):
    Image.new("L", (8, 12)).save(own / "labels/c.png")
    with pytest.raises(AnnotationError, match=r"c\.png is 12x8 .* image .*c\.jpg is 8x12"):
        load(own)


def test_photos_that_exif_turns(own):
    """Readers turn them; labels drawn over what viewers show fit."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 12)).save(own / "images/c.jpg", exif=exif)
    assert len(load(own)) == 4
    with pytest.raises(AnnotationError, match="EXIF"):
        check_label_size(load(own)[2], (12, 8), (8, 12))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "set dataset.names, or dataset.images"),
        ({"names": "ade20k_sem_seg_trian"}, "did you mean ade20k_sem_seg_train"),
        ({"names": "coco_2017_train"}, "no semantic labels"),
        ({"names": None}, "set dataset.names, or dataset.images"),
        ({"images": "x", "labels": "y"}, "images=x lacks dataset.num_classes: own data need all"),
        ({"images": "x", "num_classes": 3}, "images=x lacks dataset.labels: own data need all"),
        ({"images": "x"}, "images=x lacks dataset.labels and dataset.num_classes"),
        ({"images": "x", "labels": "y", "num_classes": 256}, "num_classes=256: 1 to 255"),
        ({"images": "x", "labels": "y", "num_classes": 0}, "num_classes=0: 1 to 255"),
        ({"names": "ade20k_sem_seg_train", "labels": "y"}, "need dataset.images"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(UserError, match=message):
        semantic_dataset(**arguments)


def test_another_number_of_classes(register, shared_data):
    register(shared_data)
    with pytest.raises(UserError, match="has 150 classes, num_classes=21.*num_classes=150"):
        semantic_dataset(NAMES, num_classes=21)
