"""Every config loads and builds; pre-training leaves are lab notes and take anybody's images."""

import ast
import functools
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import OmegaConf

from rmae_d2.config import apply_overrides, config_root, get_config, load_config, save_config
from rmae_d2.modeling import RMAE
from rmae_d2.overrides import known_keys

ROOT = config_root()
ALL = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
LEAVES = [name for name in ALL if not name.startswith("common/")]
PRETRAIN = [name for name in LEAVES if name.startswith("pretrain/")]
SELF_SUPERVISED = [*PRETRAIN, "demo/rmae_tiny_scenes.py"]


@functools.lru_cache
def build(name):
    """Names and shapes of the model's tensors, and its class."""
    model = instantiate(get_config(name).model)
    return {key: value.shape for key, value in model.state_dict().items()}, type(model)


def test_there_are_configs():
    assert len(PRETRAIN) >= 6 and len(LEAVES) > len(PRETRAIN)


@pytest.mark.parametrize("name", ALL)
def test_every_file_loads(name):
    assert len(get_config(name))


@pytest.mark.parametrize("name", LEAVES)
def test_every_leaf_builds_its_model(name):
    cfg = get_config(name)
    shapes, _ = build(name)
    net = cfg.model.backbone.net
    encoder = [key for key in shapes if key.startswith("backbone.net.blocks.")]
    assert len(encoder) == net.depth * (14 if net.get("use_rel_pos") else 12)
    assert {"model", "optimizer", "lr_multiplier", "train", "dataloader"} <= set(cfg)
    train = get_config("common/train.py").train
    assert known_keys(train) == known_keys(cfg.train)


@pytest.mark.parametrize(
    "name, millions", [("pretrain/mae_vitb.py", (110, 113)), ("pretrain/rmae_vitl.py", (325, 335))]
)
def test_sizes(name, millions):
    count = sum(shape.numel() for shape in build(name)[0].values()) / 1e6
    assert millions[0] < count < millions[1]


@pytest.mark.parametrize("name", PRETRAIN)
def test_recipe_headers_are_lab_notes(name):
    text = ast.get_docstring(ast.parse((ROOT / name).read_text()))
    for part in ("Command:", "Batch, GPUs:", "Reproduces:", "Measured:"):
        assert part in text, part
    assert f"--config-file configs/{name}" in text
    assert Path(get_config(name).train.output_dir).parts[0] == "output"


@pytest.mark.parametrize("name", LEAVES)
def test_output_folders_differ(name):
    others = {other: get_config(other).train.output_dir for other in LEAVES if other != name}
    assert get_config(name).train.output_dir not in others.values()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from PIL import Image
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        crop = data.chelsea()[60 * i : 60 * i + 120, 100:260]
        Image.fromarray(crop).save(folder / f"{i}.jpg")
    return folder


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_own_images_in_every_recipe(name, photos):
    cfg = apply_overrides(
        get_config(name),
        [
            f"dataloader.train.dataset.root={photos}",
            f"dataloader.test.dataset.root={photos}",
            f"train.output_dir={photos.parent / 'run'}",
            "dataloader.train.total_batch_size=2",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
        ],
    )
    side = cfg.model.backbone.net.img_size
    for loader in (instantiate(cfg.dataloader.train), instantiate(cfg.dataloader.test)):
        sample = next(iter(loader))[0]
        assert sample["image"].shape == (3, side, side)
        assert sample["image"].dtype == torch.uint8 and sample["mask_seed"] >= 0
        if cfg.model.region_branch is None:
            assert "regions" not in sample
        else:
            assert sample["regions"].shape == (1, side, side) and sample["num_regions"] == 8
            assert sample["regions"].any()


@pytest.mark.parametrize("name", LEAVES)
def test_saved_configs_are_the_same(name, tmp_path):
    cfg = get_config(name)
    save_config(cfg, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert known_keys(again) == known_keys(cfg)
    save_config(again, tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()
    for section in ("optimizer", "lr_multiplier", "model"):
        target = OmegaConf.to_container(cfg)[section]["_target_"]
        assert locate(again[section]._target_) is (
            locate(target) if isinstance(target, str) else target
        )


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_the_rate_follows_the_batch(name):
    cfg = apply_overrides(
        get_config(name), ["optimizer.base_lr=2e-4", "dataloader.train.total_batch_size=512"]
    )
    cfg.optimizer.params.model = torch.nn.Linear(2, 2)
    assert instantiate(cfg.optimizer).param_groups[0]["lr"] == pytest.approx(4e-4)


def test_the_papers_recipe():
    """R-MAE, section 4 and MAE, table 8."""
    cfg = get_config("pretrain/rmae_vitb.py")
    assert cfg.train.max_iter == -(-4000 * 118_287 // 4096)
    assert cfg.dataloader.train.total_batch_size == 4096
    assert cfg.dataloader.train.mapper.regions.fallback.scales == [500, 1000, 1500]
    assert cfg.dataloader.train.mapper.num_regions == 8
    assert cfg.optimizer.base_lr == 1e-4 and list(cfg.optimizer.betas) == [0.9, 0.95]
    assert cfg.optimizer.weight_decay == 0.05 and cfg.model.mask_ratio == 0.75
    shapes, kind = build("pretrain/rmae_vitb.py")
    assert kind is RMAE
    assert shapes["backbone.net.blocks.11.mlp.fc1.weight"] == (3072, 768)
    assert shapes["pixel_decoder.blocks.7.mlp.fc1.weight"] == (2048, 512)
    assert not any(key.startswith("region_branch.neck.blocks.1.") for key in shapes)
    cocopp, imagenet = (get_config(f"pretrain/rmae_vitb_{x}.py") for x in ("cocopp", "imagenet"))
    assert cocopp.train.max_iter == -(-4000 * 241_690 // 4096)
    assert imagenet.train.max_iter == -(-800 * 1_281_167 // 4096)


def test_weight_decay_spares_norms_and_biases():
    cfg = get_config("demo/rmae_tiny_scenes.py")
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    decay = {}
    for group in instantiate(cfg.optimizer).param_groups:
        for parameter in group["params"]:
            decay[id(parameter)] = group["weight_decay"]
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                spared = name == "bias" or isinstance(module, torch.nn.LayerNorm)
                assert decay.pop(id(parameter)) == (0.0 if spared else 0.05)
    assert not decay
