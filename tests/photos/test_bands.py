"""Images of many bands, of more than 8 bits, and of phones: every test knows the values that are right."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from rmae_d2.errors import ImageReadError
from rmae_d2.listing import files_below
from rmae_d2.photos.bands import as_bytes, picture_of, read_bands
from rmae_d2.photos.reading import Photo, read_for_regions, read_image
from rmae_d2.regions.sources.felzenszwalb import felzenszwalb

H, W, C = 20, 30, 7


def ramp(dtype=np.uint16, bands=C):
    """(H, W, C): of band k at (y, x) 1000 k + 30 y + x; of bytes the remainder."""
    y, x, k = np.mgrid[:H, :W, :bands]
    return (1000 * k + W * y + x).astype(dtype)


def tiff(path, values, **options):
    tifffile.imwrite(path, values, **{"photometric": "minisblack", **options})
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "contig"},
        {"planarconfig": "separate"},
        {"compression": "lzw", "planarconfig": "contig"},
        {"compression": "zstd", "planarconfig": "contig", "tile": (16, 16)},
        {"bigtiff": True, "byteorder": ">", "planarconfig": "contig"},
    ],
)
def test_seven_bands_however_they_are_stored(tmp_path, options):
    values = ramp()
    stored = values.transpose(2, 0, 1) if options["planarconfig"] == "separate" else values
    path = tiff(tmp_path / "a.tif", stored, **options)
    bands = np.asarray(Photo(path, all_bands=True))
    assert bands.dtype == np.float32 and bands.flags.writeable
    np.testing.assert_array_equal(bands, values)


def test_pages_of_one_size_are_bands(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for k in range(5):
            file.write(ramp()[..., k], photometric="minisblack", contiguous=True)
    bands = np.asarray(Photo(tmp_path / "a.tif", all_bands=True))
    np.testing.assert_array_equal(bands, ramp(bands=5))


def test_of_a_pyramid_the_whole_image_is_taken(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(ramp(np.uint8), photometric="minisblack", planarconfig="contig", subifds=1)
        small = ramp(np.uint8)[::2, ::2]
        file.write(small, photometric="minisblack", planarconfig="contig", subfiletype=1)
    bands = np.asarray(Photo(tmp_path / "a.tif", all_bands=True))
    assert bands.dtype == np.uint8
    np.testing.assert_array_equal(bands, ramp(np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8])
def test_no_data_are_nan(tmp_path, dtype):
    values = ramp(dtype, 4)
    absent = 255 if dtype is np.uint8 else -9999
    values[values == 255] = 0
    values[3:5, 7] = absent
    tag = [(42113, "s", 0, str(absent), True)]
    path = tiff(tmp_path / "a.tif", values, planarconfig="contig", extratags=tag)
    bands = np.asarray(Photo(path, all_bands=True))
    assert bands.dtype == np.float32 and np.isnan(bands).sum() == 8
    assert np.isnan(bands[3:5, 7]).all()
    np.testing.assert_array_equal(np.nan_to_num(bands, nan=absent), values.astype(np.float32))
    picture = picture_of(bands)
    assert (picture[3:5, 7] == 0).all() and picture.max() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_as_pillow_turns_it(tmp_path, orientation):
    values = ramp(np.uint8, 3)
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF", exif=exif, tiffinfo={274: orientation})
    (tmp_path / "a.tif").write_bytes(file.getvalue())
    expected = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(Photo(tmp_path / "a.tif", all_bands=True), expected)
    assert expected.shape[:2] == ((H, W) if orientation < 5 else (W, H))


def test_a_png_of_16_bits_keeps_them(tmp_path):
    values = ramp(np.uint16, 3)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(values))
    np.testing.assert_array_equal(Photo(tmp_path / "a.png", all_bands=True), values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), values >> 8)


def test_photos_have_the_channels_that_they_have(tmp_path):
    rgba = ramp(np.uint8, 4)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba[..., 0]).save(tmp_path / "b.png")
    Image.fromarray(rgba[..., :3]).save(tmp_path / "c.jpg")
    assert np.asarray(Photo(tmp_path / "a.png", all_bands=True)).tolist() == rgba.tolist()
    assert Photo(tmp_path / "b.png", all_bands=True).shape == (H, W, 1)
    whole = np.asarray(Photo(tmp_path / "c.jpg", all_bands=True))
    np.testing.assert_array_equal(whole, read_image(tmp_path / "c.jpg"))


def test_a_picture_shows_three_bands_from_their_2nd_to_their_98th_percentile(tmp_path, monkeypatch):
    path = tiff(tmp_path / "a.tif", ramp(), planarconfig="contig")
    picture = read_image(path)
    assert picture.shape == (H, W, 3) and picture.dtype == np.uint8
    one = np.arange(H * W, dtype=np.float64).reshape(H, W)
    low, high = np.quantile(one, (0.02, 0.98))
    expected = np.rint(((one - low) / (high - low)).clip(0, 1) * 255)
    for band in range(3):
        assert np.abs(picture[..., band] - expected).max() <= 1
    values = ramp()
    values[..., 6] = values[::-1, :, 6]
    tiff(path, values, planarconfig="contig")
    monkeypatch.setenv("RMAE_D2_BANDS", "7,2,1")
    np.testing.assert_array_equal(read_image(path)[..., 0], picture[::-1, :, 0])
    np.testing.assert_array_equal(read_image(path)[..., 1:], picture[..., 1:])


@pytest.mark.parametrize("said", ["8,1,2", "0,1,2", "1,2", "red"])
def test_bands_that_there_are_not(tmp_path, monkeypatch, said):
    path = tiff(tmp_path / "a.tif", ramp(), planarconfig="contig")
    monkeypatch.setenv("RMAE_D2_BANDS", said)
    with pytest.raises(ImageReadError, match="are not three numbers of bands from 1 to 7"):
        read_image(path)


def test_regions_of_all_bands(tmp_path):
    """A square that only the sixth band shows is a segment; of the first three there is one alone."""
    values = np.full((40, 40, C), 100, np.uint16)
    values[10:30, 10:30, 5] = 4000
    path = tiff(tmp_path / "a.tif", values, planarconfig="contig")
    seen = read_for_regions(path)
    assert seen.shape == (40, 40, C) and seen.dtype == np.uint8
    labels = felzenszwalb(seen, (50,), sigma=0)[0]
    np.testing.assert_array_equal(labels, values[..., 5] > 100)
    assert felzenszwalb(read_image(path), (50,)).max() == 0


def test_even_bands_and_bands_without_data():
    values = np.stack([np.full((4, 4), 7.0), np.full((4, 4), np.nan)], axis=-1)
    assert as_bytes(values).tolist() == np.zeros((4, 4, 2)).tolist()


def test_what_cannot_be_read_is_told(tmp_path):
    path = tiff(tmp_path / "a.tif", ramp(), planarconfig="contig")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    for all_bands in (False, True):
        with pytest.raises(ImageReadError, match="a.tif: it is damaged"):
            Photo(path, all_bands)
    tag = [(42113, "s", 0, "none", True)]
    tiff(path, ramp(), planarconfig="contig", extratags=tag)
    with pytest.raises(ImageReadError, match="GDAL_NODATA, says 'none', no number"):
        Photo(path)
    tiff(path, ramp(np.complex64, 2), planarconfig="contig")
    with pytest.raises(ImageReadError, match="complex64, not real numbers"):
        Photo(path, all_bands=True)
    (tmp_path / "b.tif").write_text("no image")
    with pytest.raises(ImageReadError, match="no image in a format"):
        read_image(tmp_path / "b.tif")


def test_heic_and_avif_are_read_upright(tmp_path, caplog):
    """Blue left, red right; the HEIC lies on its side in the file."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    values = np.zeros((64, 96, 3), np.uint8)
    values[:, :48, 2] = values[:, 48:, 0] = 250
    turned = Image.Exif()
    turned[274] = 6  # shown turned to the right: what is left becomes the top
    Image.fromarray(values).save(tmp_path / "a.heic", quality=95, exif=turned.tobytes())
    Image.fromarray(values).save(tmp_path / "b.avif", quality=95)
    upright = read_image(tmp_path / "a.heic").astype(int)
    assert upright.shape == (96, 64, 3)
    assert np.abs(upright[10, 32] - [0, 0, 250]).max() < 12
    assert np.abs(upright[85, 32] - [250, 0, 0]).max() < 12
    avif = read_image(tmp_path / "b.avif").astype(int)
    assert avif.shape == (64, 96, 3) and np.abs(avif[32, 10] - [0, 0, 250]).max() < 12
    assert files_below(str(tmp_path))[0] == ["a.heic", "b.avif"]


def test_read_bands_of_a_palette():
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    file = io.BytesIO()
    image.save(file, "GIF")
    assert read_bands(file.getvalue()).tolist() == [[[9, 8, 7]] * 3] * 2
