"""The numpy before and behind an exported network gives what Detectron2 and torch give."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from rmae_d2.deploy.arrays import Detections, labels_at, shortest_edge, to_image
from rmae_d2.errors import ImageSizeError
from rmae_d2.modeling.transfer import segmentor


@pytest.mark.parametrize(("height", "width"), [(48, 60), (61, 33), (20, 200), (64, 64)])
def test_resize(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    given = T.AugInput(image.copy())
    T.ResizeShortestEdge(64, 100)(given)
    np.testing.assert_array_equal(shortest_edge(image, 64, 100), given.image)


def test_nothing_left_of_a_side():
    with pytest.raises(ImageSizeError, match="1x5000 pixels .height x width. cannot be resized"):
        shortest_edge(np.zeros((1, 5000, 3), np.uint8), 64, 100)


def test_detections_at_the_size_of_the_image():
    random = np.random.default_rng(1)
    corners = np.sort(random.uniform(-4, 60, (30, 2, 2)), axis=1).reshape(30, 4)
    boxes = corners.astype(np.float32)
    boxes[0, 2] = boxes[0, 0]  # empty
    boxes[1] = [50, 2, 50.3, 40]  # thinner than a pixel
    scores = np.linspace(0.9, 0.1, 30, dtype=np.float32)
    small = random.uniform(0, 1, (30, 28, 28)).astype(np.float32)
    found = Detections(boxes, scores, np.arange(30))
    ours = to_image(found, small, (48, 56), (97, 120))

    given = Instances((48, 56))
    given.pred_boxes, given.scores = Boxes(torch.tensor(boxes)), torch.tensor(scores)
    given.pred_classes, given.pred_masks = torch.arange(30), torch.tensor(small)[:, None]
    theirs = detector_postprocess(given, 97, 120)
    assert 20 < len(ours) == len(theirs) < 30
    np.testing.assert_allclose(ours.boxes, theirs.pred_boxes.tensor, atol=1e-5)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.classes, theirs.pred_classes)
    assert ours.masks.shape == (len(ours), 97, 120) and ours.masks.sum() > 10_000
    # Rounding decides of values at the threshold.
    assert (ours.masks != theirs.pred_masks.numpy()).sum() <= 5


@pytest.mark.parametrize("strip", [2**25, 500])
def test_labels(monkeypatch, strip):
    monkeypatch.setattr("rmae_d2.deploy.arrays._STRIP_VALUES", strip)
    scores = np.random.default_rng(2).normal(size=(7, 20, 31)).astype(np.float32)
    for size in ((20, 31), (47, 90), (9, 12)):
        expected = segmentor.labels_at(torch.tensor(scores), size).numpy()
        assert (labels_at(scores, size) == expected).mean() > 0.999
