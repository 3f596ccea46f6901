"""What is kept of detections and of class scores, from outputs made by hand."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from PIL import Image

from rmae_d2.config import get_config
from rmae_d2.errors import UserError
from rmae_d2.inference.prediction_outputs import InstanceOutput, SemanticOutput, output_of
from rmae_d2.photos.inputs import InputImage
from tests.helpers import small_detector


def instances(classes):
    found = Instances((40, 50))
    found.pred_boxes = Boxes(torch.tensor([[1.0, 2, 11, 32]] * len(classes)))
    found.scores = torch.linspace(0.9, 0.1, len(classes))
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return found


def input_image(image_id):
    return InputImage("photo.jpg", image_id, "photo.jpg", None)


def test_classes_of_model_and_data_must_agree(tmp_path):
    model = instantiate(small_detector("model.roi_heads.num_classes=12").model)
    with pytest.raises(UserError, match="the model has 12 classes, coco_2017_val has 80"):
        InstanceOutput(small_detector(), model, tmp_path, 0.5)
    assert not list(tmp_path.iterdir())
    output = InstanceOutput(small_detector(), torch.nn.Identity(), tmp_path, 0.5)
    output.add(input_image(1), instances([79]))
    with pytest.raises(UserError, match="at least 81 classes, coco_2017_val has 80"):
        output.add(input_image(2), instances([0, 80]))


def test_the_file_has_its_name_once_it_is_whole(tmp_path):
    output = InstanceOutput(small_detector(), torch.nn.Identity(), tmp_path, 0.95)
    output.add(input_image(7), instances([]))
    output.add(input_image(8), instances([11, 0]))
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    output.close()
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]
    assert "2 objects, 0 of them of score 0.95 or more: pictures show none" in output.summary
    first = (tmp_path / "predictions.json").read_text().splitlines()[1]
    assert '"image_id": 8, "category_id": 13, "bbox": [1.0, 2.0, 10.0, 30.0]' in first
    assert "segmentation" not in first


def test_scores_and_classes_of_pixels(tmp_path):
    output = SemanticOutput(get_config("demo/semantic_tiny_ade20k.py"), None, tmp_path)
    scores = torch.randn(150, 48, 60, generator=torch.Generator().manual_seed(0))
    assert output.add(input_image(1), scores) == {"labels": "labels/photo.png"}
    labels = np.asarray(Image.open(tmp_path / "labels/photo.png"))
    np.testing.assert_array_equal(labels, scores.argmax(dim=0) + 1)
    with pytest.raises(UserError, match="scores are nan"):
        output.add(input_image(2), scores.fill_(torch.nan))
    with pytest.raises(UserError, match=r"predicts class 150, the data have 150 \(0 to 149\)"):
        output.add(input_image(2), torch.full((48, 60), 150, dtype=torch.int32))


def test_outputs_it_does_not_know():
    assert output_of({"proposals": 0, "instances": 1}) == ("instances", InstanceOutput)
    with pytest.raises(UserError, match="the model gives loss_pixel; prediction knows instances"):
        output_of({"loss_pixel": 0})
