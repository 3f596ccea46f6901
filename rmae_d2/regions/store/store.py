"""A folder of region records with random access by key.

    regions-00042.tar, regions-00042.idx.npz    see shards.py
    index.npy                                   where every key is, for all processes at once

index.npy is a uint64 (4, 1 + S + N) array that is memory-mapped, so all processes on a machine share one
copy. Column 0: format, S, N, crc32 of all other columns. S columns: shard number, bytes of its tar, crc32 of
the end of its idx.npz, number of records. N columns, sorted by the first row: blake2b-8 of the key, shard
number, offset, size. It is made from the shards' own indexes and can always be remade from them.

The index finds a key by its hash, which may collide with another key's: a match counts only if the
header before the record is that of this key.
"""

import itertools
import logging
import os
import sys
import threading
import zlib
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError, UserError
from ...files import atomic_file, check_file, is_being_written
from ...members import is_member, open_member
from ...packed import FORMAT_VERSION, shard_files, shard_name, shard_numbers
from .shards import (
    NO_REGIONS,
    REMEDY,
    ShardHeader,
    ShardIndex,
    check_same,
    digest,
    read_index,
    redo,
)
from .tar_members import encode_key, global_header, member_header

logger = logging.getLogger(__name__)

INDEX_NAME = "index.npy"
MAX_OPEN_SHARDS = 64
_END = 1024  # bytes that contain the directory of an idx.npz

Index = NDArray[np.uint64]


class RegionStore:
    """Random access to the records of a store. Picklable: copies reopen the folder.

    A store that is still being made can be read: the contents of its complete shards are available. Threads
    and forked processes may share an object.

    Attributes:
        folder: local, or a path (`s3://`) supported by a handler registered with Detectron2's PathManager
            (without Detectron2: iopath's own).
        header: parameters of the source, number of shards, hash of the image list.
        params: of the region source; JSON types.
        num_shards: number of shards that the store will have.
        present: number of existing shards.
        complete: whether all shards exist.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """StoreError if there is no store, or a damaged one; names the file and what to do."""
        self.folder = os.path.expanduser(os.fspath(folder))
        self._open()
        if not self.complete:
            logger.warning(
                "The region store %s is not complete: %d of %d shards are there, with the regions "
                "of %d images. Shards made from now on are not seen. To complete it, %s.",
                self.folder, self.present, self.num_shards, len(self), REMEDY,
            )  # fmt: skip

    def _open(self) -> None:
        self._index = _load_index(self.folder)
        shards = int(self._index[1, 0])
        self._shards = {int(row[0]): row for row in self._index[:, 1 : 1 + shards].T}
        self._hashes, self._numbers, self._offsets, self._sizes = self._index[:, 1 + shards :]
        self._tar = lru_cache(MAX_OPEN_SHARDS)(self._open_tar)
        self._read_index = lru_cache(1)(_shard_index)
        self.header = self.shard(min(self._shards)).header
        self.params, self.num_shards = self.header.params, self.header.num_shards
        if self.params == NO_REGIONS:
            raise StoreError(
                f"{self.folder} holds images without regions: pack them with --source or --regions, "
                "into another folder"
            )
        self.present = len(self._shards)
        self.complete = self.present == self.num_shards

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder = state["folder"]
        self._open()

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def get(self, key: str) -> bytes:
        """The bytes of a record; KeyError if there is none, StoreError if a shard was damaged or removed."""
        return self._located(key)[2]

    def keys(self) -> Iterator[str]:
        """All keys, shard by shard, in the order in which their images were listed."""
        for number in sorted(self._shards):
            shard = self.shard(number)
            yield from itertools.compress(shard.keys(), shard.has_record)

    def shard(self, number: int) -> ShardIndex:
        """The index of one shard: keys, offsets, digests; StoreError if it is missing or damaged."""
        return self._read_index(self.folder, number)

    def image_digest(self, key: str) -> bytes:
        """`shards.digest` of the image file whose regions are stored under a key; KeyError if none."""
        tar, offset, _ = self._located(key)
        shard = self.shard(tar.number)
        rows = np.flatnonzero(shard.offsets == offset)
        if len(rows) != 1:
            raise StoreError(f"{tar.path} and its index disagree on {key!r}; {redo(tar.number)}")
        return shard.image_digests[int(rows[0])].tobytes()

    def where(self, key: str) -> str:
        """The tar that holds a key's record, for messages; KeyError if none does."""
        return self._located(key)[0].path

    def _located(self, key: str) -> "tuple[_TarFile, int, bytes]":
        """The file, offset and bytes of a key's record; KeyError if none."""
        found = self._find(key)
        if found is None:
            raise KeyError(key)
        return found

    def _find(self, key: str) -> "tuple[_TarFile, int, bytes] | None":
        if not key:
            return None
        # As uint64: a Python int would convert the whole mapped row to float64.
        wanted = np.frombuffer(_key_hash(key), np.uint64)[0]
        row = int(self._hashes.searchsorted(wanted))
        while row < len(self._hashes) and self._hashes[row] == wanted:
            tar = self._tar(int(self._numbers[row]))
            offset, size = int(self._offsets[row]), int(self._sizes[row])
            header = member_header(key, size)
            data = tar.read(offset - len(header), len(header) + size)
            if data.startswith(header):
                return tar, offset, data[len(header) :]
            places = zip(self.shard(tar.number).keys(), self.shard(tar.number).offsets, strict=True)
            if not any(place == offset and other != key for other, place in places):
                raise StoreError(f"{tar.path} is damaged at byte {offset}; {redo(tar.number)}")
            row += 1
        return None

    def _open_tar(self, number: int) -> "_TarFile":
        tar = _TarFile(self.folder, self._shards[number])
        header = global_header(self.header.to_json(number))
        if tar.read(0, len(header)) != header:
            raise StoreError(f"{tar.path} is damaged or of another store; {redo(number)}")
        return tar


class _TarFile:
    """An open tar of a shard. Reads are positioned, so forks and threads share it safely.

    It closes when its last user releases it, never while a thread is reading.
    """

    def __init__(self, folder: str, row: Index) -> None:
        self.number = int(row[0])
        self.path = os.path.join(folder, shard_files(self.number)[0])
        self._handle = -1
        try:
            check_file(self.path)
            self._handle = os.open(local_path(self.path), os.O_RDONLY | getattr(os, "O_BINARY", 0))
            self.size = os.fstat(self._handle).st_size
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be read ({error}); {redo(self.number)}"
            ) from error
        _check_tar_size(self.path, self.number, self.size, int(row[1]))

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly `size` bytes from `offset` on."""
        data = b""
        try:
            if 0 <= offset <= self.size - size:  # otherwise a damaged size could ask for gigabytes
                data = _pread(self._handle, size, offset)
        except OSError as error:  # not an OSError: those of image files mean "take another image"
            raise StoreError(f"{self.path} cannot be read: {error}") from error
        if len(data) != size:
            raise StoreError(f"{self.path} ends before byte {offset + size}; {redo(self.number)}")
        return data


_seeking = threading.Lock()


def _pread(handle: int, size: int, offset: int) -> bytes:
    """``os.pread``, which Windows lacks; there, threads take turns."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    with _seeking:
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, size)


def write_index(folder: str | os.PathLike[str]) -> None:
    """Merge the shards' indexes, once all are complete, and remove the drafts of killed writers.

    The file is a function of the shards and appears atomically.

    Raises:
        StoreError: a shard is missing or damaged, or a key occurs in two shards.
    """
    folder = os.fspath(folder)
    index, header = _merge(folder)
    there = set(index[0, 1 : 1 + int(index[1, 0])].tolist())
    if len(there) < header.num_shards:
        missing = next(number for number in itertools.count() if number not in there)
        raise StoreError(
            f"{folder} has {len(there)} of {header.num_shards} shards, {shard_name(missing)} is "
            f"missing; {REMEDY}"
        )
    with atomic_file(Path(folder, INDEX_NAME)) as file:
        np.lib.format.write_array(file, index, version=(1, 0), allow_pickle=False)
    for leftover in filter(Path.is_file, Path(folder).glob("regions-*.tmp")):
        if not is_being_written(leftover):
            leftover.unlink(missing_ok=True)


def _load_index(folder: str) -> Index:
    """Load index.npy if it is intact and of these shards, else build the same from the shards' indexes."""
    try:
        path = local_path(os.path.join(folder, INDEX_NAME))
        index = _map_index(path)
        if not _is_remote(folder):
            _check_matches(index, folder)
    except FileNotFoundError:
        return _merge(folder)[0]
    except (ValueError, EOFError, OSError) as error:
        logger.warning(
            "%s is not used: %s. The index is put together from the shards, which takes longer and "
            "memory in each process. To have it written again, %s.",
            os.path.join(folder, INDEX_NAME), error, REMEDY,
        )  # fmt: skip
        return _merge(folder)[0]
    return index


def _map_index(path: str) -> Index:
    check_file(path)
    index = np.load(path, mmap_mode="r", allow_pickle=False)
    shaped = index.ndim == 2 and len(index) == 4 and index.size
    if index.dtype != "<u8" or not shaped or not index.flags.c_contiguous:
        raise UserError(f"it is not an index, but {index.dtype} {index.shape}")
    index = np.asarray(index)  # the same mapped memory without np.memmap's slow slices
    version, shards, keys, crc = index[:, 0].tolist()
    if version != FORMAT_VERSION or index.shape[1] != 1 + shards + keys or not shards:
        raise UserError(f"it is of format {version}, with {shards} shards, {keys} keys")
    if crc != _index_crc(index):
        raise UserError("it is damaged: its checksum does not match its contents")
    # With the wrong order or shards, a key would not be found and would count as one without a record.
    (numbers, *_, counts), (hashes, places, *_) = np.split(index[:, 1:], [shards], axis=1)
    order = np.argsort(numbers)
    found = np.bincount(np.searchsorted(numbers[order], places), minlength=shards)
    if (
        (hashes[1:] < hashes[:-1]).any()
        or len(np.unique(numbers)) < shards
        or not np.isin(places, numbers).all()
        or (found != counts[order]).any()
    ):
        raise UserError("its columns contradict each other")
    return index


def _index_crc(index: Index) -> int:
    """Checksum of everything but column 0; runs at the speed of memory."""
    crc = 0
    for row in index[:, 1:]:
        crc = zlib.crc32(row, crc)
    return crc


def _check_matches(index: Index, folder: str) -> None:
    """UserError if a local store's files are not those that the index was made from."""
    known = {int(n): (int(t), int(i)) for n, t, i, _ in index[:, 1 : 1 + int(index[1, 0])].T}
    numbers = shard_numbers(os.listdir(folder))
    if set(numbers) != set(known):
        raise UserError(f"it is of {len(known)} shards, there are {len(numbers)}")
    for number, marks in known.items():
        tar, idx = (os.path.join(folder, name) for name in shard_files(number))
        if not os.path.exists(tar) or (os.path.getsize(tar), _end_crc(idx)) != marks:
            raise UserError(f"it was made before {shard_name(number)} changed")


def _end_crc(idx: str) -> int:
    """Checksum of the zip's directory, which contains every array's checksum: as good as of all arrays."""
    check_file(idx)
    with open(idx, "rb") as file:
        file.seek(-min(_END, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return zlib.crc32(file.read())


def _merge(folder: str) -> tuple[Index, ShardHeader]:
    """The merged index of the existing shards, and their common header."""
    numbers = shard_numbers(_names(folder))
    if not numbers:
        raise StoreError(
            f"{folder} is not a region store: it has no complete shard "
            f"({shard_files(0)[1]} ...). To make one: rmae-d2 regions --output {folder}"
        )
    header: ShardHeader | None = None
    columns: list[Index] = []
    shards = np.zeros((4, len(numbers)), "<u8")
    for position, number in enumerate(numbers):
        shard = _shard_index(folder, number)
        tar, idx = (os.path.join(folder, name) for name in shard_files(number))
        header = header or shard.header
        check_same(header, shard.header, idx)
        if not _is_remote(folder):
            try:
                size = os.path.getsize(tar)
            except OSError as error:
                raise StoreError(f"{tar} is missing beside its index; {redo(number)}") from error
            _check_tar_size(tar, number, size, shard.tar_size)
        held = shard.has_record
        hashed = b"".join(map(_key_hash, itertools.compress(shard.keys(), held)))
        hashes = np.frombuffer(hashed, np.uint64)
        shards[:, position] = number, shard.tar_size, _end_crc(local_path(idx)), len(hashes)
        place = np.full(len(hashes), number, np.uint64)
        columns.append(np.stack([hashes, place, shard.offsets[held], shard.sizes[held]]))
    assert header is not None
    keys = np.concatenate(columns, axis=1)
    order = np.argsort(keys[0], kind="stable")
    head = np.array([[FORMAT_VERSION], [len(numbers)], [len(order)], [0]], np.uint64)
    joined = np.concatenate([head, shards, keys[:, order]], axis=1)
    index = np.ascontiguousarray(joined, "<u8")  # row by row, even if it was joined by columns
    index[3, 0] = _index_crc(index)
    _check_unique(folder, index)
    return index, header


def _check_unique(folder: str, index: Index) -> None:
    hashes, numbers = index[:2, 1 + int(index[1, 0]) :]
    same = np.flatnonzero(hashes[1:] == hashes[:-1])
    # Different keys may share a hash; no shard has a key twice.
    for one, other in {*zip(numbers[same].tolist(), numbers[same + 1].tolist(), strict=True)}:
        if one == other:
            continue
        for key in {*_shard_index(folder, one).keys()} & {*_shard_index(folder, other).keys()}:
            raise StoreError(
                f"{folder} has the key {key!r} twice, in {shard_name(one)} and "
                f"{shard_name(other)}: keys must differ; make the store from a list of images "
                "without repeated ids"
            )


def _check_tar_size(path: str, number: int, size: int, expected: int) -> None:
    """Raise StoreError if a tar's size differs from that in its index."""
    if size != expected:
        fault = "cut short" if size < expected else "not the one that was indexed"
        raise StoreError(f"{path} is {fault}: {size} bytes, not {expected}; {redo(number)}")


def _shard_index(folder: str, number: int) -> ShardIndex:
    """The index of one shard; StoreError if it is missing or damaged."""
    path = os.path.join(folder, shard_files(number)[1])
    try:
        return read_index(local_path(path), number)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error}); {redo(number)}") from error


def _key_hash(key: str) -> bytes:
    """The 8 bytes by which a key is looked up."""
    return blake2b(encode_key(key), digest_size=8).digest()


# -------------------------------------------------------------------------------------- files


def local_path(path: str) -> str:
    """A local copy of a file, from `s3://` and the like through iopath; FileNotFoundError if missing."""
    if not _is_remote(path):
        return path
    manager = _path_manager()
    if not manager.isfile(path):
        raise FileNotFoundError(path)
    return str(manager.get_local_path(path))


def digest_file(path: str) -> bytes:
    """Digest of a file's bytes, as stored in stores; remote addresses are read through iopath."""
    return digest(read_file(path))


def read_file(path: str) -> bytes:
    """A file's bytes, wherever it is; see `digest_file`."""
    if is_member(path):
        with open_member(path) as member:
            return member.read()
    check_file(path)
    return Path(local_path(path)).read_bytes()


def _names(folder: str) -> list[str]:
    try:
        return _path_manager().ls(folder) if _is_remote(folder) else os.listdir(folder)
    except OSError as error:
        raise StoreError(
            f"there is no region store {folder} ({error.strerror}). "
            f"To make it: rmae-d2 regions --output {folder}"
        ) from error


def _path_manager() -> Any:
    # Handlers registered by users go to Detectron2's own manager, if it is in use at all; this
    # package must not import it.
    detectron2 = sys.modules.get("detectron2.utils.file_io")
    if detectron2 is not None:
        return detectron2.PathManager
    from iopath.common.file_io import g_pathmgr

    return g_pathmgr


def _is_remote(path: str) -> bool:
    return "://" in path
