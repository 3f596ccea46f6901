"""JPEGs by simplejpeg: Pillow's pixels, and Pillow itself for all that is not plain."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from rmae_d2.data.images import Photo, read_image
from rmae_d2.errors import ImageReadError
from rmae_d2.photos import reading

pytest.importorskip("simplejpeg", reason="pip install rmae_d2[fast]")


def _photo(height=61, width=83):
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    return (np.stack([3 * x, 4 * y, x + y], -1) % 190 + noise).astype(np.uint8)


def _jpeg(mode="RGB", blur=0, **options):
    file = io.BytesIO()
    image = Image.fromarray(_photo()).filter(ImageFilter.GaussianBlur(blur))
    image.convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def _decode(data):
    with Image.open(io.BytesIO(data)) as image:
        return reading._by_simplejpeg(data, (image.height, image.width), 1)


def _pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 30},
        {"quality": 95, "subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"progressive": True},
        {"restart_marker_blocks": 2},
        {"comment": "x" * 200},
    ],
    ids=str,
)
def test_pixels_are_pillows(mode, options):
    if mode == "L":
        options = {key: value for key, value in options.items() if key != "subsampling"}
    data = _jpeg(mode, **options)
    pixels = _decode(data)
    assert pixels.dtype == np.uint8 and pixels.flags.writeable and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, _pillow(data))


def test_rgb_inside_and_small_pictures():
    data = _jpeg(keep_rgb=True)
    np.testing.assert_array_equal(_decode(data), _pillow(data))
    for size in ((1, 1), (1, 17), (9, 2)):
        file = io.BytesIO()
        Image.fromarray(_photo(*size)).save(file, "JPEG")
        np.testing.assert_array_equal(_decode(file.getvalue()), _pillow(file.getvalue()))


def test_pixels_of_real_photos_are_pillows(shared_data):
    photos = sorted(shared_data.glob("*/train*/**/*.jpg")) + sorted(
        shared_data.glob("*/val*/*.jpg")
    )
    assert len(photos) >= 20
    fast = 0
    for path in photos[::4]:
        data = path.read_bytes()
        pixels = _decode(data)
        if pixels is not None:
            fast += 1
            np.testing.assert_array_equal(pixels, _pillow(data))
            np.testing.assert_array_equal(read_image(path), pixels)
    assert fast


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_parts_of_the_size_are_those_of_pillow(tmp_path, monkeypatch, orientation, divisor, mode):
    """Whichever library decodes, and however the picture is turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    path.write_bytes(_jpeg(mode, blur=4, exif=exif, quality=95))
    photo = Photo(path)
    assert photo.is_scalable and photo.shape == read_image(path).shape
    found = photo.at_scale(divisor)
    monkeypatch.setattr(reading, "simplejpeg", None)
    np.testing.assert_array_equal(found, Photo(path).at_scale(divisor))
    height, width = photo.shape[:2]
    assert found.shape == (-(-height // divisor), -(-width // divisor), 3)
    # Of a smooth picture about the means of squares.
    h, w = height // divisor, width // divisor
    squares = read_image(path)[: h * divisor, : w * divisor].astype(float)
    means = squares.reshape(h, divisor, w, divisor, 3).mean((1, 3))
    assert np.abs(found[:h, :w] - means).mean() < 20


def test_other_pictures_are_decoded_whole(tmp_path):
    for mode, format_ in (("CMYK", "JPEG"), ("RGB", "PNG"), ("RGB", "WEBP"), ("RGB", "BMP")):
        path = tmp_path / f"a.{format_.lower()}"
        Image.fromarray(_photo()).convert(mode).save(path)
        photo = Photo(path)
        assert not photo.is_scalable and photo.shape == (61, 83, 3)
        np.testing.assert_array_equal(np.asarray(photo), read_image(path))


def test_damaged_files_are_pillows_to_judge(tmp_path):
    data = _jpeg(quality=90)
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: len(data) // 2])
    assert _decode(path.read_bytes()) is None
    with pytest.raises(ImageReadError, match="cut short"):
        read_image(path)
    # Pillow reads over bytes between two markers, of which libjpeg-turbo warns.
    odd = data[:-2] + b"\x00\x01\x02" + data[-2:]
    path.write_bytes(odd)
    np.testing.assert_array_equal(read_image(path), _pillow(odd))
