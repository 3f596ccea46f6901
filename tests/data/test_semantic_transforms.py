import colorsys

import numpy as np
import pytest
from detectron2.config import instantiate
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.config import get_config
from rmae_d2.data.semantic_transforms import (
    LimitedClassCrop,
    PhotometricDistortion,
    PhotometricTransform,
)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
def test_crops_have_the_size_or_the_images(height, width, size, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = rng.integers(0, 4, (height, width), dtype=np.uint8)
    np.random.seed(seed)
    crop = LimitedClassCrop(size).get_transform(image, labels)
    cut, cut_labels = crop.apply_image(image), crop.apply_segmentation(labels)
    assert cut.shape[:2] == cut_labels.shape == (min(size, height), min(size, width))
    y, x = crop.y0, crop.x0
    assert (image[y : y + cut.shape[0], x : x + cut.shape[1]] == cut).all()


def shares(labels):
    counts = np.bincount(labels.ravel(), minlength=256)[:255]
    return counts.max() / max(counts.sum(), 1)


def low_shares(crop, image, labels):
    """How many of 100 crops have no class above three quarters."""
    cuts = (crop.get_transform(image, labels).apply_segmentation(labels) for _ in range(100))
    return np.mean([shares(cut) < 0.75 for cut in cuts])


def test_one_class_is_limited():
    """Only a tenth of the crops lies on the border of the two classes; ignored pixels do not count."""
    labels = np.zeros((20, 200), np.uint8)
    labels[:, 100:] = 1
    labels[:10] = 255
    image = np.zeros((20, 200, 3), np.uint8)
    np.random.seed(0)
    limited = low_shares(LimitedClassCrop(20, 0.75), image, labels)
    assert limited > 3 * low_shares(LimitedClassCrop(20, 1.0), image, labels) > 0
    theirs = T.RandomCrop_CategoryAreaConstraint("absolute", (20, 20), 0.75, 255)
    assert abs(low_shares(theirs, image, labels) - limited) < 0.2


@pytest.mark.parametrize("arguments", [(0,), (5, 0.0), (5, 1.5)])
def test_crops_that_cannot_be(arguments):
    with pytest.raises(ValueError, match="must be positive and max_share"):
        LimitedClassCrop(*arguments)


def photo():
    return np.random.default_rng(0).integers(0, 256, (23, 31, 3), dtype=np.uint8)


def test_nothing_changed_is_nothing():
    image = photo()
    assert (PhotometricTransform().apply_image(image) == image).all()


def test_brightness_and_contrast():
    image = photo()
    brighter = PhotometricTransform(brightness=20).apply_image(image)
    assert (brighter == np.minimum(image.astype(int) + 20, 255)).all()
    for first in (True, False):
        flat = PhotometricTransform(contrast=0.5, contrast_first=first).apply_image(image)
        assert (flat == (image * 0.5).round()).all()


def test_saturation_and_hue_are_hsvs():
    image = photo()
    changed = PhotometricTransform(saturation=0.6, hue=18).apply_image(image)
    expected = np.array(
        [
            colorsys.hsv_to_rgb((h + 18 / 360) % 1, s * 0.6, v)
            for h, s, v in (colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3) / 255)
        ]
    ).reshape(image.shape)
    # HSV of 8 bits, as OpenCV's in the published recipe.
    assert np.abs(changed / 255 - expected).max() < 0.03


@given(seed=st.integers(0, 2**31))
def test_labels_and_places_stay(seed):
    np.random.seed(seed)
    image, labels = photo(), photo()[:, :, 0]
    transform = PhotometricDistortion().get_transform(image)
    before = image.copy()
    changed = transform.apply_image(image)
    assert changed.shape == image.shape and changed.dtype == np.uint8 and (image == before).all()
    assert transform.apply_segmentation(labels) is labels
    assert transform.apply_coords(np.ones((1, 2))).tolist() == [[1, 1]]
    assert -32 <= transform.brightness <= 32 and -18 <= transform.hue <= 18
    # The same draws, turned further.
    np.random.seed(seed)
    assert PhotometricDistortion(36).get_transform(image).hue == pytest.approx(2 * transform.hue)
    assert 0.5 <= transform.contrast <= 1.5 and 0.5 <= transform.saturation <= 1.5


def test_hue_turns_by_up_to_36_degrees_in_the_recipe():
    """mmsegmentation's 18 units of OpenCV's 180 a circle."""
    np.random.seed(0)
    mapper = get_config("ade20k/upernet_vitb_160k.py").dataloader.train.mapper
    distortion = instantiate(mapper.augmentations[3])
    assert isinstance(distortion, PhotometricDistortion)
    drawn = [distortion.get_transform(photo()).hue for _ in range(400)]
    assert -36 <= min(drawn) < -30 and 30 < max(drawn) <= 36
    red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    turned = PhotometricTransform(hue=36).apply_image(red)[0, 0]
    assert abs(colorsys.rgb_to_hsv(*turned / 255)[0] * 360 - 36) < 1.5  # 8 bits
    with pytest.raises(ValueError, match="hue=181 must be 0 to 180 degrees"):
        PhotometricDistortion(181)


def test_half_of_each_is_left_out():
    np.random.seed(0)
    drawn = [PhotometricDistortion().get_transform(photo()) for _ in range(400)]
    for name, neutral in (("brightness", 0), ("contrast", 1), ("saturation", 1), ("hue", 0)):
        values = [getattr(transform, name) for transform in drawn]
        assert 0.4 < np.mean([value == neutral for value in values]) < 0.6
