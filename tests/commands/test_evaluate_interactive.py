"""IoU curves from the command line: photos with masks, a small untrained model, both protocols."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from tests.helpers import save_run, write_coco

COMMAND = "evaluate-interactive"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Weights and config of a small R-MAE beside photos with two objects each."""
    folder = tmp_path_factory.mktemp("interactive")
    save_run(folder)
    boxes = [(i, *box) for i in (0, 1) for box in ((18, 14, 63, 62), (58, 43, 84, 64))]
    return write_coco(folder, boxes)


def test_a_curve_and_its_picture(cli, run, tmp_path):
    data = ("--json", run / "labels.json", "--root", run, "--output", tmp_path / "new/curves")
    chosen = ("--protocol", "patches", "--max-objects", 3, "--mask-ratio", 0.5, "--device", "cpu")
    code, output, _ = cli(COMMAND, "--weights", run / "model_final.pth", *data, *chosen)
    assert code == 0, output
    assert "| method | 0 | 1 | 2 | 3 | 5 | 10 | 20 |" in " ".join(output.split())
    report = json.loads((tmp_path / "new/curves/interactive_patches.json").read_text())
    assert report["objects"] == 3 and report["counts"] == list(range(21))
    assert report["predictor"] == {"resolution": "resize", "mask_ratio": 0.5, "seed": 0}
    curves = {name: values["mean_iou"] for name, values in report["methods"].items()}
    assert {"R-MAE", "R-MAE without the image's edges", "given patches only"} < set(curves)
    # All 16 patches are shown from count 16 on, at less than the photo's resolution.
    assert all(values[0] == 0 and values[20] == values[16] > 0.85 for values in curves.values())
    assert curves["R-MAE"][16] >= curves["given patches only"][16]
    picture = np.asarray(Image.open(tmp_path / "new/curves/interactive_patches.png"))
    assert picture.shape[0] > 300 and picture[..., :3].std() > 10


def test_one_line_for_what_is_wrong(cli, run, tmp_path):
    weights = ("--weights", run / "model_final.pth")
    for words, message in (
        ((*weights, "--json", tmp_path / "absent.json"), "absent.json"),
        (("--weights", tmp_path / "absent.pth", "--dataset", "scenes_val"), "absent.pth"),
        (weights, "error: no data set is named"),
    ):
        code, _, error = cli(COMMAND, *words)
        assert code == 1 and error.startswith("error: ") and message in error
    code, _, error = cli(COMMAND, *weights, "--max-objects", "0")
    assert code == 2 and "argument --max-objects: 0: 1 or more" in error


def test_the_packages_weights_by_default(cli, scene, shipped_alone, tmp_path):
    """One object of the scene, by its true mask."""
    mask = max(scene.masks, key=np.sum)
    rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
    outline = {"size": list(mask.shape), "counts": rle["counts"].decode()}
    where = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0}
    box = [float(side) for side in mask_util.toBbox(rle)]
    size = dict(zip(("height", "width"), mask.shape, strict=True))
    content = {
        "images": [{"id": 1, "file_name": "scene.png", **size}],
        "annotations": [{**where, "bbox": box, "area": int(mask.sum()), "segmentation": outline}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    Path("labels.json").write_text(json.dumps(content))
    words = ("--json", "labels.json", "--root", ".", "--protocol", "patches", "--device", "cpu")
    code, out, error = cli(COMMAND, *words)
    assert code == 0, error
    assert out.endswith(f"written: {tmp_path}/interactive\n")
    report = json.loads(Path("interactive/interactive_patches.json").read_text())
    assert report["weights"] == "rmae-d2://rmae_scenes"
    curves = {name: values["mean_iou"] for name, values in report["methods"].items()}
    # All patches but 44 of 64 are hidden at the end: what the model adds, it adds to what is shown.
    assert curves["R-MAE"][0] == 0 and curves["R-MAE"][20] > 0.1
