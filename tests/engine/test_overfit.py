"""The whole path learns: sixteen real photos, from random weights to a mask AP above 50.

Some 6.5 minutes of one CPU core.
"""

import json
from pathlib import Path

import pytest

CONFIG = Path(__file__).resolve().parents[2] / "configs/demo/vitdet_overfit_coco16.py"


@pytest.fixture
def sixteen_photos(shared_data, tmp_path):
    """A json of the first sixteen annotated photos of COCO's training set, and their folder."""
    whole = json.loads((shared_data / "coco/annotations/instances_train2017.json").read_text())
    annotated = {annotation["image_id"] for annotation in whole["annotations"]}
    images = [image for image in whole["images"] if image["id"] in annotated]
    images = sorted(images, key=lambda image: image["id"])[:16]
    chosen = {image["id"] for image in images}
    annotations = [a for a in whole["annotations"] if a["image_id"] in chosen]
    path = tmp_path / "coco16.json"
    path.write_text(json.dumps({**whole, "images": images, "annotations": annotations}))
    return path, shared_data / "coco/train2017"


@pytest.mark.slow
def test_sixteen_real_photos_are_learnt_by_heart(sixteen_photos, runs, tmp_path):
    file, folder = sixteen_photos
    results = runs.train(
        tmp_path / "run",
        f"dataloader.train.dataset.json={file}",
        f"dataloader.train.dataset.root={folder}",
        config=CONFIG,
        tiny=False,
    )
    assert results["segm"]["AP"] > 50
    assert results["bbox"]["AP"] > 50
