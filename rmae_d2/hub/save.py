"""Save a model as a folder and upload it to the hub."""

import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from ..checkpoint.export import write_config, write_safetensors
from ..errors import UserError
from ..files import atomic_file, make_folder
from ..inference.pretrained import CARD, CONFIG, Origin, load
from ..modeling.hub import HubModel
from ..shipped import FILE
from .model_card import model_card

#: The file whose downloads a hub counts as the model's; nothing reads it.
COUNTED = "config.json"

Model = nn.Module | str | Path


def save_pretrained(
    model_or_run: Model, folder: str | Path, *, config: DictConfig | None = None
) -> list[Path]:
    """Write a model as a folder that `rmae_d2.load` and all commands accept.

        rmae_d2.save_pretrained("output/detector", "detector")
        rmae_d2.save_pretrained(model, "mine", config=cfg)

    Args:
        model_or_run: a model, or whatever ``load`` accepts, such as a run's folder.
        folder: files of an earlier model in it are replaced.
        config: its ``model`` builds this model; None for the config that the model was loaded with.

    Returns:
        the files written.

    Raises:
        UserError: the model has no config, or the folder cannot be written to.
        CheckpointError: as in ``load``.
    """
    model = model_or_run
    if not isinstance(model, nn.Module):
        model = load(model, device="cpu")
    origin = getattr(model, "origin", None)
    if config is None and isinstance(origin, Origin):
        config = origin.config
    if config is None:
        raise UserError(
            f"a {type(model).__name__} that was not loaded with its run's config: give config=, whose model "
            "builds it; of a bare encoder: rmae-d2 convert"
        )
    folder = Path(folder)
    make_folder(folder)
    weights, settings, card, count = (folder / name for name in (FILE, CONFIG, CARD, COUNTED))
    write_safetensors(model.state_dict(), weights)
    write_config(config, settings)
    theirs = None if origin is None else origin.folder / CARD
    if theirs is None or not theirs.is_file():
        text = model_card(model, config, None if origin is None else origin.folder, folder.name)
        with atomic_file(card) as file:
            file.write(text.encode())
    elif theirs.resolve() != card.resolve():
        shutil.copyfile(theirs, card)
    count.write_text('{"library_name": "rmae_d2"}\n')
    return [weights, settings, card, count]


def push_to_hub(
    model_or_run: Model, repo_id: str, *, config: DictConfig | None = None, **hub: Any
) -> str:
    """Save a model like `save_pretrained` and upload it in one commit.

    Args:
        repo_id: ``org/name``; created if it does not exist.
        hub: options of huggingface_hub's ``ModelHubMixin.push_to_hub``: private, token, branch,
            commit_message, ...

    Returns:
        the URL of the commit.
    """
    model = model_or_run
    if not isinstance(model, nn.Module):
        model = load(model, device="cpu")  # before a repository is created
    return _Pushed(model, config).push_to_hub(repo_id, **hub)


class _Pushed(HubModel):
    """Adapts any model to the mixin."""

    def __init__(self, model: nn.Module, settings: DictConfig | None) -> None:
        self.model, self.settings = model, settings

    def _save_pretrained(self, save_directory: Path) -> None:
        save_pretrained(self.model, save_directory, config=self.settings)
