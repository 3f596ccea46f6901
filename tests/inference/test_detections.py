"""Predictions as the real package's Detections."""

import numpy as np
import pytest
import torch

import rmae_d2
from rmae_d2.data import read_image
from rmae_d2.errors import UserError
from rmae_d2.inference import Predictor
from tests.helpers import save_random, small_detector

sv = pytest.importorskip("supervision")


def test_a_detectors(tmp_path, make_photos):
    cfg = small_detector()
    predictor = Predictor(cfg, save_random(cfg, tmp_path / "model_final.pth"))
    image = read_image(make_photos(tmp_path / "photos", 1) / "photo00.jpg")
    predicted = predictor(image)
    instances = predicted["instances"]
    names = [f"class {k}" for k in range(80)]
    for given in (predicted, instances):
        found = rmae_d2.detections(given, names)
        assert isinstance(found, sv.Detections) and len(found) == 5
        np.testing.assert_array_equal(found.xyxy, instances.pred_boxes.tensor)
        np.testing.assert_array_equal(found.mask, instances.pred_masks)
        np.testing.assert_array_equal(found.confidence, instances.scores)
        np.testing.assert_array_equal(found.class_id, instances.pred_classes)
        assert found["class_name"].tolist() == [names[k] for k in instances.pred_classes]
    drawn = sv.MaskAnnotator().annotate(image.copy(), found)
    assert drawn.shape == image.shape and (drawn != image).any() == bool(found.mask.any())
    assert "class_name" not in rmae_d2.detections(predicted).data


def test_a_segmentors():
    labels = torch.tensor([[0, 0, 3], [0, 5, 3]])
    scores = torch.nn.functional.one_hot(labels, 7).permute(2, 0, 1).float()
    for given in ({"sem_seg_labels": labels}, {"sem_seg": scores}):
        found = rmae_d2.detections(given, "abcdefg")
        assert found.class_id.tolist() == [0, 3, 5] and found.confidence is None
        assert found["class_name"].tolist() == ["a", "d", "f"]
        np.testing.assert_array_equal(found.mask, [labels == k for k in (0, 3, 5)])
        assert found.xyxy.tolist() == [[0, 0, 1, 1], [2, 0, 2, 1], [1, 1, 1, 1]]


def test_nothing_found_and_what_is_none():
    from detectron2.structures import Boxes, Instances

    none = {"pred_boxes": Boxes(torch.zeros(0, 4)), "scores": torch.zeros(0)}
    none["pred_classes"] = torch.zeros(0, dtype=torch.int64)
    assert len(rmae_d2.detections({"instances": Instances((4, 4), **none)}, ["a"])) == 0
    for wrong in ({"logits": torch.zeros(3)}, [1], {}):
        with pytest.raises(UserError, match="detections takes instances"):
            rmae_d2.detections(wrong)
