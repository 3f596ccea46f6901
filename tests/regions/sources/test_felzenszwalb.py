"""FH regions: scikit-image's partition, odd images, large images, the source."""

import logging
import pickle

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos
from skimage.segmentation import felzenszwalb as by_skimage

from rmae_d2.regions import FelzenszwalbSource
from rmae_d2.regions.sources import felzenszwalb as module
from rmae_d2.regions.sources.felzenszwalb import felzenszwalb

RNG = np.random.default_rng(0)


def small_photo(name, side=128):
    image = Image.fromarray(getattr(photos, name)()).convert("RGB")
    image.thumbnail((side, side))
    return np.asarray(image)


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def assert_partition_of_skimage(image, scales):
    labels = felzenszwalb(image, scales)
    for plane, scale in zip(labels, scales, strict=True):
        expected = by_skimage(image, scale=scale, sigma=0.8, min_size=scale)
        np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_photos_have_the_partition_of_skimage(name):
    assert_partition_of_skimage(small_photo(name), (50, 500, 1500))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (9, 1, 3), (2, 2, 3), (1, 1)])
def test_tiny_images_are_one_region(shape):
    labels = felzenszwalb(noise(*shape), (500, 1000))
    assert labels.shape == (2, *shape[:2]) and labels.dtype == np.uint8 and not labels.any()


def test_grey_and_other_channel_counts(recwarn):
    grey = small_photo("coffee")[..., 0]
    labels = felzenszwalb(grey, (100,))
    np.testing.assert_array_equal(labels, felzenszwalb(grey[..., None], (100,)))
    assert felzenszwalb(noise(20, 30, 2), (100,)).shape == (1, 20, 30)
    assert felzenszwalb(noise(20, 30, 5), (100,)).shape == (1, 20, 30)
    assert not recwarn.list


def test_views_and_read_only_images():
    image = small_photo("rocket")[::2, ::-1]
    image.flags.writeable = False
    assert_partition_of_skimage(image, (100,))


@pytest.mark.parametrize(
    "image, settings, message",
    [
        (np.zeros((4, 4, 3)), {}, "non-empty uint8"),
        (np.zeros((0, 4, 3), np.uint8), {}, "non-empty uint8"),
        (np.zeros(4, np.uint8), {}, "non-empty uint8"),
        (noise(4, 4, 3), {"scales": ()}, "positive scales"),
        (noise(4, 4, 3), {"scales": (100, 0)}, "positive scales"),
        (noise(4, 4, 3), {"sigma": -1.0}, "finite sigma"),
        (noise(4, 4, 3), {"implementation": "opencv"}, "'opencv' must be one of"),
    ],
)
def test_other_input_is_refused(image, settings, message):
    with pytest.raises(ValueError, match=message):
        felzenszwalb(image, **{"scales": (100,), **settings})


def test_large_images_are_segmented_smaller_and_reported_once(caplog, monkeypatch):
    monkeypatch.setattr(module, "_warned_large", False)
    image = np.repeat(np.repeat(small_photo("coffee"), 4, 0), 4, 1)
    small = small_photo("coffee")
    limit = small.shape[0] * small.shape[1]
    with caplog.at_level(logging.WARNING, "rmae_d2.regions"):
        labels = [felzenszwalb(image, (200,), max_pixels=limit) for _ in range(2)]
    expected = felzenszwalb(small, (200,))
    np.testing.assert_array_equal(labels[0], expected.repeat(4, 1).repeat(4, 2))
    np.testing.assert_array_equal(labels[0], labels[1])
    assert len(caplog.records) == 1
    assert f"{image.shape[1]}x{image.shape[0]}" in caplog.text


@pytest.mark.parametrize("shape", [(1, 20000, 3), (20000, 1, 3), (3, 20000, 3), (150, 90, 3)])
def test_every_large_shape_fits_under_the_limit(shape, monkeypatch):
    seen = []
    partitions = module._partitions

    def spy(image, *settings):
        seen.append(image.shape)
        return partitions(image, *settings)

    monkeypatch.setattr(module, "_partitions", spy)
    assert felzenszwalb(noise(*shape), (100,), max_pixels=5000).shape == (1, *shape[:2])
    assert seen[0][0] * seen[0][1] <= 5000 and min(seen[0]) >= 1


def test_source_makes_records_and_travels(tmp_path):
    image = small_photo("chelsea")
    plain = FelzenszwalbSource(scales=[300, 600])
    record = plain({"file_name": "chelsea.png"}, image)
    assert record.params == plain.params and plain.params["scales"] == [300, 600]
    np.testing.assert_array_equal(record.labels, felzenszwalb(image, (300, 600)))
    cached = pickle.loads(pickle.dumps(FelzenszwalbSource((300, 600), cache_dir=tmp_path)))
    np.testing.assert_array_equal(cached({}, image).labels, record.labels)
    assert len(list(tmp_path.rglob("*.regions"))) == 1
    assert cached({}, image).params == record.params
