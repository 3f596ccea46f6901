"""The command's options, and the whole of it as a process."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.helpers import DETECTOR, SMALL_DETECTOR, save_random, small_detector


def test_as_a_process_with_overrides_anywhere(tmp_path, make_photos):
    make_photos(tmp_path / "photos", 2)
    weights = save_random(small_detector(), tmp_path / "model_final.pth")
    line = [sys.executable, "-m", "rmae_d2", "predict", "--config-file", DETECTOR]
    line += [SMALL_DETECTOR[0], "--weights", weights, "--output", "out", *SMALL_DETECTOR[1:5]]
    line += ["--input", "photos/photo00.jpg", "photos/photo01.jpg", *SMALL_DETECTOR[5:]]
    result = subprocess.run(
        line,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "10 objects" in result.stderr
    written = {"images.json", "photo00.jpg", "photo01.jpg", "predictions.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == written


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--score-threshold", "50"], "argument --score-threshold: 50: 0 or more and at most 1"),
        (["--max-images", "0"], "argument --max-images: 0: 1 or more"),
    ],
)
def test_wrong_options(cli, more, says):
    files = (
        "--config-file",
        DETECTOR,
        "--weights",
        "x.pth",
        "--input",
        "photos",
        "--output",
        "out",
    )
    code, _, error = cli("predict", *files, *more)
    assert code == 2 and says in error


def test_proposals(cli, scene, tmp_path):
    """COCO results that pycocotools loads, of one class; settings of the source; pictures."""
    words = ("--proposals", "--weights", "rmae-d2://rmae_scenes", "--input", "scene.png")
    code, _, error = cli("predict", *words, "--output", "out", "points_per_side=4", "device=cpu")
    assert code == 0, error
    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO("out/images.json").loadRes("out/predictions.json").dataset["annotations"]
    assert 3 < len(found) <= 16 and {each["category_id"] for each in found} == {1}
    scores = [each["score"] for each in found]
    assert scores == sorted(scores, reverse=True)
    for each in found:
        y, x = np.nonzero(mask_util.decode(each["segmentation"]))
        box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
        assert each["bbox"] == box
    assert np.asarray(Image.open("out/scene.jpg")).std() > 10
    assert json.loads(Path("out/images.json").read_text())["info"]["points_per_side"] == "4"


def test_proposals_say_what_is_wrong(cli, scene, tmp_path):
    words = ("--proposals", "--input", "scene.png", "--output", "out")
    weights = ("--weights", "rmae-d2://rmae_scenes")
    for more, message in (
        ((*weights, "--config-file", DETECTOR), "leave out --config-file"),
        ((*weights, "points=4"), "points: unknown key; known are"),
        ((*weights, "weights=other.pth"), "weights: named by --weights"),
        ((*weights, "max_overlap=2"), "max_overlap=2.0 must be from 0 to 1"),
        (("--weights", "absent.pth"), "absent.pth"),
    ):
        code, _, error = cli("predict", *words, *more)
        assert code == 1 and message in error, error
    assert not Path("out").exists()
