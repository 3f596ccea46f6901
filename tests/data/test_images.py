"""Reading photos: every mode people have, and every way for a file to be broken."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from rmae_d2 import pixels
from rmae_d2.data.images import read_image
from rmae_d2.errors import ImageReadError
from tests.helpers import SPECIAL, put_special


@pytest.fixture
def photo() -> np.ndarray:
    """A smooth (48, 64, 3) picture, so that JPEG keeps it closely."""
    y, x = np.mgrid[:48, :64]
    return np.stack([4 * x, 5 * y, 2 * (x + y)], axis=-1).clip(0, 255).astype(np.uint8)


def _save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def _assert_rgb(image: np.ndarray, shape: tuple[int, ...] = (48, 64, 3)) -> None:
    assert image.shape == shape and image.dtype == np.uint8 and image.flags.writeable


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_modes_are_converted_as_pillow_does(tmp_path, photo, mode):
    image = read_image(_save(tmp_path / "a.png", photo, mode))
    _assert_rgb(image)
    expected = np.asarray(Image.fromarray(photo).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(image, expected)
    assert mode != "RGB" or (image == photo).all()


def test_cmyk_jpeg(tmp_path, photo):
    image = read_image(_save(tmp_path / "a.jpg", photo, "CMYK", quality=95))
    _assert_rgb(image)
    assert np.abs(image.astype(int) - photo).mean() < 4


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path, photo, mode):
    image = Image.fromarray(photo).convert(mode)
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, :32] = 0
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "a.png")
    seen = read_image(tmp_path / "a.png")
    _assert_rgb(seen)
    assert (seen[:, :32] == 255).all()
    expected = (
        photo if mode == "RGBA" else np.asarray(Image.fromarray(photo).convert("L"))[..., None]
    )
    np.testing.assert_array_equal(seen[:, 32:], np.broadcast_to(expected, photo.shape)[:, 32:])


def test_transparent_palette_colour(tmp_path):
    image = Image.fromarray(np.zeros((4, 4), np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    seen = read_image(tmp_path / "a.png")
    assert tuple(seen[0, 0]) == (40, 50, 60) and tuple(seen[1, 1]) == (255, 255, 255)


@pytest.mark.parametrize(
    ("values", "kind", "white"),
    [
        ([0, 1000, 4095], np.uint16, 4095),  # 12 bits of 16, as cameras and microscopes give
        ([0, 100, 4096], np.uint16, 65535),
        ([0, 100, 200], np.uint16, 255),
        ([0, 1000, 4000], np.int32, 4095),
        ([0, 0.25, 1], np.float32, 1),
        ([0, 60.4, 255], np.float32, 255),
        ([0, 60, 300], np.float32, 4095),
    ],
)
def test_white_is_taken_from_the_data(tmp_path, caplog, monkeypatch, values, kind, white):
    monkeypatch.setattr(pixels, "_said_whites", set())
    Image.fromarray(np.array([values], kind)).save(tmp_path / "a.tif")
    expected = np.rint(np.array(values, np.float64) * 255 / white).astype(int).tolist()
    for _ in range(2):
        assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == expected
    assert (
        caplog.text.count(f"{white:g} is taken for white; to say otherwise set RMAE_D2_WHITE") == 1
    )
    monkeypatch.setenv("RMAE_D2_WHITE", "65535")
    expected = np.rint(np.array(values, np.float64) / 257).astype(int).tolist()
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == expected


def test_white_is_taken_from_the_file_first(tmp_path, monkeypatch):
    image = Image.fromarray(np.array([[0, 500, 1000]], np.uint16))
    image.save(tmp_path / "a.tif", tiffinfo={281: 1000})
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]
    for given, message in (
        ("900", "up to 1000, more than white, 900"),
        ("x", "'x' is not a number"),
    ):
        monkeypatch.setenv("RMAE_D2_WHITE", given)
        with pytest.raises(ImageReadError, match=message):
            read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    _assert_rgb(image)
    np.testing.assert_array_equal(image[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    _save(tmp_path / "a.png", photo, exif=exif)
    turned = {
        1: photo,
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.transpose(1, 0, 2),
        6: photo[::-1].transpose(1, 0, 2),
        7: photo[::-1, ::-1].transpose(1, 0, 2),
        8: photo[:, ::-1].transpose(1, 0, 2),
    }
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), turned[orientation])


def test_broken_exif_is_ignored(tmp_path, photo):
    path = _save(
        tmp_path / "a.jpg", photo, exif=b"Exif\0\0" + b"II*\0\x08\0\0\0\xff\xff" + b"\x12" * 9
    )
    _assert_rgb(read_image(path))


def test_animation_gives_first_frame(tmp_path, photo):
    frames = [Image.fromarray(photo), Image.fromarray(255 - photo)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), photo)


@pytest.mark.parametrize("shape", [(1, 1), (8, 20000), (5, 3)])
def test_odd_sizes(tmp_path, shape):
    path = _save(tmp_path / "a.png", np.full((*shape, 3), 7, np.uint8))
    _assert_rgb(read_image(str(path)), (*shape, 3))


def _truncated(path, photo):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    _save(path, noise, format="JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _damaged_png(path, photo):
    _save(path, photo, format="PNG")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8 : content.index(b"IDAT") + 40] = b"\xff" * 32
    path.write_bytes(content)


def _bomb(path, photo):
    path.write_bytes(b"P6 60000 60000 255\n" + b"\0" * 64)


def _float_pixels(path, photo):
    Image.fromarray(np.full((4, 4), -1, np.float32)).save(path, format="TIFF")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_truncated, "cut short"),
        (_damaged_png, "damaged"),
        (_bomb, "too many pixels"),
        (_float_pixels, "its pixels go from -1 to -1"),
        (lambda path, photo: path.write_bytes(b""), "0 bytes"),
        (lambda path, photo: path.write_text("not an image\n" * 99), "no image"),
        (lambda path, photo: None, "no such file"),
        *((lambda path, _, kind=kind: put_special(path, kind), f"is a {kind}") for kind in SPECIAL),
    ],
)
def test_broken_files_name_file_reason_and_remedy(tmp_path, photo, make, says):
    path = tmp_path / "broken.jpg"
    make(path, photo)
    with pytest.raises(ImageReadError) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message and says in message and "replace it" in message
    assert caught.value.path == str(path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


@pytest.mark.skipif(os.name != "posix", reason="uses RLIMIT_NOFILE")
def test_trouble_of_the_machine_is_not_the_files_fault(tmp_path, photo):
    import resource

    path = _save(tmp_path / "a.png", photo)
    read_image(path)  # imports Pillow's plug-ins
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 1
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, hard))
    try:
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        with pytest.raises(OSError, match="Too many open files"):
            read_image(path)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
