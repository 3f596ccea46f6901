"""``rmae_d2.load``: a trained model of ours, ready to call, from wherever it is.

A run's folder, a folder of :func:`rmae_d2.save_pretrained`, a repository on the Hugging Face hub and what the
package ships are the same: weights, ``config.yaml`` beside them, and maybe ``README.md``, the model card.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from ..checkpoint import local_path
from ..checkpoint.encoder import load_encoder
from ..config.trusted import load_trusted_config
from ..errors import CheckpointError
from ..modeling.hub import what_it_says
from ..shipped import FILE, PREFIX, shipped_names
from .finished_run import load_model, pick_device

#: Of a folder, the weights that are loaded: the first of these that is there.
WEIGHTS = ("model_final.pth", FILE)
CONFIG, CARD = "config.yaml", "README.md"
HUB = "hf://"
_FILES = (".pth", ".pt", ".bin", ".pkl", ".safetensors")

_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^@]+))?")


@dataclass(frozen=True)
class Origin:
    """Where a loaded model comes from, as its attribute ``origin``; for saving it."""

    weights: str
    folder: Path  #: of the weights, with the run's events or a model card
    config: DictConfig | None  #: of the whole run; None for a bare encoder


def load(
    path_or_name: str | Path, *, device: str = "auto", num_heads: int | None = None, **hub: Any
) -> nn.Module:
    """Loads a trained model, in evaluation mode.

        rmae_d2.load("output/rmae")  # a run: its model_final.pth, built as its config.yaml says
        rmae_d2.load("output/rmae/model_0000999.pth")
        rmae_d2.load("rmae-d2://rmae_scenes")  # what the package ships
        rmae_d2.load("org/name@revision")  # of the hub, or hf://org/name@revision
        rmae_d2.load("mae_pretrain_vit_base.pth")  # no config.yaml beside it: a bare encoder

    A config of the hub's is built only if it names nothing but parts of networks.

    Args:
        path_or_name: as above; a folder or file that exists is not looked for on the hub.
        device: auto, cpu, cuda or cuda:0.
        num_heads: of a bare encoder, where no tensor tells it and its width is no common one.
        hub: of huggingface_hub's ``snapshot_download``: token, cache_dir, local_files_only, ...

    Returns:
        the config's model: an ``RMAE``, ``Classifier``, detector or segmentor; of a bare encoder the ViT, see
        :func:`rmae_d2.checkpoint.encoder.load_encoder`. Its attribute ``origin`` is an :class:`Origin`.

    Raises:
        CheckpointError: nothing there, or weights that do not fit.
        UserError: a config that cannot be used; a device that is not there.
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
    """The weight file that a name means, on this machine or as iopath knows it; whether it is of a hub.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(name.partition("?")[0]).expanduser()
    if path.is_dir():
        return _in_folder(path, name), False
    if path.is_file():
        return name, False
    match = _HUB_NAME.fullmatch(name.removeprefix(HUB))
    if match and (name.startswith(HUB) or path.suffix not in _FILES):
        given = dict(hub or {})
        revision = match["revision"] or given.pop("revision", None)
        return _in_folder(_fetch(match["repo"], revision, given), name), True
    if "://" in name:  # one file, wherever iopath finds it
        return name, not name.startswith(PREFIX)
    raise CheckpointError(
        f"{name}: no such folder or weight file; give a run's, or {', '.join(shipped_names())}, or org/name "
        "of the Hugging Face hub"
    )


def _in_folder(folder: Path, name: str) -> str:
    for file in WEIGHTS:
        if (folder / file).is_file():
            return str(folder / file)
    others = sorted(p.name for p in folder.iterdir() if p.suffix in (".pth", ".safetensors"))
    hint = f"it has {', '.join(others)}: name the file" if others else "no finished run"
    raise CheckpointError(f"{name}: neither {' nor '.join(WEIGHTS)} in it; {hint}")


def _fetch(repo: str, revision: str | None, given: Mapping[str, Any]) -> Path:
    """A repository's files in the hub's cache, fetched where they are not there or have changed."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    files = [*WEIGHTS, CONFIG, CARD]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=files, **given))
    except HfHubHTTPError as error:
        why = what_it_says(error)
    except (OSError, HTTPError):  # its many kinds for no network, HF_HUB_OFFLINE, an empty cache
        at = f" --revision {revision}" if revision else ""
        why = (
            "not in the hub's cache, and the hub is not reached; where there is a network: hf download "
            f"{repo}{at}, then copy the cache, HF_HOME, here"
        )
    name = f"{repo}@{revision}" if revision else repo
    raise CheckpointError(f"{name}: no such folder here; on the Hugging Face hub: {why}")
