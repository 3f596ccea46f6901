"""Features of images, as people have them, of any of our models."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

import rmae_d2
from rmae_d2.config import apply_overrides, get_config
from rmae_d2.data import CropResizeTransform
from rmae_d2.errors import UserError
from rmae_d2.inference.features import NORMALIZATIONS
from rmae_d2.modeling import Classifier
from rmae_d2.modeling.block_features import block_features, encoder_of
from tests.helpers import jittered, small_detector


@pytest.fixture
def model(make_rmae):
    return make_rmae(pixel_mean=[100.0, 110.0, 120.0], pixel_std=[50.0, 55.0, 60.0])


def pixels(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one.patches, other.patches)
        torch.testing.assert_close(one.cls_token, other.cls_token)


def test_the_models_own_encoding(model):
    images = pixels(2, 3, 32, 32)
    with torch.no_grad():
        tokens = model.backbone.encode_image(model.normalize(images))
    ((patches, cls_token),) = rmae_d2.features(model, images)
    assert patches.shape == (2, 32, 4, 4) and not patches.requires_grad
    torch.testing.assert_close(patches.flatten(2).transpose(1, 2), tokens[:, 1:])
    torch.testing.assert_close(cls_token, tokens[:, 0])
    (sequence,) = rmae_d2.features(model, images, reshape=False)
    torch.testing.assert_close(sequence.patches, tokens[:, 1:])


def test_all_ways_to_give_an_image(model):
    batch = pixels(2, 3, 48, 24)
    arrays = [image.permute(1, 2, 0).numpy() for image in batch]
    expected = rmae_d2.features(model, batch, 2)
    assert expected[0].patches.shape == (2, 32, 6, 3)
    same(rmae_d2.features(model, batch.float(), 2), expected)
    same(rmae_d2.features(model, list(batch), 2), expected)
    same(rmae_d2.features(model, arrays, 2), expected)
    same(rmae_d2.features(model, [Image.fromarray(a) for a in arrays], 2), expected)
    one = [type(e)(e.patches[:1], e.cls_token[:1]) for e in expected]
    for image in (batch[0], arrays[0], Image.fromarray(arrays[0]), batch[:1]):
        same(rmae_d2.features(model, image, 2), one)


def test_sizes(model):
    """A picture is resized as the mappers resize: its own size rounded to whole patches, or the one given."""
    image = pixels(3, 45, 30)
    array = image.permute(1, 2, 0).numpy()
    for size, (high, wide) in ((None, (48, 32)), (40, (40, 40)), ((16, 64), (16, 64))):
        resized = CropResizeTransform(0, 0, 30, 45, high, wide, 30, 45).apply_image(array)
        found = rmae_d2.features(model, array, size=size)
        assert found[0].patches.shape[2:] == (high // 8, wide // 8)
        same(found, rmae_d2.features(model, np.ascontiguousarray(resized)))
    several = [array, pixels(3, 32, 32).permute(1, 2, 0).numpy()]
    assert len(rmae_d2.features(model, several, size=32)[0].cls_token) == 2
    with pytest.raises(UserError, match=r"several sizes, .* \(3, 48, 32\) and \(3, 32, 32\): give"):
        rmae_d2.features(model, several)
    with pytest.raises(UserError, match="30x30 is not a positive multiple"):
        rmae_d2.features(model, array, size=30)


def test_a_model_in_training_goes_on_training(model):
    model.backbone.net.blocks[1].drop_path1 = torch.nn.Dropout(0.9)
    images = pixels(1, 3, 32, 32)
    model.train()
    first, second = (rmae_d2.features(model, images) for _ in range(2))
    same(first, second)
    assert model.training and model.backbone.net.blocks[1].drop_path1.training


def test_other_models():
    images = pixels(1, 3, 64, 64)
    detector = jittered(instantiate(small_detector().model), 0.05).eval()
    ((patches, cls_token),) = rmae_d2.features(detector, images)
    assert cls_token is None and patches.shape == (1, 32, 4, 4)
    with torch.no_grad():
        normal = (images - detector.pixel_mean) / detector.pixel_std
        torch.testing.assert_close(patches, detector.backbone.net(normal)["last_feat"])
    detector.input_format = "BGR"
    (turned,) = rmae_d2.features(detector, images.flip(1))
    torch.testing.assert_close(turned.patches, patches)

    small = ["img_size=32", "patch_size=8", "embed_dim=32", "depth=2", "num_heads=4"]
    cfg = apply_overrides(
        get_config("imagenet/finetune_vitb.py"), [f"model.backbone.net.{x}" for x in small]
    )
    classifier = jittered(instantiate(cfg.model)).eval()
    assert isinstance(classifier, Classifier)
    ((patches, _),) = rmae_d2.features(classifier, images[:, :, :32, :32])
    with torch.no_grad():
        normal = (images[:, :, :32, :32] - classifier.pixel_mean) / classifier.pixel_std
        torch.testing.assert_close(patches.mean(dim=(2, 3)), classifier.features(normal))


def test_a_bare_encoder_and_its_normalization(model):
    net, images = encoder_of(model), pixels(1, 3, 32, 32)
    for name in (None, "half"):
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in NORMALIZATIONS[name or "imagenet"])
        with torch.no_grad():
            expected = block_features(net, (images - mean) / std)
        same(rmae_d2.features(net, images, normalization=name), expected)
        same(rmae_d2.features(model, images, normalization=name or "imagenet"), expected)


def test_mistakes(model):
    grey = pixels(1, 1, 32, 32)
    for images, says in (
        (pixels(1, 3, 32, 32) / 255, "floats from 0 to 1: pixels are of 0 to 255"),
        (torch.randn(1, 3, 32, 32).clamp(-2, 2), "floats from -2 to 2: pixels"),
        (grey, "images of 1 channels, an encoder of 3, means of 3"),
        ([], "no images"),
        ("photo.jpg", "an image is a tensor .C, H, W., .* not str"),
        (np.zeros((32, 32)), "an image is a tensor .* not ndarray float64 .32, 32."),
    ):
        with pytest.raises(UserError, match=says):
            rmae_d2.features(model, images)
    with pytest.raises(UserError, match="normalization='clip': one of imagenet, half"):
        rmae_d2.features(model, grey, normalization="clip")
    black = torch.zeros(1, 3, 32, 32)
    same(rmae_d2.features(model, black), rmae_d2.features(model, black.byte()))
