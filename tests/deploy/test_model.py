"""An exported model by itself: what it takes, and what it refuses."""

import numpy as np
import pytest

from rmae_d2.data import read_image
from rmae_d2.errors import ImageSizeError, UserError
from tests.helpers import ROOT


def test_a_segmentor_of_images_smaller_than_its_window(segmentor):
    from rmae_d2.deploy.model import ExportedModel

    model = ExportedModel(str(segmentor[1]))
    assert model.facts.size == (32, 32) and model.facts.stride == 16
    image = np.random.default_rng(0).integers(0, 256, (30, 600, 3), np.uint8)
    assert model.scores(image[:, :40].transpose(2, 0, 1)).shape == (150, 30, 40)
    labels = model(image)["sem_seg_labels"]
    assert labels.shape == (30, 600) and labels.min() >= 0 and labels.max() < 150


def test_a_detector(detector, small_photos):
    from rmae_d2.deploy.model import ExportedModel

    model = ExportedModel(str(detector[1]))
    assert model.facts.task == "detector" and len(model.facts.class_names) == 80
    found = model(read_image(small_photos / "photo00.jpg"))["instances"]
    assert len(found) == 5 and found.masks.shape == (5, 48, 60)
    assert (np.diff(found.scores) <= 0).all()
    with pytest.raises(ImageSizeError, match="1x5000 pixels"):
        model(np.zeros((1, 5000, 3), np.uint8))


def test_what_is_no_model_of_ours(encoder, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    from rmae_d2.deploy.model import ExportedModel

    with pytest.raises(UserError, match=r"absent\.onnx: no such file"):
        ExportedModel(str(tmp_path / "absent.onnx"))
    with pytest.raises(UserError, match=r"README\.md: not an ONNX file that runs here"):
        ExportedModel(str(ROOT / "README.md"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"other\.onnx: not exported by rmae_d2"):
        ExportedModel(str(tmp_path / "other.onnx"))
    with pytest.raises(UserError, match="an exported encoder draws nothing"):
        ExportedModel(str(encoder[1]))(np.zeros((32, 32, 3), np.uint8))
