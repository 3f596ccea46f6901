import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.data import build_eval_loader, build_train_loader
from rmae_d2.data.datasets.semantic import semantic_dataset
from rmae_d2.data.semantic_mapper import SemanticDatasetMapper
from rmae_d2.data.semantic_transforms import LimitedClassCrop, PhotometricDistortion
from rmae_d2.errors import AnnotationError, ImageReadError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images whose red channel tells the label, in blocks of 16 pixels, and labels: 0 is not a class."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(4):
        labels = rng.integers(0, 6, (5 + i, 9), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
        image = np.stack([labels * 40, labels * 0, labels * 0 + 90], axis=-1)
        for name, pixels in (("images", image), ("labels", labels)):
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def dicts(folder):
    own = {"images": str(folder / "images"), "labels": str(folder / "labels")}
    return semantic_dataset(**own, num_classes=5, zero_is_ignored=True)


@given(
    seed=st.integers(0, 2**31),
    shorter=st.integers(50, 150),
    crop=st.integers(8, 64),
    padded=st.integers(0, 70),
    index=st.integers(0, 3),
)
def test_labels_follow_the_image(dicts, seed, shorter, crop, padded, index):
    """Whatever is drawn: away from the blocks' borders, the colour says the label."""
    mapper = SemanticDatasetMapper(
        is_train=True,
        augmentations=[
            T.ResizeShortestEdge((shorter, 2 * shorter), 400, "range"),
            LimitedClassCrop(crop),
            T.RandomFlip(),
        ],
        pad_to=padded,
    )
    np.random.seed(seed)
    before = dict(dicts[index])
    sample = mapper(dicts[index])
    assert dicts[index] == before
    if sample is None:
        return
    image, labels = sample["image"], sample["sem_seg"]
    assert image.dtype == labels.dtype == torch.uint8 and image.shape[1:] == labels.shape
    assert all(padded <= side <= max(padded, crop) for side in labels.shape)
    assert ((labels < 5) | (labels == 255)).all() and (labels != 255).any()
    value = torch.where(labels == 255, 0, labels + 1).float()
    inside = (image[1] == 0) & (image[2] == 90)  # not padding
    around = F.max_pool2d(torch.stack([value, -value])[None], 7, 1, 3)[0]
    same = inside & (around[0] == -around[1])  # far from other labels
    framed = F.pad(inside.float()[None], (4, 4, 4, 4))[None]
    same &= -F.max_pool2d(-framed, 9, 1)[0, 0] > 0  # and from what the crop cuts off
    assert ((image[0] - 40 * value).abs() <= 2)[same].all()
    assert (labels[~inside] == 255).all()
    assert sample["height"] == 16 * (5 + index) and sample["width"] == 144


def test_test_time(dicts):
    mapper = SemanticDatasetMapper(is_train=False, augmentations=[T.ResizeShortestEdge(20, 100)])
    sample = mapper(dicts[0])
    assert sample["image"].shape == (3, 20, 36) and sample["original"].shape == (3, 80, 144)
    assert (sample["height"], sample["width"]) == (80, 144) and "sem_seg" not in sample
    assert sample["sem_seg_file_name"] == dicts[0]["sem_seg_file_name"]
    same = SemanticDatasetMapper(is_train=False, augmentations=[])(dicts[0])
    assert "original" not in same and (same["image"] == sample["original"]).all()


def test_a_crop_without_labels_is_refused(dicts, tmp_path):
    bare = {**dicts[0], "sem_seg_file_name": str(tmp_path / "bare.png")}
    Image.new("L", (144, 80)).save(bare["sem_seg_file_name"])
    mapper = SemanticDatasetMapper(is_train=True, augmentations=[])
    assert mapper(bare) is None
    loader = build_train_loader([bare, dicts[0]], mapper, 4, num_workers=0)
    assert {sample["sem_seg_file_name"] for sample in next(iter(loader))} == {
        dicts[0]["sem_seg_file_name"]
    }


def test_bad_labels(dicts, tmp_path):
    mapper = SemanticDatasetMapper(is_train=True, augmentations=[])
    path = str(tmp_path / "bad.png")
    Image.new("L", (144, 80), 6).save(path)
    with pytest.raises(AnnotationError, match="bad.png has the label 6 at row 0, column 0"):
        mapper({**dicts[0], "sem_seg_file_name": path})
    Image.new("L", (80, 144), 1).save(path)
    with pytest.raises(AnnotationError, match="bad.png is 144x80.*0.png is 80x144"):
        mapper({**dicts[0], "sem_seg_file_name": path})
    with pytest.raises(ImageReadError, match="absent.png"):
        mapper({**dicts[0], "sem_seg_file_name": "absent.png"})


def test_unreadable_labels_are_skipped_and_named(dicts, tmp_path):
    """As unreadable images."""
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    cut = {**dicts[0], "sem_seg_file_name": str(tmp_path / "cut.png")}
    mapper = SemanticDatasetMapper(is_train=True, augmentations=[])
    batch = next(iter(build_train_loader([cut, dicts[0]], mapper, 2, num_workers=0)))
    assert any("skipped" in sample for sample in batch)


def test_the_recipe_on_own_data(folder):
    cfg = apply_overrides(
        get_config("ade20k/upernet_vitb_160k.py"),
        [
            *(f"dataloader.{x}.dataset.images={folder / 'images'}" for x in ("train", "test")),
            *(f"dataloader.{x}.dataset.labels={folder / 'labels'}" for x in ("train", "test")),
            "dataloader.train.dataset.zero_is_ignored=true",
            "model.sem_seg_head.num_classes=5",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
            "dataloader.train.total_batch_size=2",
        ],
    )
    batch = next(iter(instantiate(cfg.dataloader.train)))
    for sample in batch:
        assert sample["image"].shape == (3, 512, 512) and sample["sem_seg"].shape == (512, 512)
    tested = next(iter(instantiate(cfg.dataloader.test)))[0]
    assert min(tested["image"].shape[1:]) == 512 and tested["zero_is_ignored"]
    evaluator = instantiate(cfg.dataloader.evaluator)
    evaluator.process([tested], [{"sem_seg_labels": torch.zeros(80, 144, dtype=torch.int32)}])
    assert 0 < evaluator.evaluate()["sem_seg"]["pACC"] < 100


def test_samples_are_functions_of_their_position(dicts):
    mapper = SemanticDatasetMapper(
        is_train=True, augmentations=[LimitedClassCrop(24), PhotometricDistortion()], pad_to=24
    )
    first, again = (
        next(iter(build_train_loader(dicts, mapper, 4, num_workers=n, seed=3))) for n in (0, 1)
    )
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["sem_seg"], b["sem_seg"])
    mapper = SemanticDatasetMapper(False, augmentations=[])
    assert len(list(build_eval_loader(dicts, mapper, num_workers=0))) == 4
