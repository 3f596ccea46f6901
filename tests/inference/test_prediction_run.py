"""`rmae-d2 predict` in this process: photos to pictures and results, with a small Mask R-CNN and UPerNet."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import ExifTags, Image
from pycocotools.coco import COCO

from rmae_d2 import commands
from rmae_d2.config import apply_overrides, load_config, save_config
from rmae_d2.data import build_eval_loader, read_image
from rmae_d2.data.datasets import semantic_classes, semantic_dataset
from rmae_d2.evaluation import SemSegEvaluator
from rmae_d2.inference import Predictor
from rmae_d2.visualization.semantic import class_palette
from tests.helpers import (
    DETECTOR,
    ROOT,
    SMALL_DETECTOR,
    SMALL_SEMANTIC,
    SPECIAL,
    put_special,
    save_random,
    small_detector,
)

CONFIG = str(ROOT / "configs" / DETECTOR)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random(small_detector(), tmp_path_factory.mktemp("weights") / "model_final.pth")


@pytest.fixture
def photos(tmp_path):
    """Two photos of different sizes, the second one lying on its side by EXIF, and one in a sub-folder."""
    from skimage import data

    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(data.astronaut()[:160, 40:240]).resize((60, 48)).save(folder / "a.jpg")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(data.coffee()[:160, :200]).resize((50, 40)).save(folder / "b.jpg", exif=turned)
    Image.fromarray(data.chelsea()[:160, :200]).resize((44, 44)).save(folder / "more/a.png")
    return folder


@pytest.fixture
def predict(weights, caplog):
    """The command in this process; its exit code."""

    def run(given, output, *more, weights=weights):
        caplog.set_level(logging.INFO)
        given = [given] if isinstance(given, str | Path) else given
        line = ["predict", "--config-file", CONFIG, "--weights", str(weights)]
        line += ["--input", *map(str, given), "--output", str(output), *more]
        return commands.run([*line, *SMALL_DETECTOR])

    return run


def load(output):
    """images.json and the results over it, as pycocotools reads them."""
    truth = COCO(str(output / "images.json"))
    return truth, truth.loadRes(str(output / "predictions.json"))


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_folder(photos, tmp_path, predict, caplog):
    out = tmp_path / "out/deeper"
    assert predict(photos, out, "--score-threshold", "0.0") == 0
    assert files(out) == ["a.jpg", "b.jpg", "images.json", "more/a.jpg", "predictions.json"]
    truth, results = load(out)
    images = truth.loadImgs([1, 2, 3])
    assert [i["picture"] for i in images] == ["a.jpg", "b.jpg", "more/a.jpg"]
    read = [str(photos / name) for name in ("a.jpg", "b.jpg", "more/a.png")]
    assert [i["file_name"] for i in images] == read
    # Upright: the second file's pixels are 40x50 (height x width).
    assert [(i["height"], i["width"]) for i in images] == [(48, 60), (50, 40), (44, 44)]
    for image in images:
        found = results.loadAnns(results.getAnnIds(image["id"]))
        assert len(found) == 5
        for detection in found:
            assert results.annToMask(detection).shape == (image["height"], image["width"])
            x, y, width, height = detection["bbox"]
            assert x >= 0 and y >= 0 and width > 0 and height > 0
            assert x + width <= image["width"] + 1e-3 and y + height <= image["height"] + 1e-3
        scores = [detection["score"] for detection in found]
        assert scores == sorted(scores, reverse=True)
    assert len(truth.cats) == 80 and truth.cats[13]["name"] == "stop sign"
    assert {a["category_id"] for a in results.anns.values()} <= truth.cats.keys()
    with Image.open(out / "b.jpg") as picture:
        assert picture.size == (200, 250)  # upright and enlarged
    for text in ("15 objects, 15 of them of score 0 or more", "3 images in", str(out)):
        assert text in caplog.text


def test_the_json_keeps_what_the_pictures_leave_out(photos, tmp_path, predict, caplog):
    assert predict(photos / "a.jpg", tmp_path / "sure") == 0
    assert predict(photos / "a.jpg", tmp_path / "unsure", "--score-threshold", "0") == 0
    sure, unsure = (
        json.loads((tmp_path / name / "predictions.json").read_text())
        for name in ("sure", "unsure")
    )
    assert sure == unsure and len(sure) == 5 and max(d["score"] for d in sure) < 0.5
    with Image.open(photos / "a.jpg") as photo:
        plain = np.asarray(photo.resize((300, 240)), float)
    drawn = [np.asarray(Image.open(tmp_path / n / "a.jpg"), float) for n in ("sure", "unsure")]
    differs = [np.abs(picture - plain).mean() for picture in drawn]
    assert differs[0] < differs[1] / 2
    assert "0 of them of score 0.5 or more: pictures show none" in caplog.text


def test_a_coco_json_keeps_its_ids(photos, tmp_path, predict, caplog):
    """Another way to the classes, too: from the json of own data, whose ids have a gap."""
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    images = [
        {"id": 900, "file_name": "b.jpg", "height": 50, "width": 40},
        {"id": 17, "file_name": "a.jpg", "height": 480, "width": 600},
    ]
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    overrides = ("model.roi_heads.num_classes=2", f"dataloader.test.dataset.json={own}")
    weights = save_random(small_detector(*overrides), tmp_path / "two.pth")
    out = tmp_path / "out"
    # The number of classes follows the json.
    assert predict(own, out, "--image-root", str(photos), overrides[1], weights=weights) == 0
    truth, results = load(out)
    assert list(truth.imgs) == [900, 17]
    assert {a["image_id"] for a in results.anns.values()} == {900, 17}
    assert {a["category_id"] for a in results.anns.values()} <= {3, 7}
    assert [c["name"] for c in truth.loadCats([3, 7])] == ["cat", "dog"]
    assert "1 images have another size than the json says, such as " in caplog.text
    assert len(COCO(str(own)).loadRes(str(out / "predictions.json")).anns) == 10


def test_unreadable_images_are_skipped_and_named(photos, tmp_path, predict, caplog, capsys):
    cut = photos / "cut.jpg"
    cut.write_bytes((photos / "a.jpg").read_bytes()[:300])
    Image.new("RGB", (5000, 1)).save(photos / "strip.png")
    out = tmp_path / "out"
    absent = photos / "absent.jpg"
    assert predict([cut, photos / "a.jpg", photos / "strip.png", absent], out) == 0
    assert f"skipped {cut}: it is damaged" in caplog.text
    assert f"skipped {photos / 'strip.png'}: 1x5000 pixels" in caplog.text
    assert f"skipped {absent}: there is no such file" in caplog.text
    assert "skipped 3 of 4 images, named above" in caplog.text
    assert list(load(out)[0].imgs) == [2]
    none = tmp_path / "none"
    assert predict([cut, absent], none) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: none of the 2 images can be predicted, such as ")
    assert str(cut) in error and len(error.splitlines()) == 1
    assert files(none) == []


@pytest.mark.parametrize("kind", SPECIAL[1:])
def test_what_is_no_file_is_skipped_and_named(photos, tmp_path, predict, caplog, kind):
    put_special(photos / "b.jpg", kind)
    assert predict([photos / "a.jpg", photos / "b.jpg"], tmp_path / "out") == 0
    assert f"skipped {photos / 'b.jpg'}: it is a {kind}, not a file" in caplog.text
    assert list(load(tmp_path / "out")[0].imgs) == [1]


@pytest.mark.parametrize("free, more", [("16k", []), ("4k", ["--no-pictures"])])
def test_a_full_disk(photos, predict, mount, capsys, free, more):
    disk = mount(free)
    assert predict(photos, disk / "out", *more) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: \S+: could not be written \(.*No space left.*\n", error), error
    assert not [name for name in files(disk) if not name.endswith(".jpg")]
    for name in files(disk):
        Image.open(disk / name).load()
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert predict(photos, disk / "out", *more) == 0
    assert len(load(disk / "out")[1].anns) == 15


def test_a_full_disk_of_labels(photos, segment, mount, capsys):
    disk = mount("4k")
    assert segment(photos, disk / "out") == 1
    assert "could not be written" in capsys.readouterr().err
    assert not list(disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert segment(photos, disk / "out") == 0
    assert labels_in(disk / "out").shape == (48, 60)


def test_what_was_predicted_before_a_failure_is_written(photos, tmp_path, predict, capsys):
    out = tmp_path / "out"
    (out / "b.jpg").mkdir(parents=True)
    assert predict(photos, out) == 1
    assert f"error: {out / 'b.jpg'}: could not be written" in capsys.readouterr().err
    truth, results = load(out)
    assert list(truth.imgs) == [1, 2] and len(results.anns) == 10
    assert files(out) == ["a.jpg", "images.json", "predictions.json"]


def test_first_images_and_no_pictures(photos, tmp_path, predict):
    """A second run replaces the first."""
    out = tmp_path / "out"
    for count in (3, 2):
        assert predict(photos, out, "--max-images", str(count), "--no-pictures") == 0
        assert files(out) == ["images.json", "predictions.json"]
        truth, results = load(out)
        assert [*truth.imgs] == [1, 2, 3][:count] and len(results.anns) == 5 * count
        assert "picture" not in truth.imgs[1]


def test_the_config_that_training_saved(photos, tmp_path, weights):
    saved = tmp_path / "config.yaml"
    save_config(small_detector(), saved)
    line = ["--config-file", str(saved), "--weights", weights, "--output", str(tmp_path / "out")]
    assert commands.run(["predict", *line, "--no-pictures", "--input", str(photos)]) == 0
    assert len(load(tmp_path / "out")[1].anns) == 15


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["model.roi_heads.num_clases=3"], "did you mean model.roi_heads.num_classes"),
        (["--input", "nowhere"], "there is no "),
        (["--input", "photos/a.jpg", "nokey=1"], "nokey"),
        (["--weights", "absent.pth"], "absent.pth: no such weight file"),
        (["--config-file", "absent.py"], "no config file absent.py"),
        (["--output", "photos/out"], "--output photos/out lies in --input photos"),
        (
            ["--output", "photos/a.jpg/out", "--no-pictures"],
            "photos/a.jpg is a file, where a folder is needed",
        ),
        (["dataloader.test.dataset.names=lvis_v1_val"], "80 classes, lvis_v1_val has 1203"),
        (["dataloader.test.dataset.json=absent.json"], "absent.json"),
    ],
)
def test_errors(photos, tmp_path, predict, monkeypatch, capsys, more, says):
    monkeypatch.chdir(tmp_path)
    assert predict("photos", "out", *more) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and "Traceback" not in error
    assert not (tmp_path / "out/predictions.json").exists()


# --- semantic segmentation

SEMANTIC = str(ROOT / "configs/demo/semantic_tiny_ade20k.py")
ON_CPU = ["train.device=cpu", "model.backbone.net.pretrain_img_size=32", *SMALL_SEMANTIC]


def semantic_config(*overrides):
    return apply_overrides(load_config(SEMANTIC), [*ON_CPU, *overrides])


def save_semantic_weights(path, *overrides, scale=30.0):
    """Random weights, the last layer's enlarged, so that classes differ from place to place."""
    torch.manual_seed(1)
    state = instantiate(semantic_config(*overrides).model).state_dict()
    state["sem_seg_head.predictor.weight"] *= scale
    torch.save({"model": state}, path)
    return str(path)


@pytest.fixture(scope="module")
def semantic_weights(tmp_path_factory):
    return save_semantic_weights(tmp_path_factory.mktemp("semantic") / "model_final.pth")


@pytest.fixture
def segment(semantic_weights, caplog):
    """The command with a config of semantic segmentation; its exit code."""

    def run(given, output, *more, weights=semantic_weights, config=SEMANTIC):
        caplog.set_level(logging.INFO)
        small = ON_CPU if config == SEMANTIC else ()
        line = ["predict", "--config-file", str(config), "--weights", str(weights)]
        line += ["--input", str(given), "--output", str(output)]
        return commands.run([*line, *more, *small])

    return run


def labels_in(folder, name="a.png"):
    with Image.open(folder / "labels" / name) as image:
        assert image.mode == "L"
        return np.array(image)


def numbers_of(photo, weights, *overrides):
    """The model's class numbers, by its scores."""
    cfg = semantic_config(*overrides)
    return Predictor(cfg, weights)(read_image(photo))["sem_seg"].argmax(dim=0).numpy()


def test_classes_of_a_folder(photos, tmp_path, segment, semantic_weights, caplog):
    """Values are the official release's, 1 to 150, where the data are not there either."""
    out = tmp_path / "out"
    assert segment(photos, out) == 0
    pictures = ["a.jpg", "b.jpg", "more/a.jpg"]
    labels = ["labels/a.png", "labels/b.png", "labels/more/a.png"]
    assert files(out) == sorted(["images.json", *pictures, *labels])
    truth = COCO(str(out / "images.json"))
    assert [image["picture"] for image in truth.imgs.values()] == pictures
    assert [image["labels"] for image in truth.imgs.values()] == labels
    assert list(truth.cats) == list(range(1, 151))
    names = semantic_classes("ade20k_sem_seg_val")
    assert [category["name"] for category in truth.cats.values()] == list(names)
    for path, name in (("a.jpg", "a.png"), ("b.jpg", "b.png"), ("more/a.png", "more/a.png")):
        found, expected = labels_in(out, name), numbers_of(photos / path, semantic_weights)
        np.testing.assert_array_equal(found, expected + 1)
        assert found.dtype == np.uint8 and len(np.unique(found)) > 1
    assert labels_in(out, "b.png").shape == (50, 40)  # upright
    # The photo, five times as large, and the legend beside it, in the colours of its classes.
    with Image.open(out / "a.jpg") as picture:
        assert picture.height == 240 and picture.width > 350
        legend = np.asarray(picture, int)[:, 300:].reshape(-1, 3)
    for number in np.unique(labels_in(out) - 1):
        assert np.abs(legend - class_palette()[number]).sum(axis=1).min() < 60  # but for JPEG
    assert "labels/*.png: values 1 to 150 for the classes; most pixels: " in caplog.text


@pytest.mark.parametrize("zero_is_ignored", [False, True])
def test_labels_are_what_training_reads(
    photos, tmp_path, segment, semantic_weights, zero_is_ignored
):
    """Taken as ground truth, they agree with the model in every pixel."""
    shifted = f"zero_is_ignored={str(zero_is_ignored).lower()}"
    data = [f"dataloader.test.dataset.{x}" for x in (f"images={photos}", "labels=/none", shifted)]
    out = tmp_path / "out"
    assert segment(photos, out, *data, "--no-pictures") == 0
    own = {"images": str(photos), "num_classes": 150}
    dicts = semantic_dataset(**own, labels=str(out / "labels"), zero_is_ignored=zero_is_ignored)
    cfg = semantic_config()
    evaluator = SemSegEvaluator(**own, zero_is_ignored=zero_is_ignored)
    loader = build_eval_loader(dicts, instantiate(cfg.dataloader.test.mapper), num_workers=0)
    model = Predictor(cfg, semantic_weights).model
    for batch in loader:
        evaluator.process(batch, model(batch))
    results = evaluator.evaluate()["sem_seg"]
    assert results["pACC"] == 100
    first = int(zero_is_ignored)
    categories = json.loads((out / "images.json").read_text())["categories"]
    assert categories == [{"id": k, "name": str(k)} for k in range(first, first + 150)]
    assert all(f"IoU-{category['name']}" in results for category in categories)


@pytest.mark.slow
def test_values_of_the_folder_that_detectron2_converted(photos, tmp_path, semantic_weights):
    """A process, for the data sets' folder is fixed when Detectron2 is imported."""
    data = tmp_path / "data/ADEChallengeData2016"
    line = [sys.executable, "-m", "rmae_d2", "predict", "--config-file", SEMANTIC]
    line += ["--weights", semantic_weights, "--input", str(photos / "a.jpg"), "--no-pictures"]
    env = {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "DETECTRON2_DATASETS": str(data.parent),
    }
    (data / "images/validation").mkdir(parents=True)
    for kind, first in (("annotations_detectron2", 0), ("annotations", 1)):
        (data / kind / "validation").mkdir(parents=True)
        result = subprocess.run(
            [*line, "--output", str(tmp_path / kind), *ON_CPU],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        expected = numbers_of(photos / "a.jpg", semantic_weights)
        np.testing.assert_array_equal(labels_in(tmp_path / kind), expected + first)
        categories = json.loads((tmp_path / kind / "images.json").read_text())["categories"]
        assert categories[0] == {"id": first, "name": "wall"}


def test_own_data_without_others_for_testing(photos, tmp_path, segment):
    """The config that such a training saves still names ADE20K for testing."""
    train = [
        f"dataloader.train.dataset.{x}"
        for x in ("images=/own", "labels=/own_labels", "zero_is_ignored=true")
    ]
    seven = "model.sem_seg_head.num_classes=7"
    weights = save_semantic_weights(tmp_path / "seven.pth", seven)
    saved = tmp_path / "config.yaml"
    save_config(semantic_config(*train, seven), saved)
    out = tmp_path / "out"
    assert segment(photos / "a.jpg", out, weights=weights, config=saved) == 0
    categories = json.loads((out / "images.json").read_text())["categories"]
    assert [category["id"] for category in categories] == list(range(1, 8))
    assert set(np.unique(labels_in(out))) <= set(range(1, 8))
    # As from the recipe, with the overrides of that training.
    given = [*train, "dataloader.train.dataset.num_classes=7"]
    assert segment(photos / "a.jpg", tmp_path / "again", *given, weights=weights) == 0
    np.testing.assert_array_equal(labels_in(tmp_path / "again"), labels_in(out))


def test_several_scales_are_made_as_in_evaluation(photos, tmp_path, segment, semantic_weights):
    views = ["model.multi_scale.scales=[0.5,1.0,1.5]", "model.multi_scale.flip=true"]
    out = tmp_path / "out"
    assert segment(photos / "b.jpg", out, *views) == 0
    cfg = semantic_config(*views)
    sample = instantiate(cfg.dataloader.test.mapper)({"file_name": str(photos / "b.jpg")})
    assert "original" in sample
    with torch.no_grad():
        (expected,) = Predictor(cfg, semantic_weights).model([sample])
    np.testing.assert_array_equal(labels_in(out, "b.png"), expected["sem_seg"].argmax(dim=0) + 1)


NINE = "model.sem_seg_head.num_classes=9"
DATA = "dataloader.test.dataset"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--output", "photos/out", "--no-pictures"], "--output photos/out lies in --input photos"),
        ([NINE], "the model has 9 classes, ade20k_sem_seg_val has 150"),
        ([f"{DATA}.names=coco_2017_val"], "coco_2017_val has no semantic labels"),
        (
            [f"{DATA}.images=/own", f"{DATA}.num_classes=7", NINE],
            "=9 contradicts /own, which has 7",
        ),
    ],
)
def test_semantic_errors(photos, tmp_path, segment, monkeypatch, capsys, more, says):
    monkeypatch.chdir(tmp_path)
    weights = [more[0]] if "head.num_classes" in more[0] else []
    weights = save_semantic_weights(tmp_path / "model.pth", *weights)
    assert segment("photos", "out", *more, weights=weights) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and "Traceback" not in error
    assert not (tmp_path / "out/images.json").exists()
