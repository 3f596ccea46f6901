"""The command's options, and the whole of it as a process."""

import os
import subprocess
import sys

import pytest

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
