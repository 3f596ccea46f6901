"""Few labels: which images a fraction keeps, of all three kinds of data sets."""

import logging
import random
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from rmae_d2.data.datasets import classification_dataset, detection_dataset, semantic_dataset
from rmae_d2.data.datasets.fraction import take_fraction
from rmae_d2.errors import UserError
from tests.helpers import write_coco


def photos(count, root="/photos", label=0):
    names = [f"{label}/{i:03}.jpg" for i in range(count)]
    return [{"file_name": f"{root}/{n}", "image_id": n, "label": label} for n in names]


def names(dicts):
    return [sample["image_id"] for sample in dicts]


def test_the_choice_stays_what_it_was():
    """Recorded: a paper's 1 % must be the same images in the next version."""
    assert names(take_fraction(photos(100), 0.05, 0, "photos")) == [
        "0/004.jpg",
        "0/006.jpg",
        "0/035.jpg",
        "0/051.jpg",
        "0/068.jpg",
    ]


def test_it_depends_on_names_and_seed_alone():
    dicts = photos(200)
    chosen = names(take_fraction(dicts, 0.1, 3, "photos"))
    assert len(chosen) == 20 and chosen == sorted(chosen) and chosen != names(dicts[:20])
    elsewhere = photos(200, "/mnt/other machine")
    random.Random(0).shuffle(elsewhere)
    there = names(take_fraction(elsewhere, 0.1, 3, "photos"))
    assert sorted(there) == chosen
    assert there == [name for name in names(elsewhere) if name in chosen]  # in their order
    assert names(take_fraction(dicts, 0.1, 4, "photos")) != chosen


@pytest.mark.parametrize("per_class", [False, True])
def test_smaller_fractions_are_part_of_larger_ones(per_class):
    dicts = [*photos(150), *photos(40, label=1), *photos(3, label=2)]
    kept = [
        set(names(take_fraction(dicts, share, 0, "photos", per_class=per_class)))
        for share in (0.01, 0.02, 0.1, 0.11, 0.5, 0.99, 1)
    ]
    assert all(a <= b for a, b in zip(kept, kept[1:], strict=False))
    assert kept[-1] == set(names(dicts)) and len(kept[2]) == (4 + 1 + 15 if per_class else 19)


def test_of_each_class_or_of_all(caplog):
    dicts = [*photos(150), *photos(40, label=1), *photos(3, label=2)]
    with caplog.at_level(logging.INFO):
        by_class = take_fraction(dicts, 0.01, 0, "photos", per_class=True)
        overall = take_fraction(dicts, 0.01, 0, "photos")
    assert [sample["label"] for sample in by_class] == [0, 0, 1, 2]  # 1.5, 0.4 and 0.03 images
    assert len(overall) == 2
    assert caplog.messages == [
        "few labels: 4 of 193 images of photos (1 %, seed 0; 1 to 2 per class of 3)",
        "few labels: 2 of 193 images of photos (1 %, seed 0; 0 to 2 per class of 3)",
    ]


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan"), 10])
def test_no_fraction(fraction):
    with pytest.raises(UserError, match=r"dataset.fraction=\S+: the share of photos .* at most 1"):
        take_fraction(photos(10), fraction, 0, "photos")


def test_a_fraction_without_an_image():
    with pytest.raises(
        UserError, match="fraction=0.01 of the 30 images of photos is none: .* 0.03"
    ):
        take_fraction(photos(30), 0.01, 0, "photos")
    assert len(take_fraction(photos(30), 0.033, 0, "photos")) == 1


@pytest.fixture
def folders(tmp_path):
    """Of class folders: 30 images, 10 and 1."""
    for label, count in (("a", 30), ("b", 10), ("c", 1)):
        for split, images in (("train", count), ("val", 2)):
            (tmp_path / "own" / split / label).mkdir(parents=True)
            for i in range(images):
                (tmp_path / "own" / split / label / f"{i}.jpg").touch()
    return tmp_path / "own"


def test_class_folders(folders, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        dicts = classification_dataset(folders, fraction=0.1)
    assert [sample["label"] for sample in dicts] == [0, 0, 0, 1, 2]
    line = f"few labels: 5 of 41 images of {folders}/train (10 %, seed 0; 1 to 3 per class of 3)"
    assert caplog.messages[-1] == line
    assert len(classification_dataset(folders, fraction=0.1, fraction_per_class=False)) == 4
    assert len(classification_dataset(folders, "val")) == 6
    shutil.move(folders, tmp_path / "moved")
    assert names(classification_dataset(tmp_path / "moved", fraction=0.1)) == names(dicts)
    with pytest.raises(UserError, match="per_class=3 and dataset.fraction=0.1 both choose images"):
        classification_dataset(tmp_path / "moved", per_class=3, fraction=0.1)


def test_detection(tmp_path, caplog):
    """A share of what the data set keeps: of images with objects, or with filter_empty=False of all."""
    write_coco(tmp_path, [(0, 5, 5, 40, 40), (0, 50, 50, 20, 20), (2, 5, 5, 60, 60)])
    json = str(tmp_path / "labels.json")
    with caplog.at_level(logging.INFO):
        dicts = detection_dataset(json=json, fraction=0.5, fraction_seed=1)
    assert names(dicts) in ([0], [2])
    assert f"few labels: 1 of 2 images of {json} (50 %, seed 1)" in caplog.messages
    objects = len(dicts[0]["annotations"])
    assert caplog.messages[-1] == f"{json}: 1 images, {objects} instances of 1 classes"
    assert len(detection_dataset(json=json, fraction=2 / 3, filter_empty=False)) == 2


def test_segmentation(tmp_path, caplog):
    for folder, mode, suffix in (("images", "RGB", "jpg"), ("labels", "L", "png")):
        for i in range(20):
            path = tmp_path / folder / f"{i % 2}" / f"{i // 2}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (8, 8), i % 3).save(path)
    own = {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels")}
    with caplog.at_level(logging.INFO):
        dicts = semantic_dataset(**own, num_classes=3, fraction=0.2)
    line = f"few labels: 4 of 20 images of {own['images']} (20 %, seed 0)"
    assert len(dicts) == 4 and line in caplog.messages
    # Registered sets have no ids, as of Detectron2's loaders, and paths differ between machines.
    parts = [f"{i % 2}/{i // 2}" for i in range(20)]

    def registered():
        keys = {"file_name": ("images", "jpg"), "sem_seg_file_name": ("labels", "png")}
        return [{k: f"{own[f]}/{part}.{x}" for k, (f, x) in keys.items()} for part in parts]

    DatasetCatalog.register("few_labels", registered)
    MetadataCatalog.get("few_labels").stuff_classes = ["a", "b", "c"]
    try:
        named = semantic_dataset("few_labels", fraction=0.2)
        shutil.move(tmp_path / "images", tmp_path / "moved")
        own["images"] = str(tmp_path / "moved")
        again = semantic_dataset("few_labels", fraction=0.2)
    finally:
        DatasetCatalog.remove("few_labels")
        MetadataCatalog.remove("few_labels")
    files = [[sample["sem_seg_file_name"] for sample in dicts] for dicts in (named, again)]
    assert files[0] == files[1] and len(files[0]) == 4
