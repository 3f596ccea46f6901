"""Weight files: written whole, and read without running what they hold."""

import argparse
import re
import zipfile
from typing import Any

import torch
from detectron2.utils.file_io import PathManager

from ..errors import CheckpointError, UserError
from ..files import atomic_file, free_space
from .numpy_pickle import load_numpy_pickle

#: What to do where a checkpoint could not be written.
ROOM = (
    "Earlier checkpoints are untouched: make room, or lower train.checkpointer.max_to_keep, then continue "
    "with --resume"
)


def atomic_save(content: Any, path: str) -> None:
    """``torch.save`` that never leaves half a file under its final name; see :func:`.atomic_file`.

    Raises:
        CheckpointError: where the disk is full or not writable.
    """
    try:
        with atomic_file(path) as file:
            torch.save(content, file)
    except UserError as error:
        raise CheckpointError(f"{error}. {ROOM}") from error
    except RuntimeError as error:  # in which torch wraps what the disk says
        room = f"{free_space(path)}. {ROOM}"
        raise CheckpointError(f"{path}: could not be written ({error!s:.120}); {room}") from error


def read_file(path: str) -> Any:
    """The content of one weight file, loaded without running code from it."""
    try:
        local = PathManager.get_local_path(path)
        if local.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(local)
        if local.endswith(".pkl") and not zipfile.is_zipfile(local):
            with open(local, "rb") as file:
                return load_numpy_pickle(file)
        # MAE's own files hold their command line.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(local, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such weight file") from error
    except Exception as error:  # torch, pickle, zip and safetensors each raise their own
        foreign = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if foreign:
            raise CheckpointError(
                f"{path}: not a readable weight file: it holds {foreign[1]}, which is no tensor, and loading "
                "it could run code from the file. If you trust whoever made it, load it with their code and "
                "save the state dict alone (torch.save or safetensors)"
            ) from error
        raise CheckpointError(
            f"{path}: not a readable weight file ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}). It may be cut short: "
            "copy or download it again, or take an earlier checkpoint"
        ) from error
