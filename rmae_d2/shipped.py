"""Weights shipped with the package, by name: ``rmae-d2://rmae_scenes`` works wherever a weight file does.

::

    weights/NAME/model.safetensors  a whole pre-training model, its encoder too, in fp16
                 config.yaml        of the run that made it
                 README.md          the model card

Imports nothing large, because the default appears in ``--help``.
"""

from pathlib import Path
from typing import Any

from .errors import CheckpointError

PREFIX = "rmae-d2://"
FOLDER = Path(__file__).resolve().parent / "weights"
FILE = "model.safetensors"

#: The R-MAE that commands use if no weights are named.
DEFAULT = f"{PREFIX}rmae_scenes"


def shipped_names() -> list[str]:
    """Lists the available names."""
    return sorted(f"{PREFIX}{path.parent.name}" for path in FOLDER.glob(f"*/{FILE}"))


def shipped_file(name: str) -> Path:
    """Returns the weight file of a name.

    Raises:
        CheckpointError: if the name does not exist; lists those that do.
    """
    known = shipped_names()
    if name not in known:
        there = ", ".join(known) or f"none, for {FOLDER} holds no weights: install rmae_d2 anew"
        raise CheckpointError(
            f"{name}: no weights of that name come with rmae_d2; there are {there}"
        )
    return FOLDER / name.removeprefix(PREFIX) / FILE


def register_names(path_manager: Any) -> None:
    """Registers the names with one of iopath's path managers, for reading."""
    from iopath.common.file_io import PathHandler

    class ShippedWeights(PathHandler):  # type: ignore[misc]
        def _get_supported_prefixes(self) -> list[str]:
            return [PREFIX]

        def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
            return str(shipped_file(path))

    path_manager.register_handler(ShippedWeights(), allow_override=True)
