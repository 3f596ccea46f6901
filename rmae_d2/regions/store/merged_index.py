"""The merged index of a region store: where every key lies, for all processes at once.

index.npy is a uint64 (4, 1 + S + N) array that is mapped into memory, so all processes of a machine
share one copy. Column 0: format, S, N, crc32 of all other columns. S columns: number of the shard,
bytes of its tar, crc32 of the end of its idx.npz, records. N columns in the order of the first row: blake2b-8
of the key, number of the shard, offset, size. It is made of the shards' own indexes and can always
be made of them again.
"""

import logging
import os
import sys
import zlib
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError, UserError
from ...files import atomic_file
from .shards import (
    FORMAT_VERSION,
    REMEDY,
    ShardHeader,
    ShardIndex,
    check_same,
    read_index,
    redo,
    shard_files,
    shard_name,
    shard_numbers,
)

logger = logging.getLogger(__name__)

INDEX_NAME = "index.npy"
_CHUNK = 1 << 20
_END = 1024  # bytes that hold the directory of an idx.npz

Index = NDArray[np.uint64]


def write_index(folder: str | os.PathLike[str]) -> None:
    """Merges the shards' indexes into index.npy and sweeps away what killed writers left.

    Call it once all shards are complete. The file is a function of the shards and appears at once.

    Raises:
        StoreError: a shard is absent or damaged, or a key stands in two shards.
    """
    folder = os.fspath(folder)
    index, header = _merge(folder)
    there = set(index[0, 1 : 1 + int(index[1, 0])].tolist())
    missing = sorted(set(range(header.num_shards)) - there)
    if missing:
        raise StoreError(
            f"{folder} has {header.num_shards - len(missing)} of {header.num_shards} shards, "
            f"{shard_name(missing[0])} is missing; {REMEDY}"
        )
    try:
        with atomic_file(Path(folder, INDEX_NAME)) as file:
            np.lib.format.write_array(file, index, version=(1, 0), allow_pickle=False)
    except UserError as error:
        # A twin that wrote the same index may have swept this draft away.
        swept = isinstance(error.__cause__, FileNotFoundError)
        if not swept or not Path(folder, INDEX_NAME).exists():
            raise
    for pattern in ("regions-*.tmp", f"{INDEX_NAME}.*.tmp"):
        for leftover in Path(folder).glob(pattern):
            leftover.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------- the index


def load_index(folder: str) -> Index:
    """index.npy where it is whole and of these shards, else the same made of the shards' indexes."""
    try:
        path = local_path(os.path.join(folder, INDEX_NAME))
        index = _map_index(path)
        if not _is_remote(folder):
            _check_matches(index, folder)
    except FileNotFoundError:
        return _merge(folder)[0]
    except ValueError as error:
        logger.warning(
            "%s is not used: %s. The index is put together from the shards, which takes longer and "
            "memory in each process. To have it written again, %s.",
            os.path.join(folder, INDEX_NAME), error, REMEDY,
        )  # fmt: skip
        return _merge(folder)[0]
    return index


def _map_index(path: str) -> Index:
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"it is damaged ({error})") from error
    shaped = index.ndim == 2 and index.shape[0] == 4
    if index.dtype != "<u8" or not shaped or not index.flags.c_contiguous:
        raise UserError(f"it is no index, but {index.dtype} {index.shape}")
    index = np.asarray(index)  # the same mapped memory without np.memmap's slow slices
    version, shards, keys, crc = index[:, 0].tolist() if index.shape[1] else (0, 0, 0, 0)
    if version != FORMAT_VERSION or index.shape[1] != 1 + shards + keys or not shards:
        raise UserError(f"it is of format {version}, with {shards} shards, {keys} keys")
    if crc != _index_crc(index):
        raise UserError("it is damaged: its checksum does not match its contents")
    return index


def _index_crc(index: Index) -> int:
    """Of all but column 0; reads at the speed of memory."""
    crc = 0
    for row in index[:, 1:]:
        for start in range(0, row.size, _CHUNK):
            crc = zlib.crc32(row[start : start + _CHUNK].data, crc)
    return crc


def _check_matches(index: Index, folder: str) -> None:
    """ValueError where the files of a local store are not those that the index was made of."""
    known = {int(n): (int(t), int(i)) for n, t, i, _ in index[:, 1 : 1 + int(index[1, 0])].T}
    numbers = shard_numbers(os.listdir(folder))
    if set(numbers) != set(known):
        raise UserError(f"it is of {len(known)} shards, there are {len(numbers)}")
    for number, marks in known.items():
        tar, idx = (os.path.join(folder, name) for name in shard_files(number))
        if not os.path.exists(tar) or (os.path.getsize(tar), _end_crc(idx)) != marks:
            raise UserError(f"it was made before {shard_name(number)} changed")


def _end_crc(idx: str) -> int:
    """Of the zip's directory, which has the checksum of every array: as good as of all arrays."""
    with open(idx, "rb") as file:
        file.seek(-min(_END, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return zlib.crc32(file.read())


def _merge(folder: str) -> tuple[Index, ShardHeader]:
    """The merged index of the shards there are, and what they have in common."""
    numbers = shard_numbers(_names(folder))
    if not numbers:
        raise StoreError(
            f"{folder} is no region store: it has no complete shard "
            f"({shard_files(0)[1]} ...). To make one: rmae-d2 regions --output {folder}"
        )
    header: ShardHeader | None = None
    columns: list[Index] = []
    shards = np.zeros((4, len(numbers)), "<u8")
    for position, number in enumerate(numbers):
        shard = read_shard(folder, number)
        tar, idx = (os.path.join(folder, name) for name in shard_files(number))
        header = header or shard.header
        check_same(header, shard.header, idx)
        if not _is_remote(folder):
            try:
                size = os.path.getsize(tar)
            except OSError as error:
                raise StoreError(f"{tar} is missing beside its index; {redo(number)}") from error
            check_tar_size(tar, number, size, shard.tar_size)
        hashes = b"".join(key_hash(key) for key in shard.key_bytes())
        shards[:, position] = number, shard.tar_size, _end_crc(local_path(idx)), len(shard)
        place = np.full(len(shard), number, np.uint64)
        columns.append(
            np.stack([np.frombuffer(hashes, np.uint64), place, shard.offsets, shard.sizes])
        )
    assert header is not None
    keys = np.concatenate(columns, axis=1)
    order = np.argsort(keys[0], kind="stable")
    head = np.array([[FORMAT_VERSION], [len(numbers)], [len(order)], [0]], np.uint64)
    joined = np.concatenate([head, shards, keys[:, order]], axis=1)
    index = np.ascontiguousarray(joined, "<u8")  # row by row, also when it was joined by columns
    index[3, 0] = _index_crc(index)
    _check_unique(folder, index)
    return index, header


def _check_unique(folder: str, index: Index) -> None:
    keys = index[:, 1 + int(index[1, 0]) :]
    for row in np.flatnonzero(keys[0, 1:] == keys[0, :-1]).tolist():
        names = []
        for _, number, offset, _ in keys[:, row : row + 2].T.tolist():
            shard = read_shard(folder, number)
            places = zip(shard.keys(), shard.offsets.tolist(), strict=True)
            names.append(next(key for key, place in places if place == offset))
        if names[0] == names[1]:
            found = " and ".join(shard_name(int(n)) for n in keys[1, row : row + 2])
            raise StoreError(
                f"{folder} has the key {names[0]!r} twice, in {found}: keys must differ; make the "
                "store from a list of images without repeated ids"
            )


def check_tar_size(path: str, number: int, size: int, expected: int) -> None:
    """Raise StoreError where a tar is not as long as its index says."""
    if size != expected:
        fault = "cut short" if size < expected else "not the one that was indexed"
        raise StoreError(f"{path} is {fault}: {size} bytes, not {expected}; {redo(number)}")


def read_shard(folder: str, number: int) -> ShardIndex:
    """The index of one shard; StoreError where it is absent or damaged."""
    path = os.path.join(folder, shard_files(number)[1])
    try:
        return read_index(local_path(path), number)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error}); {redo(number)}") from error


def key_hash(key: bytes) -> bytes:
    """The 8 bytes by which an encoded key is found."""
    return blake2b(key, digest_size=8).digest()


# -------------------------------------------------------------------------------------- files


def local_path(path: str) -> str:
    """A local copy of a file, of `s3://` and the like through iopath; FileNotFoundError if none."""
    if not _is_remote(path):
        return path
    manager = _path_manager()
    if not manager.isfile(path):
        raise FileNotFoundError(path)
    return str(manager.get_local_path(path))


def _names(folder: str) -> list[str]:
    try:
        return _path_manager().ls(folder) if _is_remote(folder) else os.listdir(folder)
    except OSError as error:
        raise StoreError(
            f"there is no region store {folder} ({error.strerror}). "
            f"To make it: rmae-d2 regions --output {folder}"
        ) from error


def _path_manager() -> Any:
    # Handlers that users register go to Detectron2's own manager, if it is in use at all; this
    # package must not import it.
    detectron2 = sys.modules.get("detectron2.utils.file_io")
    if detectron2 is not None:
        return detectron2.PathManager
    from iopath.common.file_io import g_pathmgr

    return g_pathmgr


def _is_remote(path: str) -> bool:
    return "://" in path
