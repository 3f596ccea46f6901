"""What the head of a JPEG says, against Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from rmae_d2.errors import ImageReadError
from rmae_d2.photos.jpeg import JpegFacts, jpeg_facts
from rmae_d2.photos.reading import Photo, read_image
from rmae_d2.pixels import exif_orientation

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)).resize(
    (50, 40), Image.Resampling.BICUBIC
)


def saved(image=PICTURE, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010F] = "a camera"
    return block


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_size_and_orientation(orientation, mode, progressive, tmp_path):
    raw = saved(PICTURE.convert(mode), exif=exif(orientation), progressive=progressive, quality=90)
    assert jpeg_facts(raw) == JpegFacts(40, 50, orientation)
    (tmp_path / "a.jpg").write_bytes(raw)
    photo = Photo(tmp_path / "a.jpg")
    assert photo.is_scalable and photo.shape == ((40, 50, 3) if orientation < 5 else (50, 40, 3))
    assert np.asarray(photo).shape == photo.shape


def test_real_photos(shared_data):
    files = sorted(shared_data.rglob("*.jpg"))
    assert len(files) > 20
    for file in files:
        with Image.open(file) as image:
            usual = image.mode in ("RGB", "L") and "xmp" not in image.info
            expected = (image.height, image.width, exif_orientation(image) or 1)
            found = jpeg_facts(file.read_bytes())
            assert found == (JpegFacts(*expected) if usual else None), file


@pytest.mark.parametrize("bad", ["CMYK", "xmp", "no scan", "cut", "empty", "zero size", "12 bits"])
def test_what_pillow_has_to_look_at(bad):
    raw = saved(PICTURE.convert("CMYK")) if bad == "CMYK" else saved()
    frame = raw.index(b"\xff\xc0")
    if bad == "xmp":
        raw = saved(xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>')
    elif bad == "no scan":
        raw = raw[: raw.index(b"\xff\xda")]
    elif bad == "cut":
        raw = raw[: frame + 6]
    elif bad == "empty":
        raw = raw[:2]
    elif bad == "zero size":
        raw = raw[: frame + 5] + bytes(4) + raw[frame + 9 :]
    elif bad == "12 bits":
        raw = raw[: frame + 4] + b"\x0c" + raw[frame + 5 :]
    assert jpeg_facts(raw) is None


def test_a_bomb_is_refused_as_by_pillow(tmp_path):
    """65535 x 65535 pixels, says the head."""
    raw = saved()
    frame = raw.index(b"\xff\xc0")
    (tmp_path / "a.jpg").write_bytes(raw[: frame + 5] + b"\xff" * 4 + raw[frame + 9 :])
    with pytest.raises(ImageReadError, match="too many pixels"):
        Photo(tmp_path / "a.jpg")


def test_a_damaged_exif_block_is_none(tmp_path):
    raw = saved(exif=exif(6))
    at = raw.index(b"Exif\0\0") + 6
    raw = raw[:at] + b"XX" + raw[at + 2 :]
    assert jpeg_facts(raw).orientation == 1
    (tmp_path / "a.jpg").write_bytes(raw)
    assert read_image(tmp_path / "a.jpg").shape == (40, 50, 3)


def test_pictures_of_several_frames_are_scaled_too(tmp_path):
    """MPO, as some phones and all stereo cameras write: the first picture."""
    other = PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    PICTURE.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[other], quality=95)
    photo = Photo(tmp_path / "a.jpg")
    assert photo.is_scalable and photo.at_scale(2).shape == (20, 25, 3)
    with Image.open(tmp_path / "a.jpg") as image:
        np.testing.assert_array_equal(np.asarray(photo), np.asarray(image.convert("RGB")))


def test_a_photo_that_is_cut_short_is_told(tmp_path):
    raw = saved(quality=95)
    (tmp_path / "a.jpg").write_bytes(raw[: len(raw) * 2 // 3])
    with pytest.raises(ImageReadError, match="damaged or cut short"):
        np.asarray(Photo(tmp_path / "a.jpg"))
