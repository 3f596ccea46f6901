"""CUB-200-2011, Stanford Cars and iNaturalist in their releases' layouts: what is read and refused."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from scipy.io import loadmat, savemat

from rmae_d2.data.datasets import class_names, classification_dataset, pretrain_dataset
from rmae_d2.errors import AnnotationError, UserError
from tests.releases import (
    CARS,
    CUB,
    cars_annotations,
    registered_at,
    write_cars,
    write_cub,
    write_inaturalist,
)


@pytest.fixture
def root(tmp_path):
    with registered_at(tmp_path):
        yield tmp_path


def pairs(name, folder, **arguments):
    """(path below a folder, class) of each image, in their order."""
    dicts = classification_dataset(names=name, **arguments)
    start = f"{folder}/"
    assert all(sample["file_name"].startswith(start) for sample in dicts)
    return [(sample["file_name"].removeprefix(start), sample["label"]) for sample in dicts]


def test_cub(root):
    folder = write_cub(root) / "images"
    expected = {
        part: [
            (f"{CUB[k // 4]}/{CUB[k // 4][4:]}_{k:04}_{7 * k}.jpg", k // 4)
            for k in range(12)
            if k % 2 == flag
        ]
        for part, flag in (("train", 1), ("test", 0))
    }
    for part, images in expected.items():
        assert pairs(f"cub_200_{part}", folder, num_classes=3) == images
        assert len(images) == 6
    assert class_names(names="cub_200_test") == list(CUB)
    both = classification_dataset(names=["cub_200_train", "cub_200_test"])
    assert len(both) == 12
    few = classification_dataset(names="cub_200_train", fraction=0.5)
    assert [sample["label"] for sample in few] == [0, 1, 2]
    assert {sample["image_id"] for sample in few} < {path for path, _ in expected["train"]}
    assert len(pretrain_dataset(["cub_200_train"])) == 6  # photos to pre-train on, too


@pytest.mark.parametrize("in_devkit", [False, True])
def test_cars(root, in_devkit):
    folder = write_cars(root)
    train = [
        ("00001.jpg", 2),
        ("00002.jpg", 0),
        ("00003.jpg", 1),
        ("00004.jpg", 1),
        ("00005.jpg", 0),
    ]
    assert pairs("stanford_cars_train", folder / "cars_train", num_classes=3) == train
    if in_devkit:
        name = "cars_test_annos_withlabels.mat"
        (folder / name).rename(folder / "devkit" / name)
    test = [("00001.jpg", 1), ("00002.jpg", 2), ("00003.jpg", 0)]
    assert pairs("stanford_cars_test", folder / "cars_test", num_classes=3) == test
    assert class_names(names=["stanford_cars_train"]) == list(CARS)


@pytest.mark.parametrize("year", [2017, 2018, 2019])
def test_inaturalist(root, year):
    folder = write_inaturalist(root, year)
    if year == 2017:
        places = ["Aves/Icterus gularis", "Insecta/Limenitis arthemis", "Plantae/Acer"]
    else:
        places = ["Aves/0", "Insecta/1", "Plantae/2"]
    start = "train_val_images" if year == 2017 else f"train_val{year}"
    for split, count in (("train", 6), ("val", 3)):
        expected = [(f"{start}/{places[k % 3]}/{split}{k}.jpg", k % 3) for k in range(count)]
        assert pairs(f"inaturalist_{year}_{split}", folder, num_classes=3) == expected
    assert len(class_names(names=f"inaturalist_{year}_val")) == 3


def test_classes_are_numbered_in_the_order_of_their_ids(root):
    """Whatever the ids, and in whatever order they stand."""
    folder = write_cub(root)
    text = (folder / "classes.txt").read_text().splitlines()
    (folder / "classes.txt").write_text("\r\n".join(["7 another", "", *reversed(text)]))
    assert class_names(names="cub_200_train") == [*CUB, "another"]
    assert [label for _, label in pairs("cub_200_train", folder / "images")] == [0, 0, 1, 1, 2, 2]
    content, path = change_json(write_inaturalist(root, 2018), 2018)
    for entry in content["categories"]:
        entry["id"] = {0: 50, 1: 9, 2: 20}[entry["id"]]
    for entry in content["annotations"]:
        entry["category_id"] = {0: 50, 1: 9, 2: 20}[entry["category_id"]]
    path.write_text(json.dumps(content))
    assert class_names(names="inaturalist_2018_train") == ["1", "2", "0"]
    labels = [label for _, label in pairs("inaturalist_2018_train", path.parent)]
    assert labels == [2, 0, 1, 2, 0, 1]


def change_json(folder, year):
    path = folder / f"train{year}.json"
    return json.loads(path.read_text()), path


def refused(name, *says, error=AnnotationError):
    """One clear line with all of that in it."""
    with pytest.raises(error) as caught:
        classification_dataset(names=name)
    message = str(caught.value)
    assert "\n" not in message, message
    for text in says:
        assert text in message, message


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("image_class_labels", "12 201", "image 12 has the class '\"201\"', and "),
        ("image_class_labels", "12 x", "image 12 has the class '\"x\"', and "),
        ("image_class_labels", "12", "line 12: '\"12\"' is not a number and a value"),
        ("image_class_labels", "11 1", "line 12: the number 11 appears twice"),
        ("image_class_labels", "", "lists 11 images, "),
        ("image_class_labels", "13 3", "lists 12 images, "),
        ("train_test_split", "12 2", "image 12 has '\"2\"', neither 1 for training nor 0"),
        (
            "images",
            "12 ../../somewhere/x.jpg",
            "the image '\"../../somewhere/x.jpg\"', which is not",
        ),
        ("images", "12 /etc/x.jpg", "the image '\"/etc/x.jpg\"', which is not below "),
        ("images", "12 C:\\birds\\x.jpg", "which is not below "),
        ("images", f"12 {CUB[2]}/gone.jpg", "1 of the 6 files that "),
        ("images", "12 {first}", " twice: take one out"),
    ],
)
def test_cubs_files_that_contradict_each_other(root, file, line, says):
    folder = write_cub(root)
    path = folder / f"{file}.txt"
    lines = path.read_text().splitlines()
    first = (folder / "images.txt").read_text().splitlines()[1].split()[1]
    path.write_text("\n".join([*lines[:-1], line.replace("{first}", first)]))
    refused("cub_200_train", str(path), says, error=UserError)


def test_cubs_empty_file(root):
    folder = write_cub(root)
    (folder / "classes.txt").write_text("\n")
    refused("cub_200_train", f"{folder}/classes.txt is empty. Unpack the release again")


@pytest.mark.parametrize("name", ["cub_200_test", "stanford_cars_train", "inaturalist_2019_val"])
def test_what_is_not_there(root, name):
    with pytest.raises(UserError) as caught:
        classification_dataset(names=name)
    for text in (
        f"the dataset {name} is not there",
        f"looked for: {root}",
        "get it: ",
        "own data:",
    ):
        assert text in str(caught.value)


def test_one_file_that_is_not_there(root):
    folder = write_cars(root)
    (folder / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(UserError) as caught:
        classification_dataset(names="stanford_cars_test")
    line = f"  looked for: {folder}/cars_test_annos_withlabels.mat"
    assert line in str(caught.value).splitlines()


def test_names_that_are_no_classification():
    with pytest.raises(
        UserError, match="no dataset is registered as 'cub_200_trian': did you mean"
    ):
        classification_dataset(names="cub_200_trian")
    with pytest.raises(UserError, match="coco_2017_val does not give .* cub_200_test, .* own data"):
        classification_dataset(names="coco_2017_val")
    assert "coco_2017_val" in DatasetCatalog


def test_names_with_other_classes(root):
    write_cub(root)
    write_cars(root)
    with pytest.raises(UserError, match="cub_200_train and stanford_cars_train have different cl"):
        classification_dataset(names=["cub_200_train", "stanford_cars_train"])
    message = "cub_200_train has 3 classes, the model 200 classes: set model.num_classes=3"
    with pytest.raises(UserError, match=message):
        classification_dataset(names="cub_200_train", num_classes=200)


def test_a_class_that_is_not_in_cars_meta(root):
    folder = write_cars(root)
    path = folder / "devkit/cars_train_annos.mat"
    rows = [("00001.jpg", 1), ("00002.jpg", 4)]
    savemat(path, {"annotations": cars_annotations(rows)})
    meta = folder / "devkit/cars_meta.mat"
    refused("stanford_cars_train", f"{path}: annotation 2 has the class '4', and {meta} lists 3")


def test_a_single_car(root):
    """Of one entry scipy makes no vector."""
    folder = write_cars(root)
    path = folder / "devkit/cars_train_annos.mat"
    savemat(path, {"annotations": cars_annotations([("00003.jpg", 2)])})
    assert pairs("stanford_cars_train", folder / "cars_train") == [("00003.jpg", 1)]


def test_mat_files_of_another_structure(root):
    folder = write_cars(root)
    path = folder / "devkit/cars_train_annos.mat"
    path.write_bytes((folder / "devkit/cars_test_annos.mat").read_bytes())
    says = "'annotations' has the fields bbox_x1, bbox_y1, bbox_x2, bbox_y2, fname, and class"
    refused("stanford_cars_train", str(path), says, "cars_test_annos_withlabels.mat")
    savemat(path, {"annotations": np.arange(5)})
    refused("stanford_cars_train", "has the fields (none), and class and fname are needed")
    savemat(path, {"labels": np.arange(5)})
    refused("stanford_cars_train", f"{path} has the variables labels, and 'annotations' is needed")
    savemat(path, {"annotations": np.empty((0, 0))})
    refused("stanford_cars_train", f"{path}: 'annotations' is empty")
    for raw in (
        b"",
        b"<!DOCTYPE html>",
        b"\x89HDF\r\n\x1a\n" + bytes(200),
        path.read_bytes()[:150],
    ):
        path.write_bytes(raw)
        refused("stanford_cars_train", f"{path} is not a readable .mat file", "development kit")
    path.unlink()
    path.mkdir()
    refused("stanford_cars_train", f"{path}: it is a folder, not a file", error=UserError)


def test_a_name_that_is_no_text(root):
    folder = write_cars(root)
    path = folder / "devkit/cars_train_annos.mat"
    entries = loadmat(path)["annotations"]
    entries[0, 1]["fname"] = np.uint8(7)
    savemat(path, {"annotations": entries})
    refused("stanford_cars_train", f"{path}: fname holds '7', which is not text")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"annotations": None}, "gives no image a class: it has no 'annotations'"),
        ({"annotations": []}, "gives no image a class: it has no 'annotations'"),
        ({"categories": []}, "gives no image a class: it has no 'categories'"),
        ({"images": []}, "is not in COCO's format: it needs a list 'images'"),
    ],
)
def test_inaturalists_sections(root, change, says):
    content, path = change_json(write_inaturalist(root, 2018), 2018)
    path.write_text(json.dumps({**content, **change}))
    refused("inaturalist_2018_train", str(path), says)


def test_inaturalists_entries(root, caplog):
    content, path = change_json(write_inaturalist(root, 2018), 2018)

    def say(section, entry, *says, error=AnnotationError):
        changed = {**content, section: [*content[section][:-1], entry]}
        path.write_text(json.dumps(changed))
        refused("inaturalist_2018_train", str(path), *says, error=error)

    image, label = content["images"][-1], content["annotations"][-1]
    say(
        "annotations",
        {**label, "category_id": 99},
        "category ids that 'categories' does not list: 99",
    )
    say("annotations", {**label, "category_id": "x"}, "category_id '\"x\"' is not a whole number")
    say(
        "annotations",
        {**label, "image_id": 0},
        "has two classes for image '0', 0 and, in annot",
        ", 2:",
    )
    say(
        "images", {**image, "file_name": "../x.jpg"}, "the image '\"../x.jpg\"', which is not below"
    )
    say(
        "images", {**image, "file_name": "train_val2018/x.jpg"}, "1 of the 6 files", error=UserError
    )
    # A class needs no size. What loses one image is counted.
    del image["width"]
    content["annotations"] = content["annotations"][1:]
    path.write_text(json.dumps({**content, "annotations": content["annotations"] * 2}))
    assert len(pairs("inaturalist_2018_train", path.parent)) == 5
    assert "images without a class, left out: 1, such as 0" in caplog.text
