"""Find, load and save LazyConfig files; `overrides.py` changes them from the command line."""

import logging
from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError, did_you_mean
from .overrides import known_keys, lost_targets

logger = logging.getLogger(__name__)


def config_root() -> Path:
    """The folder of configs: in the installed package, else the repository's `configs/`."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise UserError(f"no configs in {package} nor beside it: reinstall rmae_d2 from its repository")


def get_config(name: str) -> DictConfig:
    """Load one of the project's configs.

    Args:
        name: path below `config_root()`, e.g. "pretrain/rmae_vitb.py".

    Raises:
        UserError: no such config; the message has the nearest and all available names.
    """
    path = config_root() / name
    if not path.is_file():
        known = _available()
        hint = did_you_mean(Path(name).as_posix(), known, sep="/")
        raise UserError(f"no config {name!r}; {hint}\navailable: {', '.join(known)}")
    return LazyConfig.load(str(path))


def load_config(path: str | Path) -> DictConfig:
    """Load the file named on the command line, a .py config or a saved config.yaml.

    "configs/pretrain/x.py" and "pretrain/x.py" also work from a folder other than the repository,
    by falling back to `config_root()`; an existing file always comes first.

    Raises:
        UserError: no such file; the message has the nearest names.
    """
    if "://" in str(path) or Path(path).is_file():  # PathManager opens remote ones
        return LazyConfig.load(str(path))
    relative = Path(path)
    parts = relative.parts[1:] if relative.parts[:1] == ("configs",) else relative.parts
    found = config_root().joinpath(*parts)
    if not relative.is_absolute() and found.is_file():
        logger.info("config %s: using %s", path, found)
        return LazyConfig.load(str(found))
    hint = did_you_mean(Path(*parts).as_posix(), _available(), sep="/")
    raise UserError(f"no config file {path} in {Path.cwd()} nor in {config_root()}; {hint}")


def save_config(cfg: DictConfig, path: str | Path) -> None:
    """Write a config as YAML that `load_config` reads again.

    Raises:
        UserError: a "???" is left, or the file does not read back, e.g. for a lambda (Detectron2
            then leaves a `.pkl` beside it) or a full disk.
    """
    try:
        LazyConfig.save(cfg, str(path))
    except OmegaConfBaseException as error:  # a "???" without a value, a reference to nothing
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be written: {reason}") from error
    remedy = "use functools.partial of, or LazyCall on, a function that can be imported, no lambda"
    try:
        again = LazyConfig.load(str(path))
        same = known_keys(again) == known_keys(cfg)
    except Exception as error:  # whatever yaml's constructors raise
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read back ({reason}): {remedy}") from error
    if lost := lost_targets(again):
        raise UserError(f"{path} cannot be read back ({', '.join(lost)}): {remedy}")
    if not same:
        raise UserError(f"{path} was not written completely: is the disk full?")


def _available() -> list[str]:
    root = config_root()
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*.py"))
