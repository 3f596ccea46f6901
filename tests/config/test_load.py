"""Loading and saving configs."""

import functools
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from rmae_d2.config import apply_overrides, get_config, load_config, save_config
from rmae_d2.errors import UserError


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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_config_yaml_in_another_unicode(tmp_path, encoding):
    (tmp_path / "a.yaml").write_bytes("train: {max_iter: 3, name: ü}\n".encode(encoding))
    assert load_config(tmp_path / "a.yaml") == {"train": {"max_iter": 3, "name": "ü"}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "x: ü".encode("latin-1"), "a.yaml is not in UTF-8 .*Latin-1"),
        ("a.yaml", b"x: [", "a.yaml is not YAML: .*line 1"),
        ("a.py", "x = 'ü'".encode("latin-1"), "a.py is not in UTF-8 .*Latin-1"),
    ],
)
def test_a_config_that_is_no_text(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / name)
