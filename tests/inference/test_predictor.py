"""One image through a small, random Mask R-CNN (ViTDet): the same as evaluation gives."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from rmae_d2.config import get_config
from rmae_d2.data import read_image
from rmae_d2.errors import CheckpointError, ImageSizeError, UserError
from rmae_d2.inference import Predictor
from tests.helpers import save_random
from tests.helpers import small_detector as config


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random(config(), tmp_path_factory.mktemp("weights") / "model_final.pth")


@pytest.fixture(scope="module")
def photo(make_photos, tmp_path_factory):
    return str(make_photos(tmp_path_factory.mktemp("photos"), 1) / "photo00.jpg")


def assert_same_instances(a, b):
    assert len(a) == len(b) > 0 and a.image_size == b.image_size
    assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    for field in ("scores", "pred_classes", "pred_masks"):
        assert torch.equal(a.get(field), b.get(field)), field


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_the_same_as_evaluation(weights, photo, image_format):
    cfg = config(
        f"dataloader.test.mapper.image_format={image_format}", f"model.input_format={image_format}"
    )
    predictor = Predictor(cfg, weights)
    image = read_image(photo)
    untouched = image.copy()
    found = predictor(image)["instances"]
    np.testing.assert_array_equal(image, untouched)
    file = {"file_name": photo, "height": 48, "width": 60}
    sample = instantiate(cfg.dataloader.test.mapper)(file)
    assert sample["image"].shape == (3, 51, 64)
    with torch.no_grad():
        expected = predictor.model([sample])[0]["instances"]
    assert_same_instances(found, expected)
    assert found.pred_masks.shape == (5, 48, 60) and found.pred_masks.dtype == torch.bool
    assert not predictor.model.training and not found.scores.requires_grad
    assert predictor.device == torch.device("cpu")


def test_formats_differ(weights, photo):
    """What the test above could not see if both were read alike."""
    rgb, bgr = (
        Predictor(config(f"dataloader.test.mapper.image_format={f}"), weights)(read_image(photo))
        for f in ("RGB", "BGR")
    )
    assert not torch.equal(rgb["instances"].scores, bgr["instances"].scores)


def test_weights_must_be_whole(weights, tmp_path):
    state_dict = torch.load(weights, weights_only=True)["model"]
    name = "roi_heads.box_predictor.cls_score.weight"
    with pytest.raises(CheckpointError, match=f"{name}: not in the file"):
        Predictor(config(), {k: v for k, v in state_dict.items() if k != name})
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such weight file"):
        Predictor(config(), str(tmp_path / "absent.pth"))
    with pytest.raises(CheckpointError, match="81, 32.* in the file, .*13, 32.* in the model"):
        Predictor(config("model.roi_heads.num_classes=12"), weights)


def test_configs_it_cannot_serve(weights):
    with pytest.raises(UserError, match="a config of pre-training, which detects nothing"):
        Predictor(get_config("demo/rmae_tiny_scenes.py"), weights)
    with pytest.raises(UserError, match="needs the config of a detector"):
        Predictor(OmegaConf.create({"model": {}}), weights)
    with pytest.raises(UserError, match="image_format=L: prediction knows RGB and BGR"):
        Predictor(config("dataloader.test.mapper.image_format=L"), weights)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(weights, photo):
    found = Predictor(config("train.device=cuda"), weights)(read_image(photo))["instances"]
    expected = Predictor(config(), weights)(read_image(photo))["instances"]
    assert found.pred_masks.device.type == "cpu"
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)


def test_images_it_cannot_take(weights):
    predictor = Predictor(config(), weights)
    for wrong in (
        np.zeros((3, 48, 60), np.uint8),
        np.zeros((48, 60), np.uint8),
        np.zeros((48, 60, 3), np.float32),
    ):
        with pytest.raises(ValueError, match="uint8 .H, W, 3. RGB, not"):
            predictor(wrong)
    with pytest.raises(ImageSizeError, match="1x5000 pixels .height x width. cannot be resized"):
        predictor(np.zeros((1, 5000, 3), np.uint8))
    assert predictor(np.zeros((1, 2, 3), np.uint8))["instances"].image_size == (1, 2)
