"""Images packed into indexed tar shards, and the dataset they form.

    regions-00042.tar       `<escaped key>.<extension>`, an image file's bytes unchanged, directly
                            followed by `<escaped key>.regions` if the image has a region record
    regions-00042.idx.npz   where both are, see regions/store/shards.py

Written by `rmae-d2 pack`. The same folder serves as a region store, and as samples with `jpg`
and `regions` for WebDataset's readers.
"""

import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import StoreError
from .files import is_file, opened

FORMAT_VERSION = 1
LOOKED_FOR = "regions-*.tar of rmae-d2 pack, with their .idx.npz"
_REMEDY = "run the same rmae-d2 pack command again, which makes what is missing"


class ImageColumns(NamedTuple):
    """Per-image arrays in the index of a packed shard of n images, stored under these names."""

    image_offsets: NDArray[np.uint64]  # (n,), of a file's first byte in the tar
    image_sizes: NDArray[np.uint64]  # (n,), bytes
    image_shapes: NDArray[np.uint32]  # (n, 2), height and width in pixels, upright
    image_extensions: NDArray[np.bytes_]  # (n,), of the members' names: "jpg"
    number_ids: NDArray[np.bool_]  # (n,), whether the image id is a number rather than text

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...]]) -> "ImageColumns":
        """Builds the columns from rows, one per image."""
        columns = zip(*rows, strict=True) if rows else [()] * len(_COLUMNS)
        return cls(
            *(
                np.array(column, kind).reshape(len(rows), *shape)
                for column, (kind, *shape) in zip(columns, _COLUMNS, strict=True)
            )
        )

    def fault(self, count: int, tar_size: int) -> str:
        """Describes what is wrong with these columns of `count` images in a tar, "" if nothing."""
        arrays: tuple[NDArray[Any], ...] = self
        for column, (kind, *shape) in zip(arrays, _COLUMNS, strict=True):
            if column.dtype != kind or column.shape != (count, *shape):
                return "its arrays disagree"
        if (self.image_offsets > tar_size).any():  # separately: the sum of two may overflow
            return "it has images beyond its tar"
        beyond = self.image_sizes > np.uint64(tar_size) - self.image_offsets
        return "it has images beyond its tar" if beyond.any() else ""


#: Type and shape of an image's entry in each column.
_COLUMNS: tuple[tuple[Any, ...], ...] = (("<u8",), ("<u8",), ("<u4", 2), ("|S4",), ("|b1",))


def shard_name(number: int) -> str:
    """Base name of a shard's files, without suffix; shards count from 0."""
    return f"regions-{number:05d}"


def shard_files(number: int) -> tuple[str, str]:
    """Names of a shard's tar and index."""
    return f"{shard_name(number)}.tar", f"{shard_name(number)}.idx.npz"


def shard_numbers(names: Iterable[str]) -> list[int]:
    """Numbers of the complete shards among file names, ascending."""
    found = (re.fullmatch(r"regions-(\d{5,})\.idx\.npz", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def why(path: str) -> str:
    """Returns the file that identifies a folder of packed images; "" if it is something else."""
    numbers = [0]
    if "://" not in path:
        numbers = shard_numbers(os.listdir(path)) if os.path.isdir(path) else []
    for number in numbers[:1]:
        name = shard_files(number)[1]
        file = _join(path, name)
        try:
            if is_file(file) and ImageColumns._fields[0] in _arrays(file, ()):
                return name
        except Exception:  # whoever reads it reports what is wrong
            return name
    return ""


class PackedImages(Sequence[dict[str, Any]]):
    """The images of a packed folder as dataset dicts, each created on access.

    Memory holds only the columns of the shards' indexes, as arrays that forked processes share: some 30 bytes
    per image plus its key. Pickles as the name of the folder.

    An item has ``file_name``, an address that every image reader opens; ``image_id``, ``height`` and
    ``width`` in pixels as before packing. The order is preserved too.
    """

    def __init__(self, folder: str, chosen: NDArray[np.int64] | None = None) -> None:
        """Reads the indexes of a folder, local or remote; with ``chosen`` only those images, in that order.

        Raises StoreError if there is none, or a shard is missing, damaged, or from another dataset.
        """
        self.folder = folder if "://" in folder else os.path.abspath(folder)
        self._chosen = chosen
        first = _Shard(self.folder, 0)
        shards = [first]
        for number in range(1, first.header["num_shards"]):
            shards.append(_Shard(self.folder, number))
            if {**shards[-1].header, "shard": 0} != first.header:
                raise _damaged(self.folder, number, "of another data set than the first")
        self._shards = shards
        self._ends = np.cumsum([len(shard.ends) for shard in shards]).tolist()

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedImages, (self.folder, self._chosen)

    def __repr__(self) -> str:
        return f"{len(self)} packed images of {self.folder}"

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        """Returns a dataset dict; for a slice, a dataset."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        index = range(len(self))[index]
        if self._chosen is not None:
            index = int(self._chosen[index])
        number = bisect_right(self._ends, index)
        return self._shards[number].item(index - (self._ends[number - 1] if number else 0))

    def take(self, indices: NDArray[np.int64]) -> "PackedImages":
        """Restricts to the images at these positions, in that order; the arrays are shared."""
        other = object.__new__(PackedImages)
        other.folder, other._shards, other._ends = self.folder, self._shards, self._ends
        other._chosen = indices if self._chosen is None else self._chosen[indices]
        return other

    def keys(self) -> Iterator[bytes]:
        """Yields the image ids as UTF-8 text, in order, without creating dicts."""
        every = chain.from_iterable(shard.keys() for shard in self._shards)
        if self._chosen is None:
            return every
        held = list(every)
        return (held[row] for row in self._chosen.tolist())

    @property
    def num_bytes(self) -> int:
        """Bytes kept in memory."""
        return sum(shard.num_bytes for shard in self._shards)


class _Shard:
    """What is kept of a shard's index."""

    def __init__(self, folder: str, number: int) -> None:
        tar, idx = (_join(folder, name) for name in shard_files(number))
        try:
            arrays = _arrays(idx, ("header", "keys", "ends", "tar_size", *ImageColumns._fields))
            self.header: dict[str, Any] = json.loads(arrays["header"].tobytes())
            self.blob, self.ends = arrays["keys"], arrays["ends"]
            tar_size = int(arrays["tar_size"][0])
            images = ImageColumns(*(arrays[name] for name in ImageColumns._fields))
            wrong = images.fault(len(self.ends), tar_size)
            last = int(self.ends[-1]) if len(self.ends) else 0
            if wrong or (self.ends[1:] <= self.ends[:-1]).any() or last != len(self.blob):
                raise ValueError(wrong or "its keys disagree")
            if (self.header["format"], self.header["shard"]) != (FORMAT_VERSION, number):
                raise ValueError("it is of another format, or was renamed")
            if type(self.header["num_shards"]) is not int:
                raise ValueError("it does not count the shards")
            if "://" not in tar and os.path.getsize(tar) != tar_size:
                raise ValueError(f"{tar} is not as long as it says: {tar_size} bytes")
        except FileNotFoundError as error:
            raise StoreError(
                f"{folder} is not complete: {shard_name(number)} is missing; {_REMEDY}"
            ) from error
        except Exception as error:  # zipfile raises half a dozen types on damaged input
            raise _damaged(folder, number, f"damaged ({error!s:.200})") from error
        self._tar = tar
        self._offsets, self._sizes, self._shapes, _, self._numbers = images

    def keys(self) -> Iterator[bytes]:
        blob, start = self.blob.tobytes(), 0
        for end in self.ends.tolist():
            yield blob[start:end]
            start = end

    def item(self, row: int) -> dict[str, Any]:
        start = int(self.ends[row - 1]) if row else 0
        key = self.blob[start : int(self.ends[row])].tobytes().decode("utf-8", "surrogatepass")
        height, width = self._shapes[row].tolist()
        return {
            "file_name": f"tar://{self._tar}?{self._offsets[row]}+{self._sizes[row]}",
            "image_id": int(key) if self._numbers[row] else key,
            "height": height,
            "width": width,
        }

    @property
    def num_bytes(self) -> int:
        columns = (self.blob, self.ends, self._offsets, self._sizes, self._shapes, self._numbers)
        return sum(column.nbytes for column in columns)


def _join(folder: str, name: str) -> str:
    """Joins as text, so that it works for addresses too."""
    return f"{folder.rstrip('/')}/{name}"


def _arrays(file: str, names: Sequence[str]) -> Any:
    """Loads the named arrays of an index; without names, lists those it has."""
    with opened(file) as opened_file, np.load(opened_file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names} if names else arrays.files


def _damaged(folder: str, number: int, what: str) -> StoreError:
    idx = _join(folder, shard_files(number)[1])
    return StoreError(f"{idx} is {what}: remove {shard_name(number)}.* and {_REMEDY}")
