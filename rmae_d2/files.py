"""Files that are either whole or not there."""

import contextlib
import os
import shutil
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from detectron2.utils.file_io import PathManager

from .errors import CheckpointError


def atomic_save(content: Any, path: str) -> None:
    """``torch.save`` that never leaves half a file under its final name; see :func:`atomic_write`."""
    atomic_write(lambda file: torch.save(content, file), path)


def atomic_write(write: Callable[[BinaryIO], object], path: str) -> None:
    """Writes a file that never stands half written under its final name.

    Written beside the target, flushed to the disk, then renamed. For a remote path the storage's own put is
    atomic or not, so it is written as it is.

    Args:
        write: puts the content into an open file.
        path: local, or anything iopath opens.

    Raises:
        CheckpointError: where the disk is full or not writable, naming file and free space. Nothing that was
            there before is touched.
    """
    if "://" in path:
        with PathManager.open(path, "wb") as remote:
            write(remote)
        return
    temporary = f"{path}.tmp{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        # torch wraps a full disk in a RuntimeError.
        if not isinstance(error, (OSError, RuntimeError)):
            raise
        raise CheckpointError(
            f"{path}: could not be written ({error!s:.120}); {free_space(path)}. Earlier "
            "checkpoints are untouched: make room, or lower train.checkpointer.max_to_keep, then continue "
            "with --resume"
        ) from error


def free_space(path: str) -> str:
    """How much room there is where a file was to be written, in words."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return "its folder does not exist"
    return f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB are free there"
