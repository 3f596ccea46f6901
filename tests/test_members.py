"""Images within other files: shards and tables have tests of their own; here JPEGs without EXIF's turn."""

import itertools

import numpy as np
import pytest
from PIL import Image

from rmae_d2.files import opened
from rmae_d2.members import stored_jpeg
from rmae_d2.pixels import exif_orientation, stored_size, upright_size


def jpeg(path, orientation, order="II"):
    """20 x 10 pixels as stored, red in the left top corner."""
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:4, :4, 0] = 250
    exif = Image.Exif()
    exif.endian = "<" if order == "II" else ">"
    exif[0x010F] = "a maker"
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    return str(path)


@pytest.mark.parametrize(
    ("orientation", "order"), [*itertools.product(range(1, 9), ("II", "MM")), (None, "II")]
)
def test_a_jpeg_as_it_is_stored(tmp_path, orientation, order):
    path = jpeg(tmp_path / "a.jpg", orientation, order)
    with Image.open(path) as image:
        assert exif_orientation(image) == (orientation or 1)
        expected = np.asarray(image)
    with opened(stored_jpeg(path)) as file, Image.open(file) as image:
        assert exif_orientation(image) == 1
        assert image.getexif()[0x010F] == "a maker"
        np.testing.assert_array_equal(np.asarray(image), expected)
    turned = orientation is not None and orientation > 4
    assert upright_size(path) == ((20, 10) if turned else (10, 20))
    assert stored_size(path) == ((10, 20) if turned else None)
    assert upright_size(stored_jpeg(path)) == (10, 20)


def test_without_exif_and_no_jpeg(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg")
    with opened(stored_jpeg(str(tmp_path / "a.jpg"))) as file:
        assert file.read() == (tmp_path / "a.jpg").read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png", exif=exif)
    assert stored_size(str(tmp_path / "a.png")) is None
    assert stored_size(str(tmp_path / "absent.jpg")) is None
