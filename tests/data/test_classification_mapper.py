"""Samples of labelled photos: a function of the seed and the position; crops and colours as in timm."""

import random

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision import transforms as V

from rmae_d2.data import RandomResizedCrop, build_eval_loader, build_train_loader
from rmae_d2.data.classification_mapper import (
    ClassificationDatasetMapper,
    RandAugment,
    ResizeCenterCrop,
)
from rmae_d2.data.datasets.image_folder import classification_dataset
from rmae_d2.errors import ImageReadError, UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    from skimage import data

    folder = tmp_path_factory.mktemp("classes")
    for name, photo in (("cat", data.chelsea()), ("cup", data.coffee())):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(4):
            crop = photo[10 * i : 10 * i + 150, 100:310]
            Image.fromarray(crop).save(folder / "train" / name / f"{i}.jpg")
    return folder


def mapper(*more):
    crop = RandomResizedCrop(64, scale=(0.08, 1.0))
    return ClassificationDatasetMapper(augmentations=[crop, T.RandomFlip(prob=0.5), *more])


def seed(number):
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def test_a_sample(root):
    sample = mapper(RandAugment())(classification_dataset(root)[5])
    assert sample["image"].shape == (3, 64, 64) and sample["image"].dtype == torch.uint8
    assert sample["image"].is_contiguous() and sample["label"] == 1
    assert (sample["height"], sample["width"]) == (150, 210)
    assert sample["image_id"] == "train/cup/1.jpg" and sample["file_name"].endswith("cup/1.jpg")


def test_samples_are_functions_of_seed_and_position(root):
    """In other processes, with other batches, after a resume: the same samples; with another seed, others."""
    dataset = classification_dataset(root)

    def stream(seed=3, batch=4, workers=0, start=0, count=3, accumulate=1):
        loader = build_train_loader(
            *(dataset, mapper(RandAugment()), batch),
            seed=seed,
            num_workers=workers,
            grad_accum=accumulate,
        )
        batches = loader.start(start)
        return [s for _ in range(count * accumulate) for s in next(batches)]

    expected = stream()
    for other in (stream(workers=2), stream(batch=2, count=6), stream(accumulate=2)):
        for a, b in zip(expected, other, strict=True):
            assert a["image_id"] == b["image_id"] and a["label"] == b["label"]
            assert torch.equal(a["image"], b["image"])
    resumed = stream(start=2, count=1)
    for a, b in zip(expected[8:], resumed, strict=True):
        assert torch.equal(a["image"], b["image"])
    changed = stream(seed=4)
    assert not any(
        torch.equal(a["image"], b["image"]) for a, b in zip(expected, changed, strict=True)
    )
    # Epochs show other crops of the same images.
    again = stream(count=4)
    first = {s["image_id"]: s["image"] for s in again[:8]}
    assert not any(torch.equal(s["image"], first[s["image_id"]]) for s in again[8:])


def test_damaged_files_are_replaced_in_training_and_named_in_evaluation(root, tmp_path):
    good = classification_dataset(root)[0]
    (tmp_path / "empty.jpg").touch()
    empty = {**good, "file_name": str(tmp_path / "empty.jpg")}
    batch = next(iter(build_train_loader([good, empty], mapper(), 8, num_workers=0)))
    assert all(s["file_name"] == good["file_name"] for s in batch)
    assert "the file is empty" in next(s["skipped"][0][1] for s in batch if "skipped" in s)
    with pytest.raises(UserError, match="the file is empty"):
        next(iter(build_train_loader([empty], mapper(), 1, num_workers=0)))
    with pytest.raises(ImageReadError, match=r"empty\.jpg: the file is empty"):
        list(build_eval_loader([good, empty], mapper(), num_workers=0))


@given(
    height=st.integers(9, 160),
    width=st.integers(9, 160),
    crop=st.integers(2, 64),
    share=st.sampled_from([224 / 256, 1.0, 0.5]),
)
def test_centre_crops_are_torchvisions(height, width, crop, share):
    """Size and place, on waves: off by a pixel would be off by 30. The kernels round differently."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(0.3 * rows), np.sin(0.3 * columns), np.sin(0.2 * (rows + columns))]
    image = (127 + 100 * np.stack(waves, axis=2)).astype(np.uint8)
    transform = ResizeCenterCrop(crop, share).get_transform(image)
    found = transform.apply_image(image)
    assert found.shape == (crop, crop, 3)
    kind = V.InterpolationMode.BICUBIC
    theirs = V.Compose([V.Resize(int(crop / share), kind, antialias=True), V.CenterCrop(crop)])
    expected = theirs(torch.from_numpy(image.transpose(2, 0, 1)).clone())
    difference = found.transpose(2, 0, 1).astype(int) - expected.numpy()
    assert abs(difference).max() <= 2


def test_rectangles_and_wrong_shares():
    image = np.zeros((100, 300, 3), np.uint8)
    assert ResizeCenterCrop((40, 20)).get_transform(image).apply_image(image).shape == (40, 20, 3)
    image = np.zeros((30, 300, 3), np.uint8)
    assert ResizeCenterCrop((20, 200)).get_transform(image).apply_image(image).shape[:2] == (
        20,
        200,
    )
    with pytest.raises(UserError, match=r"crop_share=1\.5"):
        ResizeCenterCrop(224, 1.5)


@pytest.mark.parametrize("policy", ["nope", "rand-m9-x3", "rand-mhigh5x"])
def test_a_policy_that_timm_does_not_understand(policy):
    with pytest.raises(UserError, match=f"policy='{policy}' is none of timm's RandAugment"):
        RandAugment(policy)


@pytest.mark.parametrize("number", range(20))
def test_rand_augment_is_timms(number):
    """The second stage of timm's own training pipeline, from the same random numbers."""
    from skimage import data

    image = np.ascontiguousarray(data.astronaut()[:96, 150:246])
    _, theirs, _ = create_transform(
        96,
        is_training=True,
        color_jitter=None,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        separate=True,
    )
    seed(number)
    expected = np.array(theirs(Image.fromarray(image)))
    seed(number)
    transform = RandAugment().get_transform(image)
    np.testing.assert_array_equal(transform.apply_image(image), expected)
    with pytest.raises(NotImplementedError, match="pictures alone"):
        transform.apply_coords(np.zeros((1, 2)))


def test_the_strongest_operations_do_not_stop_the_run():
    """timm asks Pillow for 0 bits per pixel, which Pillow 13 refuses; it is black, as it was before."""
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    changed, black = 0, 0
    for number in range(60):
        seed(number)
        out = RandAugment("rand-m10-inc1").get_transform(image).apply_image(image)
        assert out.shape == image.shape and out.dtype == np.uint8
        changed += not np.array_equal(out, image)
        black += not out.any()
    assert 30 < changed < 60 and 0 < black < 10
