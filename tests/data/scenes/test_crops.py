"""Single objects cut from scenes: square, alone, in the folder of their class."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from rmae_d2.data.datasets import class_names, classification_dataset
from rmae_d2.data.scenes.crops import single_objects, write_crops
from rmae_d2.data.scenes.dataset import write_scenes
from rmae_d2.data.scenes.render import THING_CLASSES
from rmae_d2.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
SPLITS = {"train": 40, "val": 20}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    assert write_scenes(folder, num_train=SPLITS["train"], num_val=SPLITS["val"], seed=5, workers=2)
    return folder


@pytest.fixture(scope="module")
def crops(scenes):
    folder = scenes.parent / "crops"
    counts = write_crops(scenes, folder)
    assert counts == {s: len(list((folder / s).rglob("*.jpg"))) for s in SPLITS}
    assert all(counts[split] > number for split, number in SPLITS.items())
    return folder


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_loader_reads_them(crops):
    assert class_names(crops) == sorted(THING_CLASSES)
    dicts = classification_dataset(crops, "train", num_classes=len(THING_CLASSES))
    assert len(dicts) == len(list((crops / "train").rglob("*.jpg")))


@pytest.mark.parametrize("split", SPLITS)
def test_crops_show_the_annotated_object(scenes, crops, split):
    coco = COCO(str(scenes / f"annotations/instances_{split}.json"))
    by_image = {number: coco.loadAnns(coco.getAnnIds(imgIds=[number])) for number in coco.imgs}
    cut = set()
    for path in (crops / split).rglob("*.jpg"):
        image_name, number = path.stem.split("_")
        objects, image = by_image[int(image_name)], coco.imgs[int(image_name)]
        own = objects[int(number)]
        assert coco.cats[own["category_id"]]["name"] == path.parent.name
        found = dict(single_objects(objects, image["height"], image["width"]))
        left, top, right, bottom = found[int(number)]
        assert right - left == bottom - top >= 32
        assert left >= 0 and right <= image["width"] and top >= 0 and bottom <= image["height"]
        with Image.open(scenes / split / image["file_name"]) as picture, Image.open(path) as crop:
            assert crop.size == (right - left, bottom - top)
            part = np.asarray(picture, np.float64)[top:bottom, left:right]
            assert np.abs(part - np.asarray(crop)).mean() < 6  # JPEG
        masks = [coco.annToMask(x)[top:bottom, left:right].sum() for x in objects]
        assert masks[int(number)] * 3 >= 2 * sum(masks)
        # All of the object, but where it is longer than the image's shorter side.
        if max(own["bbox"][2:]) <= min(image["height"], image["width"]):
            assert masks[int(number)] == own["area"]
        cut.add((int(image_name), int(number)))
    # Nothing that qualifies is left out, and not everything qualifies.
    expected = {
        (i, number)
        for i, objects in by_image.items()
        for number, _ in single_objects(objects, coco.imgs[i]["height"], coco.imgs[i]["width"])
    }
    assert cut == expected and len(cut) < len(coco.anns)


def test_an_image_without_objects_gives_none():
    assert not list(single_objects([], 64, 80))


def test_again_and_elsewhere(scenes, crops, tmp_path):
    before = digests(crops)
    assert write_crops(scenes, crops) == {}
    write_crops(scenes, tmp_path / "crops")
    assert digests(tmp_path / "crops") == digests(crops) == before


def test_what_is_refused(scenes, crops, tmp_path):
    with pytest.raises(UserError, match=r"no complete scenes.*rmae-d2 scenes --output"):
        write_crops(tmp_path / "nothing", tmp_path / "crops")
    assert not (tmp_path / "crops").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="choose another output"):
        write_crops(scenes, tmp_path / "mine")
    write_scenes(tmp_path / "other", num_train=2, num_val=1, seed=6, workers=1)
    with pytest.raises(UserError, match="other than the crops of these scenes"):
        write_crops(tmp_path / "other", crops)


@pytest.mark.slow
def test_the_command_line(tmp_path):
    command = [sys.executable, "-m", "rmae_d2", "scenes", "--output", str(tmp_path / "s")]
    command += ["--num-train", "3", "--num-val", "2", "--workers", "1"]
    subprocess.run([*command, "--crops", str(tmp_path / "c")], check=True)
    assert json.loads((tmp_path / "c/crops.json").read_text())["num_train"] == 3
    assert list((tmp_path / "c/train").rglob("*.jpg"))
    again = subprocess.run([*command, "--crops", str(tmp_path / "s")], capture_output=True)
    assert again.returncode == 1 and b"error: " in again.stderr
