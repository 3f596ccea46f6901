"""Weight files: written atomically, and read without executing their content."""

import argparse
import hashlib
import os
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, UserError
from ..files import atomic_file, free_space
from .numpy_pickle import STAND_INS, load_numpy_pickle, to_tensors

#: Key in a safetensors file's metadata.
CHECKSUM = "rmae_d2.sha256"

#: What to do if a checkpoint could not be written.
ROOM = (
    "Earlier checkpoints are untouched: make room, or lower train.checkpointer.max_to_keep, then continue "
    "with --resume"
)

# MAE's own files contain their command line, and many training checkpoints contain numpy scalars.
_ALLOWED: list[Any] = [
    argparse.Namespace,
    *((stand_in, ".".join(name)) for name, stand_in in STAND_INS.items()),
]


def atomic_save(content: Any, path: str) -> None:
    """``torch.save`` that never leaves half a file under its final name; see `atomic_file`.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    try:
        with atomic_file(path) as file:
            torch.save(content, file)
    except UserError as error:
        lost = isinstance(error.__cause__, FileNotFoundError)  # not a matter of space
        remedy = "Earlier checkpoints are untouched: continue with --resume" if lost else ROOM
        raise CheckpointError(f"{error}. {remedy}") from error
    except RuntimeError as error:  # torch's wrapper around disk errors
        room = f"{free_space(path)}. {ROOM}"
        raise CheckpointError(f"{path}: could not be written ({error!s:.120}); {room}") from error


def read_file(local: str, path: str = "") -> Any:
    """Load the content of one weight file without running code from it.

    Checksums are verified if present: those of the parts of a zip, which ``torch.load`` ignores, and ours in
    a safetensors file.

    Args:
        local: the file.
        path: its name in messages, if different.

    Raises:
        CheckpointError: the file is missing, damaged, or not a weight file.
    """
    path = path or local
    try:
        _refuse_what_is_none(path, local)
        if local.endswith(".safetensors"):
            return _read_safetensors(local)
        if zipfile.is_zipfile(local):
            _check_zip(local)
        elif local.endswith(".pkl"):
            with open(local, "rb") as file:
                return load_numpy_pickle(file)
        with torch.serialization.safe_globals(_ALLOWED):
            return to_tensors(torch.load(local, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such weight file") from error
    except _DamageError as error:
        raise CheckpointError(
            f"{path}: damaged: {error}. Copy or download it again, or take another checkpoint"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # torch, pickle, zip and safetensors each raise their own
        foreign = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if foreign:
            raise CheckpointError(
                f"{path}: not a readable weight file: it holds {foreign[1]}, which is not a tensor, and "
                "loading it could run code from the file. If you trust whoever made it, load it with their "
                "code and save the state dict alone (torch.save or safetensors)"
            ) from error
        raise CheckpointError(
            f"{path}: not a readable weight file ({_reason(error)}). It may be cut short: "
            "copy or download it again, or take an earlier checkpoint"
        ) from error


class _DamageError(Exception):
    """A checksum that does not match."""


def _refuse_what_is_none(path: str, local: str) -> None:
    """Report by name the things that people find in place of weights."""
    with open(local, "rb") as file:
        beginning = file.read(200).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if beginning.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path}: a Git LFS pointer, which stands for weights that were not fetched: git lfs pull in its "
            "repository, or download the file itself"
        )
    if beginning.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(
            f"{path}: a web page (HTML or XML), not weights: the address leads to a page about the file, a "
            "login or an error. Download the file itself"
        )


def _check_zip(local: str) -> None:
    with zipfile.ZipFile(local) as archive:
        parts = archive.infolist()
        # torch can be told to write none: then all are 0.
        bad = archive.testzip() if any(part.CRC for part in parts) else None
    # torch takes a part marked as a folder, which no checksum covers, for numbers without reading any.
    folders = [p.filename for p in parts if p.external_attr & 0x10 and not p.is_dir()]
    if bad or folders:
        raise _DamageError(f"its part {bad or folders[0]} is not what was written (checksum)")


def _read_safetensors(local: str) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(local, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        expected = (file.metadata() or {}).get(CHECKSUM)
    if expected is not None and checksum(tensors) != expected:
        raise _DamageError("its tensors are not those that were written (checksum)")
    return tensors


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and numbers, which our safetensors files store as ``CHECKSUM``."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite; True for a tensor without values."""
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # One-byte types have no isfinite.
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())


def _reason(error: Exception) -> str:
    """What went wrong, without torch's advice to run what the file holds."""
    text = str(error)
    if "weights_only" in text:
        return "its pickle is broken or of another kind"
    first = next(iter(text.splitlines()), "") or "no message"
    return f"{type(error).__name__}: {first:.200}"
