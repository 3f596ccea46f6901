"""Several crops of an image in a row, which is decoded once."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from rmae_d2.data.images import RandomResizedCrop
from rmae_d2.data.loader import _SAMPLE, StreamDataset, build_train_loader, seeded
from rmae_d2.data.mappers import RegionDatasetMapper
from rmae_d2.errors import UserError
from rmae_d2.photos import reading
from rmae_d2.regions import FelzenszwalbSource


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Large JPEGs, of which a crop alone would be decoded at half their size."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "coffee", "chelsea"):
        photo = Image.fromarray(getattr(data, name)())
        photo.resize((photo.width * 2, photo.height * 2)).save(folder / f"{name}.jpg")
    return [{"file_name": str(path), "image_id": path.stem} for path in sorted(folder.iterdir())]


def mapper(regions=None, **options):
    return RegionDatasetMapper(augmentations=[RandomResizedCrop(64)], regions=regions, **options)


def test_neighbours_show_one_image(photos):
    """Each image twice per epoch, twice in a row; the images' order is that of one view each."""
    stream = StreamDataset(photos, mapper(), 3, views_per_image=2)
    once = StreamDataset(photos, mapper(), 3)
    assert stream.size == 6 and once.size == 3
    for position in range(24):
        assert stream.index(position) == once.index(position // 2)
    samples = [stream[p] for p in range(6)]
    assert Counter(s["image_id"] for s in samples) == {"astronaut": 2, "chelsea": 2, "coffee": 2}
    for one, two in zip(samples[::2], samples[1::2], strict=True):
        assert one["image_id"] == two["image_id"] and one["mask_seed"] != two["mask_seed"]
        assert not torch.equal(one["image"], two["image"])


@pytest.mark.parametrize("regions", [None, FelzenszwalbSource([500])])
def test_a_sample_is_a_function_of_its_position(photos, regions):
    """Whatever came before it: as if decoded in full for it alone."""
    stream = StreamDataset(photos, mapper(regions), 0, views_per_image=3)
    in_a_row = [stream[p] for p in range(6)]
    for p in (4, 0, 5, 2):
        reading._shared.clear()
        with seeded(0, _SAMPLE, p, 0):
            alone = mapper(regions, exact_decode=True)(photos[stream.index(p)])
        for sample in (in_a_row[p], stream[p]):
            assert torch.equal(sample["image"], alone["image"])
            assert sample["mask_seed"] == alone["mask_seed"]
            assert regions is None or torch.equal(sample["regions"], alone["regions"])


def test_an_image_is_decoded_once(photos, monkeypatch):
    """And with one view per image as before: at its own size only as far as the crop needs."""
    decoded = []
    at_scale = reading.Photo.at_scale
    monkeypatch.setattr(
        reading.Photo,
        "at_scale",
        lambda self, divisor: decoded.append((self.path, divisor)) or at_scale(self, divisor),
    )
    stream = StreamDataset(photos, mapper(), 0, views_per_image=4)
    reading._shared.clear()
    stream.__getitems__(list(range(12)))
    assert sorted(decoded) == sorted((photo["file_name"], 1) for photo in photos)
    decoded.clear()
    alone = StreamDataset(photos, mapper(), 0)
    alone.__getitems__(list(range(12)))
    assert len(decoded) == 12 and max(divisor for _, divisor in decoded) > 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_of_the_loader(photos, num_workers):
    loader = build_train_loader(photos, mapper(), 4, num_workers=num_workers, views_per_image=2)
    assert loader.epoch_size == 6 and loader.dataset_size == 3
    batches = loader.start(0)
    for _ in range(3):
        names = [facts["image_id"] for facts in next(batches).facts]
        assert names[0] == names[1] and names[2] == names[3]


@pytest.mark.parametrize(("batch", "views"), [(4, 3), (4, 0), (2, 4)])
def test_views_divide_the_batch(photos, batch, views):
    with pytest.raises(UserError, match=f"views_per_image={views} does not divide the {batch}"):
        build_train_loader(photos, mapper(), batch, views_per_image=views)


def test_unreadable_images_are_replaced(photos, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    dicts = [*photos, {"file_name": str(broken), "image_id": "broken"}]
    stream = StreamDataset(dicts, mapper(), 0, views_per_image=2)
    samples = [stream[p] for p in range(8)]
    skipped = [s for s in samples if s.get("skipped")]
    assert len(skipped) == 2 and all(s["skipped"][0][0] == str(broken) for s in skipped)
    assert all(np.asarray(s["image"]).std() > 1 for s in samples)
