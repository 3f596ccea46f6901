"""Find, load and save LazyConfig files; `overrides.py` applies command-line changes to them."""

import logging
import tempfile
from pathlib import Path

import yaml
from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError, did_you_mean
from ..files import atomic_file, read_text
from .find import available, config_root, find_config
from .overrides import lost_targets

logger = logging.getLogger(__name__)


def get_config(name: str) -> DictConfig:
    """Load one of the project's configs.

    Args:
        name: path below `config_root()`, e.g. "pretrain/rmae_vitb.py".

    Raises:
        UserError: no such config; the message lists the closest and all available names.
    """
    path = config_root() / name
    if not path.is_file():
        known = available()
        hint = did_you_mean(Path(name).as_posix(), known, sep="/")
        raise UserError(f"no config {name!r}; {hint}\navailable: {', '.join(known)}")
    return LazyConfig.load(str(path))


def load_config(path: str | Path) -> DictConfig:
    """Load the file named on the command line, a .py config or a saved config.yaml.

    Raises:
        UserError: there is no such file (see `find_config`, which also searches the package), or it is
            neither YAML nor text.
    """
    found = find_config(path)
    if found != str(path):
        logger.info("config %s: using %s", path, found)
    text = read_text(found)
    if not found.endswith((".yaml", ".yml")):
        return LazyConfig.load(found)
    try:
        return OmegaConf.create(yaml.unsafe_load(text), flags={"allow_objects": True})
    except yaml.YAMLError as error:
        raise UserError(f"{found} is not YAML: {' '.join(str(error).split())}") from error


def save_config(cfg: DictConfig, path: str | Path) -> None:
    """Write a config as YAML that `load_config` can read back.

    Raises:
        UserError: a "???" remains, the file could not be read back (e.g. because of a lambda), or the disk
            is full.
    """
    remedy = "use functools.partial of, or LazyCall on, a function that can be imported, no lambda"
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, "config.yaml")  # Detectron2 leaves a pickle beside one that fails
        try:
            LazyConfig.save(cfg, str(draft))
            text = draft.read_bytes()
            lost = lost_targets(yaml.unsafe_load(text))
        except OmegaConfBaseException as error:  # a "???" without a value, a reference to nothing
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} cannot be written: {reason}") from error
        except Exception as error:  # whatever YAML constructors raise
            reason = " ".join(str(error).split())
            raise UserError(f"{path} cannot be read back ({reason}): {remedy}") from error
    if lost:
        raise UserError(f"{path} cannot be read back ({', '.join(lost)}): {remedy}")
    with atomic_file(path) as file:
        file.write(text)
