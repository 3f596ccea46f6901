import numpy as np

from rmae_d2.regions import RegionRecord
from rmae_d2.visualization import draw_regions


def test_planes_are_tinted_by_label_and_outlined():
    image = np.full((20, 30, 3), 100, np.uint8)
    labels = np.zeros((2, 20, 30), np.uint8)
    labels[0, :, 10:] = 1
    labels[1, 5:] = 2
    original, first, second = draw_regions(image, RegionRecord.from_labels(labels))
    np.testing.assert_array_equal(original, image)
    assert (first[:, 10] == 255).all()  # the outline
    assert (first[3, 3] != first[3, 20]).any()
    assert (second[5] == 255).all()
    assert (second[0, 0] != second[10, 0]).any()


def test_ignored_pixels_and_pixels_outside_masks_keep_their_colour():
    image = np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 5:25] = 1
    shown = draw_regions(image, RegionRecord.from_labels(labels, ignore_label=0))[1]
    np.testing.assert_array_equal(shown[:5], image[:5])
    masks = np.zeros((2, 20, 30), np.bool_)
    masks[0, 2:18, 2:28] = True
    masks[1, 8:12, 8:12] = True
    shown = draw_regions(image, RegionRecord.from_masks(masks))[1]
    np.testing.assert_array_equal(shown[0], image[0])
    assert (shown[9, 9] != image[9, 9]).any()
    assert (shown[8, 9] == 255).all()  # the small mask lies on top of the large one
