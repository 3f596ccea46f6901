"""A folder of region records, read at random by key.

    regions-00042.tar, regions-00042.idx.npz    see shards.py
    index.npy                                   see merged_index.py

The index finds a key by its hash, which may be another key's: what is found counts only if the
header before the record is the one that this key has.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import StoreError
from .merged_index import (
    Index,
    check_tar_size,
    key_hash,
    load_index,
    local_path,
    read_shard,
)
from .shards import (
    BLOCK,
    REMEDY,
    ShardHeader,
    ShardIndex,
    check_same,
    encode_key,
    header_size,
    member_header,
    read_header,
    redo,
    shard_files,
)

logger = logging.getLogger(__name__)

MAX_OPEN_SHARDS = 64


class RegionStore:
    """Random access to the records of a store. Picklable: copies open the folder for themselves.

    A store that is still being made may be read: what its complete shards hold is there. Threads
    and forked processes may share an object.

    Attributes:
        folder: as given; where it has a scheme (`s3://`), files are fetched through iopath.
        header: parameters of the source, number of shards, hash of the list of images.
        params: of the region source; JSON types.
        num_shards: shards that the store will have.
        present: shards that it has.
        complete: whether all shards are there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """StoreError where there is no store, or a damaged one; names the file and what to do.

        Args:
            folder: local, or a path that a handler registered with Detectron2's (without
                Detectron2: iopath's own) PathManager understands.
        """
        self.folder = os.path.expanduser(os.fspath(folder))
        self._open()
        if not self.complete:
            logger.warning(
                "The region store %s is not complete: %d of %d shards are there, with the regions "
                "of %d images. Shards made from now on are not seen. To complete it, %s.",
                self.folder, self.present, self.num_shards, len(self), REMEDY,
            )  # fmt: skip

    def _open(self) -> None:
        self._index = load_index(self.folder)
        shards = int(self._index[1, 0])
        self._shards = {int(row[0]): row for row in self._index[:, 1 : 1 + shards].T}
        self._hashes, self._numbers, self._offsets, self._sizes = self._index[:, 1 + shards :]
        self._files: OrderedDict[int, _TarFile] = OrderedDict()
        self._last_shard: tuple[int, ShardIndex] | None = None
        first = min(self._shards)
        self.header = _TarFile(self.folder, self._shards[first]).header()
        self.params, self.num_shards = self.header.params, self.header.num_shards
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
        """The bytes of a record; KeyError if none, StoreError where a shard was damaged or removed."""
        return self._located(key)[2]

    def keys(self) -> Iterator[str]:
        """All keys, shard by shard, in the order in which their images were listed."""
        for number in sorted(self._shards):
            yield from self.shard(number).keys()

    def shard(self, number: int) -> ShardIndex:
        """The index of one shard: keys, offsets, digests; StoreError where it is absent or damaged."""
        last = self._last_shard
        if last is None or last[0] != number:
            last = self._last_shard = number, read_shard(self.folder, number)
        return last[1]

    def image_digest(self, key: str) -> bytes:
        """`shards.digest` of the image file whose regions stand under a key; KeyError if none."""
        tar, offset, _ = self._located(key)
        shard = self.shard(tar.number)
        return shard.image_digests[int(np.flatnonzero(shard.offsets == offset)[0])].tobytes()

    def where(self, key: str) -> str:
        """The tar that holds a key's record, for messages; KeyError if none does."""
        return self._located(key)[0].path

    def _located(self, key: str) -> "tuple[_TarFile, int, bytes]":
        found = self._find(key)
        if found is None:
            raise KeyError(key)
        return found

    def _find(self, key: str) -> "tuple[_TarFile, int, bytes] | None":
        """The file, offset and bytes of a key's record."""
        if not key:
            return None
        # As uint64: a Python int would turn the whole mapped row into float64.
        wanted = np.frombuffer(key_hash(encode_key(key)), np.uint64)[0]
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

    def _tar(self, number: int) -> "_TarFile":
        tar = self._files.pop(number, None)
        if tar is None:
            tar = _TarFile(self.folder, self._shards[number])
            check_same(self.header, tar.header(), tar.path)
        self._files[number] = tar  # as the last one used
        while len(self._files) > MAX_OPEN_SHARDS:
            self._files.popitem(last=False)
        return tar


class _TarFile:
    """An open tar of a shard. Reads are positioned, so forks and threads share it safely.

    It closes when the last user lets go of it, never under a thread that reads.
    """

    def __init__(self, folder: str, row: Index) -> None:
        self.number = int(row[0])
        self.path = os.path.join(folder, shard_files(self.number)[0])
        self._handle = -1
        try:
            self._handle = os.open(local_path(self.path), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            self.size = os.fstat(self._handle).st_size
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be read ({error}); {redo(self.number)}"
            ) from error
        check_tar_size(self.path, self.number, self.size, int(row[1]))

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset` on."""
        data = b""
        try:
            if 0 <= offset <= self.size - size:  # else a damaged size could ask for gigabytes
                data = os.pread(self._handle, size, offset)
        except OSError as error:  # not an OSError: those of image files mean "take another image"
            raise StoreError(f"{self.path} cannot be read: {error}") from error
        if len(data) != size:
            raise StoreError(f"{self.path} ends before byte {offset + size}; {redo(self.number)}")
        return data

    def header(self) -> ShardHeader:
        """The shard's header."""
        length = header_size(self.read(0, BLOCK))
        return read_header(self.read(0, length), self.number, self.path)
