"""Pre-training and semantic segmentation on images of five bands with holes, as a user runs them."""

import numpy as np
import pytest
import tifffile
from detectron2.config import instantiate
from omegaconf import OmegaConf
from PIL import Image

from rmae_d2 import commands
from rmae_d2.checkpoint import load_pretrained, load_weights
from rmae_d2.config import apply_overrides, get_config
from rmae_d2.errors import UserError
from rmae_d2.shipped import DEFAULT
from tests.helpers import CONFIG, SMALL_SEMANTIC, records

C = 5
SEMANTIC = CONFIG.parents[1] / "demo/semantic_tiny_ade20k.py"
KERNEL = "backbone.net.patch_embed.proj.weight"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Float TIFFs with labels; each has a corner without data."""
    folder = tmp_path_factory.mktemp("bands")
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for k in range(8):
        labels = np.zeros((40, 48), np.uint8)
        labels[10:30, 5 + k : 25 + k] = 1
        values = rng.normal(0.2, 0.01, (40, 48, C)) + 0.1 * labels[..., None]
        values[:6, :6] = -1
        tifffile.imwrite(
            folder / f"images/{k}.tif",
            values.astype(np.float32),
            photometric="minisblack",
            planarconfig="contig",
            extratags=[(42113, "s", 0, "-1", True)],
        )
        Image.fromarray(labels).save(folder / f"labels/{k}.png")
    return folder


@pytest.fixture(scope="module")
def pretrained(scenes, runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("pretrained") / "run"
    data = [
        *(f"dataloader.{x}.dataset.root={scenes / 'images'}" for x in ("train", "test")),
        "dataloader.train.mapper.all_bands=true",
    ]
    plan = ["train.max_iter=4", "train.vis_period=2", "train.eval_period=4"]
    runs.train(out, *data, *plan)
    return out


def test_the_model_follows_the_data(pretrained, scenes):
    cfg = OmegaConf.load(pretrained / "config.yaml")
    assert cfg.model.backbone.net.in_chans == C
    images = [tifffile.imread(path) for path in sorted((scenes / "images").iterdir())]
    pixels = np.concatenate([image[image[..., 0] != -1] for image in images])
    np.testing.assert_allclose(cfg.model.pixel_mean, pixels.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(cfg.model.pixel_std, pixels.std(axis=0), rtol=1e-4)
    _, weights = load_weights(str(pretrained / "model_final.pth"))
    assert weights[KERNEL].shape == (32, C, 8, 8)
    assert weights["pixel_decoder.pred.weight"].shape[0] == 8 * 8 * C


def test_losses_are_finite_and_pictures_show_the_data(pretrained):
    steps = [record for record in records(pretrained) if "loss_pixel" in record]
    assert len(steps) == 4
    assert all(0.3 < record["loss_pixel"] < 3 for record in steps)
    assert all(np.isfinite(record["grad_norm"]) for record in steps)
    pictures = sorted((pretrained / "samples").iterdir())
    shown = np.asarray(Image.open(pictures[-1]).convert("RGB"))
    assert shown.std() > 20
    assert (pretrained / "reconstruction.png").exists()


def test_weights_of_rgb_begin_for_five_bands():
    """Kernels in turn, R G B R G, scaled by 3/5, as timm has it; what predicts pixels begins anew."""
    rgb = load_weights(DEFAULT)[1][KERNEL].float()
    overrides = ["model.backbone.net.in_chans=5"]
    overrides += ["model.pixel_mean=[0,0,0,0,0]", "model.pixel_std=[1,1,1,1,1]"]
    model = instantiate(apply_overrides(get_config("study/rmae_wide.py"), overrides).model)
    load_pretrained(model, DEFAULT)
    kernel = model.state_dict()[KERNEL]
    np.testing.assert_allclose(kernel[:, [0, 1, 2]], rgb * 3 / 5, rtol=1e-6)
    np.testing.assert_allclose(kernel[:, [3, 4]], rgb[:, :2] * 3 / 5, rtol=1e-6)


def test_segmentation_from_these_weights_and_prediction(pretrained, scenes, runs, tmp_path):
    out = tmp_path / "semantic"
    data = [
        f"dataloader.{split}.dataset.{key}={scenes / key}"
        for split in ("train", "test")
        for key in ("images", "labels")
    ]
    small = [
        *SMALL_SEMANTIC,
        "model.backbone.net.patch_size=8",
        "model.backbone.net.pretrain_img_size=32",
        "train.device=cpu",
    ]
    bands = [*data, "dataloader.train.mapper.all_bands=true"]
    plan = [
        "train.max_iter=3",
        "train.log_period=1",
        "train.eval_period=3",
        "dataloader.train.dataset.num_classes=2",
        "dataloader.train.total_batch_size=4",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.mapper.augmentations.0.short_edge_length=[32,48]",
    ]
    results = runs.train(out, *small, *bands, *plan, config=SEMANTIC, tiny=False)
    assert 0 <= results["sem_seg"]["mIoU"] <= 100
    losses = [record["total_loss"] for record in records(out) if "total_loss" in record]
    assert len(losses) == 3 and np.isfinite(losses).all()
    weights = str(out / "model_final.pth")
    line = [
        "--config-file",
        out / "config.yaml",
        "--weights",
        weights,
        "--input",
        scenes / "images",
    ]
    words = ["predict", *line, "--output", tmp_path / "predicted"]
    assert commands.run([str(word) for word in words]) == 0
    labels = np.asarray(Image.open(tmp_path / "predicted/labels/0.png"))
    assert labels.shape == (40, 48) and labels.max() <= 1
    drawn = np.asarray(Image.open(tmp_path / "predicted/0.jpg"))
    assert drawn.shape[2] == 3 and drawn.std() > 10


def test_mistakes(scenes, runs, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for k, bands in enumerate((4, 4, 5)):
        values = np.ones((40, 40, bands), np.float32)
        tifffile.imwrite(
            folder / f"{k}.tif", values, photometric="minisblack", planarconfig="contig"
        )
    given = [f"dataloader.{x}.dataset.root={folder}" for x in ("train", "test")]
    bands = "dataloader.train.mapper.all_bands=true"
    with pytest.raises(UserError, match=r"2.tif has 5 bands, .*0.tif 4: a model takes one number"):
        runs.train(tmp_path / "a", *given, bands)
    data = [f"dataloader.{x}.dataset.root={scenes / 'images'}" for x in ("train", "test")]
    with pytest.raises(UserError, match=r"in_chans=4 contradicts .*0.tif, which has 5 bands"):
        runs.train(tmp_path / "b", *data, bands, "model.backbone.net.in_chans=4")
