"""From photos to pictures and COCO results, with a small, random Mask R-CNN (ViTDet)."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import ExifTags, Image
from pycocotools.coco import COCO

from rmae_d2.config import apply_overrides, load_config, save_config
from rmae_d2.engine.predict_command import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/demo/vitdet_tiny_coco.py")
SMALL = [
    "train.device=cpu",
    "model.backbone.net.img_size=64",
    "model.backbone.net.pretrain_img_size=64",
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.depth=2",
    "model.backbone.net.num_heads=2",
    "model.backbone.out_channels=16",
    "model.roi_heads.box_head.conv_dims=[16]",
    "model.roi_heads.box_head.fc_dims=[32]",
    "model.roi_heads.mask_head.conv_dims=[16, 16]",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
    "model.roi_heads.box_predictor.test_topk_per_image=5",
]


def save_weights(path, *overrides):
    torch.manual_seed(1)
    cfg = apply_overrides(load_config(CONFIG), [*SMALL, *overrides])
    torch.save({"model": instantiate(cfg.model).state_dict()}, path)
    return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_weights(tmp_path_factory.mktemp("weights") / "model_final.pth")


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

    def run(given, output, *more, weights=weights, small=True):
        caplog.set_level(logging.INFO)
        given = [given] if isinstance(given, str | Path) else given
        return main(
            ["--config-file", CONFIG, "--weights", str(weights)]
            + ["--input", *map(str, given), "--output", str(output)]
            + [*more, *(SMALL if small else ())]
        )

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
    assert [i["file_name"] for i in images] == [
        str(photos / name) for name in ("a.jpg", "b.jpg", "more/a.png")
    ]
    # Upright: the second file's pixels are 40x50 (height x width).
    assert [(i["height"], i["width"]) for i in images] == [(48, 60), (50, 40), (44, 44)]
    for image in images:
        found = results.loadAnns(results.getAnnIds(image["id"]))
        assert len(found) == 5
        for detection in found:
            assert isinstance(detection["segmentation"]["counts"], str)
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
    weights = save_weights(tmp_path / "two.pth", *overrides)
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


def test_first_images_and_no_pictures(photos, tmp_path, predict):
    out = tmp_path / "out"
    assert predict(photos, out, "--max-images", "2", "--no-pictures") == 0
    assert files(out) == ["images.json", "predictions.json"]
    truth, _ = load(out)
    assert list(truth.imgs) == [1, 2] and "picture" not in truth.imgs[1]


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


def test_what_was_predicted_before_a_failure_is_written(photos, tmp_path, predict):
    out = tmp_path / "out"
    (out / "b.jpg").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        predict(photos, out)
    truth, results = load(out)
    assert list(truth.imgs) == [1, 2] and len(results.anns) == 10
    assert files(out) == ["a.jpg", "images.json", "predictions.json"]


def test_a_second_run_replaces_the_first(photos, tmp_path, predict):
    for count in (3, 1):
        assert predict(photos, tmp_path / "out", "--no-pictures", "--max-images", str(count)) == 0
        truth, results = load(tmp_path / "out")
        assert len(truth.imgs) == count and len(results.anns) == 5 * count


def test_the_config_that_training_saved(photos, tmp_path, weights):
    saved = tmp_path / "config.yaml"
    save_config(apply_overrides(load_config(CONFIG), SMALL), saved)
    line = ["--config-file", str(saved), "--weights", weights, "--output", str(tmp_path / "out")]
    assert main([*line, "--no-pictures", "--input", str(photos)]) == 0
    assert len(load(tmp_path / "out")[1].anns) == 15


def test_nothing_detected(photos, tmp_path, predict):
    unsure = "model.roi_heads.box_predictor.test_score_thresh=0.9"
    out = tmp_path / "out"
    assert predict(photos / "a.jpg", out, *SMALL, unsure, small=False) == 0
    assert json.loads((out / "predictions.json").read_text()) == []
    assert "a.jpg" in files(out)


def test_as_a_process_with_overrides_anywhere(photos, tmp_path, weights):
    line = [sys.executable, str(ROOT / "tools/predict.py"), "--config-file", CONFIG]
    line += [SMALL[0], "--weights", weights, "--output", "out", *SMALL[1:5]]
    line += ["--input", "photos/a.jpg", "photos/b.jpg", *SMALL[5:]]
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
    assert files(tmp_path / "out") == ["a.jpg", "b.jpg", "images.json", "predictions.json"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["model.roi_heads.num_clases=3"], "did you mean model.roi_heads.num_classes"),
        (["--input", "nowhere"], "there is no "),
        (["--input", "photos/a.jpg", "nokey=1"], "nokey"),
        (["--weights", "absent.pth"], "absent.pth: no such weight file"),
        (["--config-file", "absent.py"], "no config file absent.py"),
        (["--output", "photos/out"], "--output photos/out lies in --input photos"),
        (["--output", "photos/a.jpg/out", "--no-pictures"], "photos/a.jpg/out cannot be made"),
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


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--score-threshold", "50"], "--score-threshold: 50 is not between 0 and 1"),
        (["--max-images", "0"], "--max-images: 0 is not 1 or more"),
    ],
)
def test_wrong_options(photos, predict, capsys, more, says):
    with pytest.raises(SystemExit) as stopped:
        predict(photos, "out", *more)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
