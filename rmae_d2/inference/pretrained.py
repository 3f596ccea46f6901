"""``rmae_d2.load``: a trained model, ready to call, from any location.

A run's folder, a folder of `rmae_d2.save_pretrained`, a repository on the Hugging Face hub and the package's
own weights share one layout: weights, ``config.yaml`` next to them, optionally ``README.md``, the model card.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from ..checkpoint.encoder import load_encoder
from ..checkpoint.source import USUAL_FILES, local_path, parse_source
from ..config.trusted import load_trusted_config
from ..errors import CheckpointError
from ..hub_files import HUB
from ..shipped import shipped_names
from .finished_run import load_model, pick_device

CONFIG, CARD = "config.yaml", "README.md"

_FILES = (".pth", ".pt", ".bin", ".pkl", ".safetensors")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[^@]+)?")


@dataclass(frozen=True)
class Origin:
    """Origin of a loaded model, kept in its attribute ``origin`` for saving it."""

    weights: str
    folder: Path  #: of the weights, with the run's events or a model card
    config: DictConfig | None  #: of the whole run; None for a bare encoder


def load(
    path_or_name: str | Path, *, device: str = "auto", num_heads: int | None = None, **hub: Any
) -> nn.Module:
    """Loads a trained model, in evaluation mode.

            rmae_d2.load("output/rmae")  # a run: its model_final.pth, built from its config.yaml
            rmae_d2.load("output/rmae/model_0000999.pth")
            rmae_d2.load("rmae-d2://rmae_scenes")  # shipped with the package
            rmae_d2.load("org/name@revision")  # on the hub, or hf://org/name@revision
            rmae_d2.load("mae_pretrain_vit_base.pth")  # no config.yaml next to it: a bare encoder

    A config from the hub is built only if it names nothing but network components.

    Args:
        path_or_name: as above; an existing folder or file takes precedence over the hub.
        device: auto, cpu, cuda or cuda:0.
        num_heads: for a bare encoder, if no tensor determines it and its width is not a common one.
        hub: options of huggingface_hub's ``hf_hub_download``: token, cache_dir, local_files_only, ...

    Returns:
        The config's model: an ``RMAE``, ``Classifier``, detector or segmentor; for a bare encoder the ViT,
        see `rmae_d2.checkpoint.encoder.load_encoder`. Its attribute ``origin`` is an `Origin`.

    Raises:
        CheckpointError: if nothing is there, or the weights do not fit.
        UserError: if the config is unusable, or the device does not exist.
    """
    weights, theirs = find_weights(str(path_or_name), hub)
    folder = local_path(weights).parent
    file = folder / CONFIG
    if file.is_file():
        cfg = load_trusted_config(file) if theirs else str(file)
        config, model = load_model(weights, cfg, device=device)
    else:
        config, model = None, load_encoder(weights, num_heads)[1].to(pick_device(device))
    model.origin = Origin(weights, folder, config)
    return model


def find_weights(name: str, hub: Mapping[str, Any] | None = None) -> tuple[str, bool]:
    """Resolves a name to a weight file, local or as iopath knows it, and whether it is from a hub.

    Raises:
        CheckpointError: if there is none.
    """
    path = Path(name.partition("?")[0]).expanduser()
    if path.is_dir():
        return _in_folder(path, name), False
    if path.is_file():
        return name, False
    if name.startswith(HUB):
        here, key = local_path(name, beside=(CONFIG, CARD), hub=hub), parse_source(name).key
        return f"{here}?key={key}" if key else str(here), True
    if "://" in name:  # one file, wherever iopath finds it
        return name, parse_source(name).is_remote
    nothing = f"{name}: no such folder or weight file"
    if path.suffix in _FILES or not _HUB_NAME.fullmatch(name):
        shipped = ", ".join(shipped_names())
        raise CheckpointError(
            f"{nothing}; give a run's, or {shipped}, or org/name of the Hugging Face hub"
        )
    try:
        return find_weights(f"{HUB}{name}", hub)
    except CheckpointError as error:
        raise CheckpointError(f"{nothing}; taken for a name of the hub, {error}") from error


def _in_folder(folder: Path, name: str) -> str:
    found = local_path(str(folder))
    if found.is_file():
        return str(found)
    others = sorted(p.name for p in folder.iterdir() if p.suffix in (".pth", ".safetensors"))
    hint = f"it has {', '.join(others)}: name the file" if others else "no finished run"
    raise CheckpointError(f"{name}: none of {', '.join(USUAL_FILES)} in it; {hint}")
