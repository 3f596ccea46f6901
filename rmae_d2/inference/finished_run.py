"""Loads the model of a finished run from its files, for tools that show what it has learned."""

import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..checkpoint import load_pretrained, local_path
from ..checkpoint.source import parse_source
from ..config import apply_overrides, load_config
from ..errors import UserError
from ..modeling import RMAE

logger = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """Returns the device of a given name.

    Args:
        name: ``auto`` is this process's GPU if there is one, else the CPU; ``cuda`` the launcher's choice;
            ``mps`` the GPU of a Mac.

    Raises:
        UserError: if it is no device, or this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if _mps_is_usable() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"train.device={name}: no such device; auto, cpu, cuda, cuda:0 or mps"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"train.device={name}: there is no GPU that torch can use; take cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"train.device={name}: torch finds no GPU of a Mac; take cpu")
    return torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else device


def _mps_is_usable() -> bool:
    """Whether to use this Mac's GPU; if not, says how to enable it."""
    if not torch.backends.mps.is_available():
        return False
    if os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK") == "1":
        return True
    _say_how_to_use_mps()
    return False


@cache  # once per process
def _say_how_to_use_mps() -> None:
    logger.warning(
        "this Mac's GPU lacks some operators: PYTORCH_ENABLE_MPS_FALLBACK=1 uses it, with those on the CPU; "
        "without, all runs on the CPU"
    )


def load_model(
    weights: str,
    config: str | DictConfig,
    overrides: Sequence[str] = (),
    *,
    device: str | None = None,
    only: type[nn.Module] = nn.Module,
) -> tuple[DictConfig, Any]:
    """Loads config and model of a run, in evaluation mode.

    Args:
        weights: its checkpoint, or the name of one shipped with the package; every tensor must fit.
        config: the run's config or its file.
        overrides: ``key=value`` for the config.
        device: None for the config's.
        only: required class of the model.

    Raises:
        UserError: if the config is unusable or describes another model, or the device does not
            exist.
        CheckpointError: if weights are missing or do not fit.
    """
    name = config if isinstance(config, str) else f"the config of {weights}"
    cfg = load_config(config) if isinstance(config, str) else config
    cfg = apply_overrides(cfg, list(overrides))
    OmegaConf.set_struct(cfg, False)
    place = pick_device(device or OmegaConf.select(cfg, "train.device", default="auto"))
    if "model" not in cfg:
        raise UserError(f"{name} has no model: give the config.yaml of a run")
    model = instantiate(cfg.model)
    if not isinstance(model, only):
        raise UserError(
            f"{name}: {type(model).__name__} hides nothing and completes no regions; give the config of a "
            "pre-training run"
        )
    load_pretrained(model, weights, require_all=True)
    return cfg, model.to(place).eval()


def config_beside(weights: str) -> Path | None:
    """Returns the config.yaml next to weights, if there is one that may be read.

    One that came over a network may not, because building what it names could run anything; ``rmae_d2.load``
    checks what it names first.
    """
    if parse_source(weights).is_remote:
        return None
    config = local_path(weights).parent / "config.yaml"
    return config if config.is_file() else None


def config_of(weights: str, config_file: str | None = None) -> str:
    """Returns the config for some weights: the given one, else that of `config_beside`, which must exist."""
    name = config_file or config_beside(weights)
    if name is None:
        where = f"no config.yaml beside {weights}"
        if parse_source(weights).is_remote:
            where = f"a config.yaml that came with {weights} is not read, for it could run anything"
        raise UserError(f"{where}: name the run's with --config-file")
    return str(name)


def load_run(
    weights: str, config_file: str | None = None, overrides: Sequence[str] = ()
) -> tuple[DictConfig, RMAE]:
    """Loads config and model of a pre-training run, masking policy included, like `load_model`.

    Args:
        config_file: None for the config.yaml next to the weights.

    Raises:
        UserError: if there is no config, it describes no RMAE, or the device does not exist.
        CheckpointError: if weights are missing or do not fit.
    """
    name = config_of(weights, config_file)
    return load_model(weights, name, overrides, only=RMAE)


def names_of(weights: Sequence[str], names: Sequence[str] = ()) -> list[str]:
    """Names the files of a comparison: as given, or their stem, with the folder if needed.

    Raises:
        UserError: if the number of names differs from that of files.
    """
    if names:
        if len(names) != len(weights):
            raise UserError(f"--names: {len(names)} given for {len(weights)} weight files")
        return [*names]
    sources = [parse_source(path) for path in weights]
    paths = [Path(source.address) for source in sources]
    keys = [source.key or "" for source in sources]  # of weights within a file
    stems = [
        f"{path.name.split('.')[0]} {key}".rstrip() for path, key in zip(paths, keys, strict=True)
    ]
    return [
        stem if stems.count(stem) == 1 else f"{path.parent.name}/{stem}"
        for path, stem in zip(paths, stems, strict=True)
    ]
