"""Crops of photos that are decoded in part: close to those of whole photos, and the same in all else."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from rmae_d2.data import RandomResizedCrop, RegionDatasetMapper
from rmae_d2.data.images import CropResizeTransform, Photo, PhotoInput, read_image
from rmae_d2.errors import ImageReadError
from rmae_d2.regions import MixtureOfSources, NpySource, RegionRecord


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A photograph of 1536 x 1024 pixels with edges and noise."""
    from skimage import data

    cat = Image.fromarray(data.chelsea()).resize((1536, 1024), Image.Resampling.BICUBIC)
    pixels = np.asarray(cat).astype(int)
    pixels[300:500, 200:700] = (250, 20, 40)
    noise = np.random.default_rng(0).integers(-8, 9, pixels.shape)
    path = tmp_path_factory.mktemp("large") / "cat.jpg"
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def crop(x0, y0, w, h, size=64):
    return CropResizeTransform(x0, y0, w, h, size, size, 1536, 1024)


@pytest.mark.parametrize(
    ("box", "divisor", "mean", "most"),
    [
        ((0, 0, 1536, 1024), 8, 2, 40),
        ((201, 303, 520, 513), 8, 2, 40),
        ((1017, 501, 515, 520), 8, 2, 40),
        ((333, 111, 300, 260), 4, 2, 40),
        ((333, 111, 200, 130), 2, 2, 40),
        ((333, 111, 127, 400), 1, 0, 0),
    ],
)
def test_a_crop_is_close_to_that_of_the_whole(large, monkeypatch, box, divisor, mean, most):
    asked = []
    real = Photo.at_scale
    monkeypatch.setattr(Photo, "at_scale", lambda self, d: asked.append(d) or real(self, d))
    found = crop(*box).apply_photo(Photo(large)).astype(int)
    assert asked == [divisor]
    differences = np.abs(found - crop(*box).apply_image(read_image(large)).astype(int))
    assert differences.mean() <= mean and differences.max() <= most


def test_nothing_is_shifted(tmp_path):
    """The centre of a square, to a tenth of an output pixel, wherever the crop begins."""
    pixels = np.zeros((1024, 1536, 3), np.uint8)
    pixels[400:500, 700:850] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    for x0, y0, w, h in ((301, 203, 777, 611), (515, 99, 520, 523), (0, 0, 1536, 1024)):
        tfm = crop(x0, y0, w, h)
        picture = tfm.apply_photo(Photo(tmp_path / "a.jpg"))[..., 0].astype(float)
        rows, columns = np.mgrid[:64, :64] + 0.5
        centre = [(picture * grid).sum() / picture.sum() for grid in (columns, rows)]
        np.testing.assert_allclose(centre, tfm.apply_coords(np.array([[775, 450.0]]))[0], atol=0.1)


def sample(mapper, path):
    torch.manual_seed(5)
    np.random.seed(5)
    return mapper({"file_name": str(path), "image_id": 1})


class Brightness:
    """A source that looks at pixels: those above 128."""

    def __call__(self, dataset_dict, image):
        assert isinstance(image, np.ndarray)
        return RegionRecord.from_labels((image[..., 0] > 128).astype(np.uint8)[None] + 1)


def make(regions, augmentations=None, **options):
    crop = RandomResizedCrop(64, scale=(0.4, 1))
    return RegionDatasetMapper(
        augmentations=augmentations or [crop, T.RandomFlip()], regions=regions, **options
    )


def test_everything_else_is_the_same(large, tmp_path):
    planes = np.indices((1024, 1536))[1][None] // 256 + 1
    np.save(tmp_path / "cat.npy", planes.astype(np.uint8))
    source = NpySource(str(tmp_path))
    fast, exact = sample(make(source), large), sample(make(source, exact_decode=True), large)
    difference = (fast["image"].int() - exact["image"].int()).abs()
    assert 0 < difference.float().mean() < 2
    for key in fast.keys() - {"image"}:
        same = fast[key] == exact[key]
        assert same if isinstance(same, bool) else same.all(), key


@pytest.mark.parametrize(
    "mapper",
    [
        make(Brightness()),
        make(MixtureOfSources([Brightness(), Brightness()])),
        make(None, [RandomResizedCrop(64), T.RandomBrightness(0.5, 1.5)]),
        make(None, [T.RandomFlip(), RandomResizedCrop(64)]),
    ],
    ids=["source", "mixture", "brightness", "flip first"],
)
def test_who_looks_at_pixels_sees_all_of_them(large, mapper):
    exact = make(mapper.regions, mapper.augmentations.augs, exact_decode=True)
    assert torch.equal(sample(mapper, large)["image"], sample(exact, large)["image"])


def test_a_damaged_file_is_named(large, tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(large.read_bytes()[:20_000])
    with pytest.raises(ImageReadError, match=r"cut.jpg.*cut short"):
        sample(make(None), path)


def test_an_input_is_decoded_once(large):
    photo = Photo(large)
    given = PhotoInput(photo, T.AugmentationList([T.RandomFlip(1.0)]))
    assert photo.is_scalable
    T.AugmentationList([T.RandomFlip(1.0)])(given)
    np.testing.assert_array_equal(given.image, read_image(large)[:, ::-1])
