"""Where configs are found, from any folder."""

from pathlib import Path

import pytest

from rmae_d2.config import config_root, find, find_config, load_config
from rmae_d2.errors import UserError


def test_config_root_prefers_the_installed_package(root: Path):
    assert config_root() == root
    installed = root.parent / "rmae_d2" / "configs"
    installed.mkdir(parents=True)
    assert config_root() == installed


def test_config_root_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(find, "__file__", str(tmp_path / "rmae_d2" / "config" / "find.py"))
    with pytest.raises(UserError, match="reinstall"):
        config_root()


@pytest.mark.parametrize(
    "path",
    [
        "configs/pretrain/rmae_vitb.py",
        "pretrain/rmae_vitb.py",
        "./configs/common/../pretrain/rmae_vitb.py",
    ],
)
def test_from_another_folder(root: Path, path: str):
    assert load_config(path).train.max_iter == 200
    assert load_config(Path(path)).train.max_iter == 200


def test_prefers_the_file_that_is_there(root: Path):
    Path("pretrain").mkdir()
    Path("pretrain/rmae_vitb.py").write_text("train = dict(max_iter=3)")
    assert load_config("pretrain/rmae_vitb.py").train.max_iter == 3
    assert load_config(root / "pretrain" / "rmae_vitb.py").train.max_iter == 200


@pytest.mark.parametrize(
    "path", ["configs/pretrain/rmae_vitbb.py", "rmae_vitb.py", "/no/rmae_vitb.py"]
)
def test_names_the_nearest(root: Path, path: str):
    with pytest.raises(UserError, match=r"no config file .*did you mean pretrain/rmae_vitb\.py"):
        find_config(path)


def test_a_folder_is_no_config(root: Path):
    with pytest.raises(UserError, match="no config file"):
        find_config("configs/pretrain")
