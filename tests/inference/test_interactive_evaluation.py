"""A protocol run from photos to a file; what it refuses."""

import json

import pytest

from rmae_d2.errors import UserError
from rmae_d2.inference import RegionPromptPredictor
from rmae_d2.inference.interactive_evaluation import evaluate_interactive, read_photo
from tests.helpers import write_coco


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    boxes = [(0, 10, 10, 60, 60), (0, 50, 40, 80, 70), (1, 20, 30, 70, 80)]
    return write_coco(tmp_path_factory.mktemp("photos"), boxes)


def test_clicks_are_the_same_every_time(make_run, photos, tmp_path):
    predictor = RegionPromptPredictor.from_files(make_run(), device="cpu")
    data = {"json_file": str(photos / "labels.json"), "root": str(photos), "max_objects": 2}
    reports = []
    for name in ("a", "b"):
        table = evaluate_interactive(predictor, tmp_path / name, protocol="clicks", **data)
        report = json.loads((tmp_path / name / "interactive_clicks.json").read_text())
        assert report.pop("seconds").keys() == report["methods"].keys()
        reports.append(report)
    assert reports[0] == reports[1] and reports[0]["objects"] == 2
    assert set(reports[0]["methods"]) == {
        "R-MAE",
        "R-MAE without the image's edges",
        "the image's edges without R-MAE",
        "random walker",
        "FH segments",
        "given patches only",
    }
    assert all(f"| {name} " in table for name in reports[0]["methods"])
    with pytest.raises(UserError, match="protocol='x': one of patches, clicks"):
        evaluate_interactive(predictor, tmp_path, protocol="x", **data)
    with pytest.raises(UserError, match="edges='model': give one with edges='image'"):
        evaluate_interactive(
            RegionPromptPredictor(predictor.model, edges="model"), tmp_path, **data
        )


def test_a_photo_of_another_size_than_its_masks(photos):
    # The loader looks at some photos only.
    sample = {"file_name": str(photos / "a.png"), "height": 121, "width": 160}
    with pytest.raises(UserError, match="has 120 x 160 pixels"):
        read_photo(sample)
