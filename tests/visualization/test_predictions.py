import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from rmae_d2.visualization.predictions import draw_instances

NAMES = ["cat", "dog"]


def two_squares(height=660, width=700, masks=True):
    """A sure object top left, an unsure one bottom right; each mask is the middle of its box."""
    found = Instances((height, width))
    found.pred_boxes = Boxes(torch.tensor([[20.0, 20, 320, 320], [350, 350, 650, 650]]))
    found.scores = torch.tensor([0.9, 0.3])
    found.pred_classes = torch.tensor([1, 0])
    if masks:
        planes = torch.zeros(2, height, width, dtype=torch.bool)
        planes[0, 120:220, 120:220] = True
        planes[1, 450:550, 450:550] = True
        found.pred_masks = planes
    return found


@pytest.fixture
def grey():
    return np.full((660, 700, 3), 128, np.uint8)


def changed(picture, grey, place):
    return bool((picture[place].astype(int) - grey[place] != 0).any())


TOP_MASK = (slice(150, 200), slice(150, 200))
TOP_BOX_SIDE = (slice(100, 110), slice(17, 24))
TOP_LABEL = (slice(20, 40), slice(24, 60))
INSIDE_BOX_ONLY = (slice(60, 100), slice(60, 100))
BOTTOM = (slice(345, 655), slice(345, 655))


def test_masks_boxes_and_labels_of_what_reaches_the_threshold(grey):
    picture = draw_instances(grey, two_squares(), NAMES, 0.5)
    assert picture.dtype == np.uint8 and picture.shape == grey.shape
    for place in (TOP_MASK, TOP_BOX_SIDE, TOP_LABEL):
        assert changed(picture, grey, place)
    assert not changed(picture, grey, INSIDE_BOX_ONLY)
    assert not changed(picture, grey, BOTTOM)
    assert (grey == 128).all()
    both = draw_instances(grey, two_squares(), NAMES, 0.3)
    assert changed(both, grey, BOTTOM) and changed(both, grey, TOP_MASK)
    # Two objects, two colours.
    assert (both[500, 500] != both[170, 170]).any()


def test_the_name_is_that_of_the_class(grey):
    pictures = [draw_instances(grey, two_squares(), names) for names in (NAMES, ["cat", "horse"])]
    differs = (pictures[0] != pictures[1]).any(axis=2)
    rows, columns = differs.nonzero()
    assert rows.size and rows.max() < 60 and columns.max() < 200


def test_boxes_without_masks(grey):
    picture = draw_instances(grey, two_squares(masks=False), NAMES)
    assert changed(picture, grey, TOP_BOX_SIDE) and changed(picture, grey, TOP_LABEL)
    assert not changed(picture, grey, INSIDE_BOX_ONLY)


def test_nothing_detected_is_the_image(grey):
    nothing = two_squares()[:0]
    np.testing.assert_array_equal(draw_instances(grey, nothing, NAMES, 0.0), grey)
    np.testing.assert_array_equal(draw_instances(grey, two_squares(), NAMES, 0.95), grey)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((150, 200), (480, 640)), ((48, 60), (240, 300)), ((2, 2), (10, 10)), ((300, 2), (640, 4))],
)
def test_small_images_are_enlarged(size, drawn):
    found = Instances(size)
    found.pred_boxes = Boxes(torch.tensor([[0.0, 0, size[1], size[0]]]))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    found.pred_masks = torch.ones(1, *size, dtype=torch.bool)
    picture = draw_instances(np.full((*size, 3), 128, np.uint8), found, NAMES)
    assert picture.shape == (*drawn, 3)
    assert (picture != 128).any()


def test_names_at_the_edges_are_whole(grey):
    """The last digit of the score, with which a label ends, is in the picture."""
    found = Instances((660, 700))
    found.pred_boxes = Boxes(torch.tensor([[640.0, 500, 700, 660]]))
    found.pred_classes = torch.tensor([0])
    pictures = []
    for score in (0.91, 0.92):
        found.scores = torch.tensor([score])
        pictures.append(draw_instances(grey, found, ["an animal of some kind"]))
    rows, columns = (pictures[0] != pictures[1]).any(axis=2).nonzero()
    assert rows.size and columns.max() < 700 - 10 and rows.max() < 660 - 2
