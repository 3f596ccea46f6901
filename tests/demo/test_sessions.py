"""What is kept of users' images, and files of predictions made by hand."""

import io
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from rmae_d2.demo.requests import Query, RefusedError
from rmae_d2.demo.sessions import OpenImage, OpenImages, coco_json, label_png, mask_png
from rmae_d2.inference import ImageEmbedding, RegionPrediction


def embedding(size):
    return ImageEmbedding(size, (1, 1), np.zeros((1, 1), bool), (), None)


def predictions():
    """Two regions that overlap in the middle, where the second is surer."""
    for columns, probability, doubt in ((slice(0, 4), 0.6, ""), (slice(2, 6), 0.8, "odd")):
        found = np.zeros((1, 3, 6), np.float32)
        found[..., columns] = probability
        scores = np.array([probability], np.float32)
        yield RegionPrediction(found > 0.5, found, scores, [doubt])


def read(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_the_image_unused_for_longest_goes():
    images = OpenImages(2)
    first, second = images.add(embedding((3, 4))), images.add(embedding((5, 6)))
    assert images.get(first.key) is first
    third = images.add(embedding((7, 8)))
    assert images.get(first.key) is first and images.get(third.key) is third
    with pytest.raises(RefusedError, match="no longer has this image"):
        images.get(second.key)


@pytest.mark.parametrize(
    ("size", "shown"), [((40, 1000), (31, 768)), ((100, 50), (100, 50)), ((1, 5000), (1, 768))]
)
def test_large_images_are_shown_smaller(size, shown):
    assert OpenImage("", embedding(size)).display_size == shown


def test_files():
    given = ((3, 6), Query((), 0.5, 0, "x.png"))
    assert read(mask_png(predictions(), *given)).tolist() == [[255] * 4 + [0] * 2] * 3
    assert read(label_png(predictions(), *given)).tolist() == [[1, 1, 2, 2, 2, 2]] * 3
    content = json.loads(coco_json(predictions(), *given))
    one, two = content["annotations"]
    assert (one["id"], one["bbox"], one["area"], one["score"]) == (1, [0, 0, 4, 3], 12, 0.6)
    assert "doubt" not in one and two["doubt"] == "odd"
    assert mask_util.decode(two["segmentation"]).tolist() == [[0, 0, 1, 1, 1, 1]] * 3
