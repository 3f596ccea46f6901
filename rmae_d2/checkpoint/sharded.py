"""Checkpoints as folders, to which every process writes its own shards (torch.distributed.checkpoint).

model_0000999/
  __0_0.distcp ...   the processes' shards of all sharded tensors
  .metadata          which part of which tensor is where
  state.pth          everything else; the list of tensors; sizes and SHA-256 of the other files

Any number of processes can read what another number wrote; a single process can also read whole tensors.
"""

import contextlib
import functools
import inspect
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from ..errors import CheckpointError
from ..files import free_space
from ..hub_files import INDEX
from .source import USUAL_FILES, local_path, shards_of
from .weight_file import ROOM, atomic_save, file_hash, read_file

_STATE = "state.pth"


def save_sharded(content: dict[str, Any], path: str) -> None:
    """Write nested dicts whose sharded tensors are DTensors; called by all processes together.

    As with a single file, nothing half-written ever has the final name: the folder is written under a
    temporary name, flushed to disk, then renamed. Plain tensors are taken from the main process.

    Args:
        content: the same keys in every process.
        path: the folder, on storage shared by all processes. Anything already there is replaced.

    Raises:
        CheckpointError: in all processes, if it could not be written.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    temporary = Path(f"{path}.tmp")
    shards: dict[str, Tensor] = {}
    facts: dict[str, dict[str, Any]] = {}
    rest = _without_shards(content, (), shards, facts)
    hashes: dict[str, str] = {}
    error: BaseException | None = None
    try:
        if comm.is_main_process() and temporary.exists():
            shutil.rmtree(temporary)
        comm.synchronize()
        dcp.save(shards, checkpoint_id=str(temporary), process_group=_group())
        hashes = {file.name: file_hash(file) for file in _own_files(temporary)}
    except (CheckpointException, OSError, RuntimeError) as failure:
        error = failure
    _raise_together(error, path)
    try:
        files = _files_of_all(temporary)
        hashes = {name: value for own in comm.all_gather(hashes) for name, value in own.items()}
        if comm.is_main_process():
            state = {"rest": rest, "tensors": facts, "files": files, "sha256": hashes}
            atomic_save(state, str(temporary / _STATE))
            _move_into_place(temporary, Path(path))
    except (CheckpointError, OSError) as failure:
        error = failure
    _raise_together(error, path)


def read_checkpoint(path: str) -> Any:
    """Read weights stored as one file, several with an index, or a folder from `save_sharded`.

    Args:
        path: in any form that `source` accepts.

    Raises:
        CheckpointError: the weights are missing or damaged.
    """
    local = local_path(path)
    if local.is_dir():
        return read_sharded(str(local))
    if not local.name.endswith(INDEX):
        return read_file(str(local), path)
    content: dict[str, Any] = {}
    for file in shards_of(local):
        shard = read_file(str(file))
        twice = content.keys() & shard.keys()
        if twice:
            raise CheckpointError(
                f"{local}: two of its shards have {min(twice)}: one is another model's"
            )
        content |= shard
    return content


def read_sharded(path: str, mesh: Any = None) -> dict[str, Any]:
    """Read what `save_sharded` wrote.

    Args:
        mesh: a one-dimensional device mesh: all its processes read together, each its own shards, on the
            mesh's device. None: this process reads whole tensors, on the CPU.

    Raises:
        CheckpointError: files are missing or damaged; raised in all processes of the mesh.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    state, error = None, None
    try:
        state = _checked_state(path, alone=mesh is None)
    except CheckpointError as failure:
        error = failure
        if mesh is None:
            raise
    if mesh is not None:
        _agree(error)
    assert state is not None
    tensors = {key: _empty(fact, mesh) for key, fact in state["tensors"].items()}
    options: dict[str, Any] = {"process_group": _group()} if mesh is not None else {}
    if mesh is None and "no_dist" in inspect.signature(dcp.load).parameters:  # not in torch 2.6
        options["no_dist"] = True
    try:
        with warnings.catch_warnings():  # reading in one process alone is intended
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(tensors, checkpoint_id=path, **options)
    except (CheckpointException, OSError, RuntimeError, EOFError) as failure:
        raise CheckpointError(
            f"{path}: not a readable checkpoint folder ({_first_line(failure)}): it is damaged, take an "
            "earlier checkpoint"
        ) from failure
    content: dict[str, Any] = state["rest"]
    for key, fact in state["tensors"].items():
        *parents, name = fact["path"]
        node = content
        for parent in parents:
            node = node[parent]
        node[name] = tensors[key]
    return content


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint, folder or file; a folder is first renamed, because deleting it takes a while."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    doomed = path.with_name(f"{path.name}.old.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, doomed)
        shutil.rmtree(doomed)


def _without_shards(
    node: dict[Any, Any],
    path: tuple[Any, ...],
    shards: dict[str, Tensor],
    facts: dict[str, dict[str, Any]],
) -> dict[Any, Any]:
    """Copy nested dicts without their DTensors, which go into ``shards``, described in ``facts``."""
    from torch.distributed.tensor import DTensor

    kept: dict[Any, Any] = {}
    for name, value in node.items():
        place = (*path, name)
        if isinstance(value, dict):
            kept[name] = _without_shards(value, place, shards, facts)
        elif isinstance(value, DTensor):
            key = ".".join(map(str, place))
            shards[key] = value
            facts[key] = {"path": list(place), "shape": list(value.shape), "dtype": value.dtype}
        else:
            kept[name] = value
    return kept


def _empty(fact: dict[str, Any], mesh: Any) -> Tensor:
    if mesh is None:
        return torch.empty(fact["shape"], dtype=fact["dtype"])
    from torch.distributed.tensor import Shard, empty

    return empty(*fact["shape"], dtype=fact["dtype"], device_mesh=mesh, placements=[Shard(0)])


def _files_of_all(folder: Path) -> dict[str, int]:
    """Names and sizes of the files that the processes see; the main process must see them all."""
    seen = comm.all_gather({file.name: file.stat().st_size for file in folder.iterdir()})
    missing = {name for files in seen for name in files} - set(seen[0])
    if missing:
        raise CheckpointError(
            f"{folder}: the main process does not see {', '.join(sorted(missing)[:3])}, which others wrote: "
            "train.output_dir must be on storage that all machines share"
        )
    return dict(seen[0])


def _own_files(folder: Path) -> list[Path]:
    """The files that this process wrote; for the main process, also the common ones."""
    files = [(file, re.match(r"__(\d+)_", file.name)) for file in folder.iterdir()]
    rank = comm.get_rank()
    return [file for file, match in files if (int(match[1]) if match else 0) == rank]


def _move_into_place(temporary: Path, path: Path) -> None:
    _flush(temporary)
    if path.exists():  # after a run was set back to an earlier checkpoint
        remove_checkpoint(path)
    os.replace(temporary, path)
    _flush(path.parent)


def _flush(folder: Path) -> None:
    """Flush a folder's entries to disk; does nothing where folders cannot be opened (Windows)."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checked_state(path: str, alone: bool) -> dict[str, Any]:
    """Load ``state.pth`` of a folder after checking that all files are present and unchanged.

    Unless alone, the processes divide the files among themselves for hashing.
    """
    if not os.path.isfile(os.path.join(path, _STATE)):
        raise CheckpointError(
            f"{path}: no weights in it: neither {', '.join(USUAL_FILES)} nor a whole checkpoint, for it has "
            f"no {_STATE}"
        )
    state = read_file(os.path.join(path, _STATE))
    if not isinstance(state, dict) or not {"rest", "tensors", "files"} <= state.keys():
        raise CheckpointError(f"{path}: not a checkpoint folder: its {_STATE} is something else")
    hashes = state.get("sha256", {})  # 0.1 wrote none
    rank, size = (0, 1) if alone else (comm.get_rank(), comm.get_world_size())
    for i, (name, length) in enumerate(sorted(state["files"].items())):
        file = Path(path) / name
        expected = hashes.get(name) if i % size == rank else None
        try:
            found = f"{file.stat().st_size} bytes, of {length} bytes"
            if file.stat().st_size == length:
                whole = expected is None or file_hash(file) == expected
                found = "" if whole else "damaged (checksum)"
        except FileNotFoundError:
            found = "missing"
        except OSError as error:
            found = f"not readable ({error})"
        if found:
            raise CheckpointError(
                f"{path}: not a whole checkpoint: {name} is {found}. Copy it again, or take an earlier "
                "checkpoint"
            )
    return state


@functools.lru_cache
def _group() -> Any:
    """The processes planning together, on the CPU: NCCL would send their pickled plans through the GPUs."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


def _raise_together(error: BaseException | None, path: str) -> None:
    """Raise in all processes if one of them failed to write."""
    if error is not None and not isinstance(error, CheckpointError):
        error = CheckpointError(
            f"{path}: could not be written ({_first_line(error)}); {free_space(path)}. {ROOM}"
        )
    try:
        _agree(error)
    except CheckpointError:
        if comm.is_main_process():
            shutil.rmtree(f"{path}.tmp", ignore_errors=True)
        raise


def _agree(error: BaseException | None) -> None:
    """Raise the first process's error in all of them."""
    messages = [m for m in comm.all_gather(None if error is None else str(error)) if m]
    if messages:
        raise CheckpointError(messages[0]) from error


def _first_line(error: BaseException) -> str:
    """The error of one process, where torch reports those of all with their tracebacks."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}"
