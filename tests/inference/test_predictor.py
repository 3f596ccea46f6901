"""One image through a small, random Mask R-CNN (ViTDet): the same as evaluation gives."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.data import read_image
from rmae_d2.errors import CheckpointError, ImageSizeError, UserError
from rmae_d2.inference.predict_inputs import InputImage
from rmae_d2.inference.prediction_outputs import InstanceOutput, output_key
from rmae_d2.inference.predictor import Predictor

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
    "model.roi_heads.box_predictor.test_topk_per_image=8",
]


def config(*overrides):
    return apply_overrides(get_config("demo/vitdet_tiny_coco.py"), [*SMALL, *overrides])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "model_final.pth"
    torch.save({"model": instantiate(config().model).state_dict()}, path)
    return str(path)


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
    sample = instantiate(cfg.dataloader.test.mapper)(
        {"file_name": photo, "height": 48, "width": 60}
    )
    assert sample["image"].shape == (3, 51, 64)
    with torch.no_grad():
        expected = predictor.model([sample])[0]["instances"]
    assert_same_instances(found, expected)
    assert found.pred_masks.shape == (8, 48, 60) and found.pred_masks.dtype == torch.bool
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(weights):
    with pytest.raises(UserError, match="train.device=cuda: there is no GPU"):
        Predictor(config("train.device=cuda"), weights)


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


def instances(classes):
    found = Instances((40, 50))
    found.pred_boxes = Boxes(torch.tensor([[1.0, 2, 11, 32]] * len(classes)))
    found.scores = torch.linspace(0.9, 0.1, len(classes))
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return found


def input_image(image_id):
    return InputImage("photo.jpg", image_id, "photo.jpg", None)


def test_classes_of_model_and_data_must_agree(tmp_path):
    model = instantiate(config("model.roi_heads.num_classes=12").model)
    with pytest.raises(UserError, match="the model has 12 classes, coco_2017_val has 80"):
        InstanceOutput(config(), model, tmp_path, 0.5)
    assert not list(tmp_path.iterdir())
    output = InstanceOutput(config(), torch.nn.Identity(), tmp_path, 0.5)
    output.add(input_image(1), instances([79]))
    with pytest.raises(UserError, match="at least 81 classes, coco_2017_val has 80"):
        output.add(input_image(2), instances([0, 80]))


def test_the_file_has_its_name_once_it_is_whole(tmp_path):
    output = InstanceOutput(config(), torch.nn.Identity(), tmp_path, 0.95)
    output.add(input_image(7), instances([]))
    output.add(input_image(8), instances([11, 0]))
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    output.close()
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]
    assert "2 objects, 0 of them of score 0.95 or more: pictures show none" in output.summary
    first = (tmp_path / "predictions.json").read_text().splitlines()[1]
    assert '"image_id": 8, "category_id": 13, "bbox": [1.0, 2.0, 10.0, 30.0]' in first
    assert "segmentation" not in first


def test_outputs_it_does_not_know():
    assert output_key({"proposals": 0, "instances": 1}) == "instances"
    with pytest.raises(UserError, match="the model gives loss_pixel; prediction knows instances"):
        output_key({"loss_pixel": 0})
