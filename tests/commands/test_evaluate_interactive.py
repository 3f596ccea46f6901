"""IoU curves from the command line: photos with masks, a small untrained model, both protocols."""

import json

import numpy as np
import pytest
from PIL import Image

from rmae_d2.errors import UserError
from rmae_d2.inference import RegionPromptPredictor
from rmae_d2.inference.interactive_evaluation import evaluate_interactive, read_photo
from tests.helpers import write_run

COMMAND = "evaluate-interactive"
SIZES = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Weights and config of a small R-MAE beside photos with two objects each."""
    from skimage import data

    folder = tmp_path_factory.mktemp("interactive")
    images, annotations = [], []
    for i, photo in enumerate((data.astronaut(), data.coffee())):
        Image.fromarray(photo[100:160, 180:260]).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 60, "width": 80})
        for j, (x, y, w, h) in enumerate(((8, 6, 32, 30), (28, 20, 40, 36))):
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                {"id": 2 * i + j + 1, "image_id": i, "category_id": 1, "bbox": [x, y, w, h]}
                | {"segmentation": [polygon], "area": w * h, "iscrowd": 0}
            )
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "thing"}]
    (folder / "things.json").write_text(json.dumps(content))
    overrides = [f"model.backbone.net.{key}={value}" for key, value in SIZES.items()]
    write_run(folder, "demo/rmae_tiny_scenes.py", overrides)
    return folder


def test_a_curve_and_its_picture(cli, run, tmp_path):
    code, output, _ = cli(
        *(COMMAND, "--weights", run / "model.pth", "--json", run / "things.json", "--root", run),
        *("--protocol", "patches", "--max-objects", 3, "--mask-ratio", 0.5, "--device", "cpu"),
        *("--output", tmp_path / "new/curves"),
    )
    assert code == 0, output
    assert "| method | 0 | 1 | 2 | 3 | 5 | 10 | 20 |" in " ".join(output.split())
    report = json.loads((tmp_path / "new/curves/interactive_patches.json").read_text())
    assert report["objects"] == 3 and report["counts"] == list(range(21))
    assert report["predictor"] == {"resolution": "resize", "mask_ratio": 0.5, "seed": 0}
    curves = {name: values["mean_iou"] for name, values in report["methods"].items()}
    assert set(curves) == {"R-MAE", "random walker", "FH segments", "given patches only"}
    # All 16 patches are shown from count 16 on, at less than the photo's resolution.
    assert all(values[0] == 0 and values[20] == values[16] > 0.9 for values in curves.values())
    assert curves["R-MAE"][16] >= curves["given patches only"][16]
    picture = np.asarray(Image.open(tmp_path / "new/curves/interactive_patches.png"))
    assert picture.shape[0] > 300 and picture[..., :3].std() > 10


def test_clicks_are_the_same_every_time(run, tmp_path):
    reports = []
    for name in ("a", "b"):
        predictor = RegionPromptPredictor.from_files(run / "model.pth", device="cpu")
        evaluate_interactive(
            predictor,
            tmp_path / name,
            json_file=str(run / "things.json"),
            root=str(run),
            protocol="clicks",
            max_objects=2,
        )
        report = json.loads((tmp_path / name / "interactive_clicks.json").read_text())
        report.pop("seconds")
        reports.append(report)
    assert reports[0] == reports[1]
    assert "R-MAE, corners outside" in reports[0]["methods"]


def test_a_photo_of_another_size_than_its_masks(run):
    # The loader looks at some photos only.
    sample = {"file_name": str(run / "0.png"), "height": 61, "width": 80}
    with pytest.raises(UserError, match="has 60 x 80 pixels"):
        read_photo(sample)


def test_one_line_for_what_is_wrong(cli, run, tmp_path):
    weights = ("--weights", run / "model.pth")
    for words, message in (
        ((*weights, "--json", tmp_path / "absent.json"), "absent.json"),
        (("--weights", tmp_path / "absent.pth", "--dataset", "scenes_val"), "absent.pth"),
        (weights, "error: which data?"),
    ):
        code, _, error = cli(COMMAND, *words)
        assert code == 1 and error.startswith("error: ") and message in error
    code, _, error = cli(COMMAND, *weights, "--max-objects", "0")
    assert code == 2 and "--max-objects 0: one or more" in error
