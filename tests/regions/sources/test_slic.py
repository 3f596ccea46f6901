"""SLIC regions are scikit-image's."""

import numpy as np
import pytest
from skimage.data import chelsea
from skimage.segmentation import slic

from rmae_d2.errors import UserError
from rmae_d2.regions.sources.slic import SlicSource
from rmae_d2.regions.sources.spec import SourceSpec


def test_planes_are_scikit_images():
    image = chelsea()[:60, :80]
    record = SourceSpec.named("slic", {"segments": [4, 9], "compactness": 5}).build()({}, image)
    for plane, n in zip(record.labels, (4, 9), strict=True):
        np.testing.assert_array_equal(plane, slic(image, n, 5.0, start_label=0))
    assert record.params == {"source": "slic", "segments": [4, 9], "compactness": 5.0}


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (40, 2)])
def test_small_images(size):
    record = SlicSource()({}, np.zeros((*size, 3), np.uint8))
    assert record.regions().area.sum() == 3 * size[0] * size[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segments": []}, "segments="),
        ({"segments": [0]}, "segments="),
        ({"compactness": 0}, "compactness=0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        SlicSource(**settings)
