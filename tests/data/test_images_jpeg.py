"""JPEGs by simplejpeg: Pillow's pixels, and Pillow itself for all that is not plain."""

import io

import numpy as np
import pytest
from PIL import Image

from rmae_d2.data.images import decode_plain_jpeg, read_image
from rmae_d2.errors import ImageReadError

pytest.importorskip("simplejpeg", reason="pip install rmae_d2[fast]")


def _photo(height=61, width=83):
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    return (np.stack([3 * x, 4 * y, x + y], -1) % 190 + noise).astype(np.uint8)


def _jpeg(mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(_photo()).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def _decode(data):
    file = io.BytesIO(data)
    with Image.open(file) as image:
        return decode_plain_jpeg(file, image)


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


def test_turned_pictures_are_left_to_pillow(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _jpeg(exif=exif)
    assert _decode(data) is None
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_image(tmp_path / "a.jpg").shape == (83, 61, 3)
    exif[0x0112] = 1
    assert _decode(_jpeg(exif=exif)) is not None


def test_other_pictures_are_left_to_pillow():
    assert _decode(_jpeg("CMYK")) is None
    for format_ in ("PNG", "WEBP", "BMP"):
        file = io.BytesIO()
        Image.fromarray(_photo()).save(file, format_)
        assert _decode(file.getvalue()) is None


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
