"""Finding, loading and saving configs."""

import functools
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from rmae_d2.config import apply_overrides, config_root, find, get_config, load_config, save_config
from rmae_d2.errors import UserError

COMMON = """
import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

train = dict(max_iter=100, output_dir="./output", amp=dict(enabled=True))
optimizer = L(torch.optim.AdamW)(lr=1e-4, betas=(0.9, 0.95))
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_factor=0.0,
    warmup_length=0.1,
    rescale_interval=True,
)
"""
LEAF = """
from ..common.base import lr_multiplier, optimizer, train
train.max_iter = 200
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two configs, seen as the project's own, with another folder as the cwd."""
    root = tmp_path / "repo" / "configs"
    (root / "common").mkdir(parents=True)
    (root / "pretrain").mkdir()
    (root / "common" / "base.py").write_text(COMMON)
    (root / "pretrain" / "rmae_vitb.py").write_text(LEAF)
    monkeypatch.setattr(find, "__file__", str(tmp_path / "repo" / "rmae_d2" / "config" / "find.py"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return root


def test_config_root_prefers_the_installed_package(root: Path):
    assert config_root() == root
    installed = root.parent / "rmae_d2" / "configs"
    installed.mkdir(parents=True)
    assert config_root() == installed


def test_config_root_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(find, "__file__", str(tmp_path / "rmae_d2" / "config" / "find.py"))
    with pytest.raises(UserError, match="reinstall"):
        config_root()


def test_get_config(root: Path):
    cfg = get_config("pretrain/rmae_vitb.py")
    assert isinstance(cfg, DictConfig)
    assert cfg.train.max_iter == 200
    assert cfg.optimizer._target_ is torch.optim.AdamW


def test_get_config_names_the_nearest_and_the_available(root: Path):
    with pytest.raises(UserError) as error:
        get_config("pretrain/rmae_vitB.py")
    assert "did you mean pretrain/rmae_vitb.py" in str(error.value)
    assert "available: common/base.py, pretrain/rmae_vitb.py" in str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        "configs/pretrain/rmae_vitb.py",
        "pretrain/rmae_vitb.py",
        "./configs/common/../pretrain/rmae_vitb.py",
    ],
)
def test_load_config_from_another_folder(root: Path, path: str):
    assert load_config(path).train.max_iter == 200
    assert load_config(Path(path)).train.max_iter == 200


def test_load_config_prefers_the_file_that_is_there(root: Path):
    Path("pretrain").mkdir()
    Path("pretrain/rmae_vitb.py").write_text("train = dict(max_iter=3)")
    assert load_config("pretrain/rmae_vitb.py").train.max_iter == 3
    assert load_config(root / "pretrain" / "rmae_vitb.py").train.max_iter == 200


@pytest.mark.parametrize(
    "path", ["configs/pretrain/rmae_vitbb.py", "rmae_vitb.py", "/no/rmae_vitb.py"]
)
def test_load_config_names_the_nearest(root: Path, path: str):
    with pytest.raises(UserError, match=r"no config file .*did you mean pretrain/rmae_vitb\.py"):
        load_config(path)


def test_load_config_refuses_a_folder(root: Path):
    with pytest.raises(UserError, match="no config file"):
        load_config("configs/pretrain")


def test_save_config_reads_back_and_builds_the_same(root: Path, tmp_path: Path):
    cfg = apply_overrides(get_config("pretrain/rmae_vitb.py"), ["optimizer.amsgrad=true"])
    cfg.norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)
    cfg.every = "${train.max_iter}"
    save_config(cfg, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert OmegaConf.to_container(again.train) == OmegaConf.to_container(cfg.train)
    assert apply_overrides(again, ["train.max_iter=7"]).every == 7
    assert again.norm(4).eps == 1e-6
    again.optimizer.params = [torch.nn.Parameter(torch.zeros(1))]
    optimizer = instantiate(again.optimizer)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["amsgrad"] is True
    assert optimizer.defaults["betas"] == (0.9, 0.95)


@pytest.mark.parametrize("part", [L(lambda x: x)(x=1), L(torch.nn.Identity)(function=lambda x: x)])
def test_save_config_is_loud_about_a_lambda(tmp_path: Path, part: DictConfig):
    cfg = OmegaConf.create({"part": part}, flags={"allow_objects": True})
    with pytest.raises(UserError, match=r"cannot be read back.*functools\.partial"):
        save_config(cfg, tmp_path / "config.yaml")


def test_save_config_is_loud_about_missing_values(tmp_path: Path):
    with pytest.raises(UserError, match=r"train\.x"):
        save_config(OmegaConf.create({"train": {"x": "???"}}), tmp_path / "config.yaml")


def test_save_config_leaves_what_was_there_when_it_fails(tmp_path: Path):
    file = tmp_path / "config.yaml"
    save_config(OmegaConf.create({"train": {"max_iter": 3}}), file)
    with pytest.raises(UserError, match="cannot be read back"):
        save_config(OmegaConf.create({"f": lambda: 0}, flags={"allow_objects": True}), file)
    assert load_config(file).train.max_iter == 3
    with pytest.raises(UserError, match="its folder does not exist"):
        save_config(OmegaConf.create({"train": {"max_iter": 3}}), tmp_path / "a" / "config.yaml")
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]
