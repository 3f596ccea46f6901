"""A few predictions in one picture."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.errors import UserError
from rmae_d2.inference import prediction_sheet
from rmae_d2.inference.prediction_sheet import draw_few_predictions
from tests.helpers import small_detector, write_photos


@pytest.fixture
def files(tmp_path):
    return [str(path) for path in sorted(write_photos(tmp_path, 3).iterdir())]


def test_photos_beside_what_is_predicted(files):
    cfg = small_detector()
    torch.manual_seed(1)
    model = instantiate(cfg.model).eval()
    one, three = (
        draw_few_predictions(cfg, model, f, "dataloader.test") for f in (files[:1], files)
    )
    assert one.dtype == np.uint8 and one.shape[1] == three.shape[1] and len(three) > 2 * len(one)
    # The left is the photo, the right has objects on it, though none of a model of random weights is sure.
    photo, predicted = one[60:300, 6:406].astype(int), one[60:300, 412:812]
    assert (np.abs(photo - predicted).max(axis=2) > 50).sum() > 1000


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [([0.9, 0.8, 0.7, 0.6, 0.1], 0.5), ([0.9, 0.2, 0.1, 0.05], 0.1), ([0.3], 0.3), ([], 0.5)],
)
def test_at_least_the_best_three_are_drawn(monkeypatch, scores, threshold):
    drawn = []
    monkeypatch.setattr(prediction_sheet, "draw_instances", lambda *given: drawn.append(given))
    value = Instances((8, 8), pred_boxes=Boxes(torch.zeros(len(scores), 4)))
    value.scores = torch.tensor(scores)
    image = np.zeros((8, 8, 3), np.uint8)
    prediction_sheet._draw(small_detector(), "dataloader.test", image, value)
    ((_, _, classes, given),) = drawn
    assert given == pytest.approx(threshold) and len(classes) == 80


def test_pretraining_predicts_nothing(files):
    cfg = apply_overrides(get_config("demo/rmae_tiny_scenes.py"), ["train.device=cpu"])
    with pytest.raises(UserError):
        draw_few_predictions(cfg, instantiate(cfg.model), files, "dataloader.test")
