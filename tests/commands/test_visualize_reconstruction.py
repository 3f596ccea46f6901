"""Reconstructions drawn of a run's own files."""

import shlex
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT, save_run


@pytest.fixture
def run(tmp_path):
    """A folder with a photo, and config and weights of a tiny R-MAE."""
    from skimage import data

    Image.fromarray(data.astronaut()[:120, :160]).save(tmp_path / "photo.png")
    overrides = [
        "model.backbone.net.img_size=32",
        "model.backbone.net.patch_size=8",
        "model.backbone.net.embed_dim=32",
        "model.backbone.net.depth=1",
        "model.backbone.net.num_heads=4",
        "model.pixel_decoder.dim=16",
        "model.pixel_decoder.depth=1",
        "train.device=cpu",
    ]
    save_run(tmp_path, *overrides, name="demo/rmae_tiny_scenes.py", tiny=False)
    return tmp_path


def test_a_photo(run, cli):
    command = ["visualize", "reconstruction", "--weights", run / "model_final.pth"]
    command += ["--input", run / "photo.png"]
    command += ["--output", run / "out", "--mask-ratio", "0.5", "0.75", "--max-regions", "1"]
    code, out, error = cli(*command)
    assert code == 0, error
    assert out.count("drawn: ") == 2
    assert np.asarray(Image.open(run / "out/photo.png")).shape[1] == 4 * 224 + 5 * 6
    # Two ratios of one photo.
    assert np.asarray(Image.open(run / "out/contact_sheet.png")).shape[1] == 7 * 160 + 8 * 6


def test_the_packages_weights_by_default(scene, shipped_alone, cli, tmp_path):
    code, out, error = cli("visualize", "reconstruction", "--input", "scene.png")
    assert code == 0, error
    names = ("scene.png", "contact_sheet.png")
    assert out == "".join(f"drawn: {tmp_path}/reconstructions/{name}\n" for name in names)
    assert Image.open("reconstructions/scene.png").width == 4 * 224 + 5 * 6


def test_what_make_demo_ends_with(run, shipped, cli, monkeypatch):
    """Its own words, in a folder where a run has been: below each other, a row for each model and image."""
    printed = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True)
    lines = printed.stdout.replace("\\\n", " ").splitlines()
    (line,) = (line for line in lines if "rmae-d2 visualize" in line)
    words = shlex.split(line)[1:]
    assert words[2:8] == [
        *("--weights", "output/demo/rmae_tiny_scenes/model_final.pth", "rmae-d2://rmae_scenes"),
        *("--names", "this short run", "shipped weights"),
    ]
    (run / "output/demo/rmae_tiny_scenes").mkdir(parents=True)
    for name in ("config.yaml", "model_final.pth"):
        (run / name).rename(run / "output/demo/rmae_tiny_scenes" / name)
    (run / "datasets/scenes/val").mkdir(parents=True)
    for name in "cdeab":
        shutil.copy(run / "photo.png", run / f"datasets/scenes/val/{name}.png")
    monkeypatch.chdir(run)
    code, out, error = cli(*words)
    assert code == 0, error
    drawn = [*(f"{name}.png" for name in "abcd"), "contact_sheet.png"]
    assert out == "".join(f"drawn: {run}/output/demo/beside_shipped/{name}\n" for name in drawn)
    sheet = Image.open("output/demo/beside_shipped/contact_sheet.png")
    assert sheet.width == 7 * 160 + 8 * 6
    assert sheet.height // (160 + 6 + 26) == 8  # pictures, gap and title of a row
