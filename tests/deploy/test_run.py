"""`rmae-d2 predict` with an exported model: the same files as with the weights, without Detectron2."""

import json
import os
import subprocess
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from rmae_d2 import commands
from tests.helpers import ROOT

#: Python imports a module of this name by itself; here it makes imports fail.
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("detectron2", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="session")
def predict_without(tmp_path_factory):
    """The command in a process that can import neither Detectron2 nor torch; what it logs."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "sitecustomize.py").write_text(WITHOUT)
    env = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}

    def run(*words):
        line = [sys.executable, "-m", "rmae_d2", "predict", *map(str, words)]
        done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


def test_detections(detector, small_photos, tmp_path, predict_without):
    weights, exported, said = detector
    assert "detector of " in said and "15 objects" in said and "objects of one alone 0" in said
    photos = ["--input", str(small_photos)]
    line = ["predict", "--weights", str(weights), "--no-pictures", "--output", str(tmp_path / "a")]
    assert commands.run([*line, *photos]) == 0
    log = predict_without("--weights", exported, "--output", tmp_path / "b", *photos)
    assert "no pictures: those of objects are drawn by Detectron2" in log and "15 objects" in log
    a, b = (read(tmp_path / x) for x in "ab")
    assert a["images"] == b["images"] and a["categories"] == b["categories"]
    assert len(a["predictions"]) == len(b["predictions"]) == 15
    for one, other in zip(a["predictions"], b["predictions"], strict=True):
        assert list(one) == list(other)
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=0.1)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        rles = [x["segmentation"] for x in (one, other)]
        assert mask_util.iou(rles[:1], rles[1:], [0])[0, 0] > 0.99 or not mask_util.area(rles[0])


def read(folder):
    content = json.loads((folder / "images.json").read_text())
    return content | {"predictions": json.loads((folder / "predictions.json").read_text())}


def test_pictures_where_detectron2_is(detector, small_photos, tmp_path):
    line = ["predict", "--weights", str(detector[1]), "--score-threshold", "0"]
    line += ["--input", str(small_photos / "photo00.jpg"), "--output", str(tmp_path)]
    assert commands.run(line) == 0
    with Image.open(tmp_path / "photo00.jpg") as picture:
        assert picture.size == (300, 240)
    assert read(tmp_path)["images"][0]["picture"] == "photo00.jpg"


def test_labels(segmentor, small_photos, tmp_path, predict_without):
    weights, exported, said = segmentor
    assert "segmentor of " in said and "pixels of another class 0 " in said
    photos = ["--input", str(small_photos)]
    line = ["predict", "--weights", str(weights), "--output", str(tmp_path / "a"), *photos]
    assert commands.run(line) == 0
    predict_without("--weights", exported, "--output", tmp_path / "b", *photos)
    a, b = (json.loads((tmp_path / x / "images.json").read_text()) for x in "ab")
    assert a["images"] == b["images"] and a["categories"] == b["categories"]
    for image in a["images"]:
        one, other = (np.asarray(Image.open(tmp_path / x / image["labels"])) for x in "ab")
        assert (one == other).mean() > 0.999 and len(np.unique(one)) > 1
        assert (tmp_path / "b" / image["picture"]).is_file()


def test_settings_are_in_the_file(detector, small_photos, tmp_path, capsys):
    line = ["predict", "--weights", str(detector[1]), "--input", str(small_photos)]
    line += ["--output", str(tmp_path)]
    assert commands.run([*line, "train.device=cpu"]) == 1
    assert "holds all its settings: leave out train.device=cpu" in capsys.readouterr().err
    assert commands.run([*line, "--config-file", "coco/mask_rcnn_vitdet_b_100ep.py"]) == 1
    assert "leave out --config-file" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
