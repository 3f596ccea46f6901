"""Each image once with each region source; nothing else differs."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from rmae_d2.data import (
    RandomResizedCrop,
    RegionDatasetMapper,
    SeveralSourcesLoader,
    build_reconstruction_loader,
)
from rmae_d2.errors import UserError
from rmae_d2.regions import FelzenszwalbSource, RegionRecord


class Whole:
    """The whole image is a region."""

    def __call__(self, dataset_dict, image_HWC):
        return RegionRecord.from_masks(np.ones((1, *image_HWC.shape[:2]), bool))


@pytest.fixture
def dicts(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return [{"file_name": str(tmp_path / f"{i}.png"), "image_id": i} for i in range(5)]


def _mapper(regions):
    return RegionDatasetMapper(
        augmentations=[RandomResizedCrop(32), T.RandomFlip()], regions=regions, num_regions=3
    )


def _load(dicts, mapper, also):
    return build_reconstruction_loader(dicts, mapper, also=also, batch_size=2, num_workers=0)


def test_same_images_same_masks_other_regions(dicts):
    fh = FelzenszwalbSource((20,), implementation="scikit-image")
    loader = _load(dicts, _mapper(fh), [Whole()])
    assert isinstance(loader, SeveralSourcesLoader)
    batches = list(loader)
    assert len(batches) == len(loader) == 6
    samples = [sample for batch in batches for sample in batch]
    assert [sample["region_source"] for sample in samples] == 5 * [""] + 5 * ["Whole"]
    for own, other in zip(samples[:5], samples[5:], strict=True):
        assert torch.equal(own["image"], other["image"])
        assert (own["mask_seed"], own["image_id"]) == (other["mask_seed"], other["image_id"])
        assert (other["regions"] == 7).all() and not (own["regions"] == 7).all()
    plain = [sample for batch in _load(dicts, _mapper(fh), []) for sample in batch]
    for own, alone in zip(samples[:5], plain, strict=True):
        assert "region_source" not in alone
        assert torch.equal(own["regions"], alone["regions"])


def test_names_and_refusals(dicts):
    fh = FelzenszwalbSource((20,), implementation="scikit-image")
    assert list(_load(dicts, _mapper(Whole()), [fh]).loaders) == ["", "felzenszwalb"]
    with pytest.raises(UserError, match="two region sources named 'Whole'"):
        _load(dicts, _mapper(fh), [Whole(), Whole()])
    with pytest.raises(UserError, match="a model without regions"):
        _load(dicts, _mapper(None), [Whole()])
