"""Images packed into indexed tar shards, and the data set that they are.

    regions-00042.tar       `<escaped key>.<extension>`, an image file's bytes as they were, and right
                            behind it `<escaped key>.regions`, where the image has a record of regions
    regions-00042.idx.npz   where both lie, see regions/store/shards.py

`rmae-d2 pack` makes them. The same folder is a region store to whoever wants regions, and samples with `jpg`
and `regions` to WebDataset's readers.
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
    """What the index of a packed shard says of its n images; arrays of the index by these names."""

    image_offsets: NDArray[np.uint64]  # (n,), of a file's first byte in the tar
    image_sizes: NDArray[np.uint64]  # (n,), bytes
    image_shapes: NDArray[np.uint32]  # (n, 2), height and width in pixels, upright
    image_extensions: NDArray[np.bytes_]  # (n,), of the members' names: "jpg"
    number_ids: NDArray[np.bool_]  # (n,), whether the image's id is a number rather than its text

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...]]) -> "ImageColumns":
        """Of rows of what an image has in each column."""
        columns = zip(*rows, strict=True) if rows else [()] * len(_COLUMNS)
        return cls(
            *(
                np.array(column, kind).reshape(len(rows), *shape)
                for column, (kind, *shape) in zip(columns, _COLUMNS, strict=True)
            )
        )

    def fault(self, count: int, tar_size: int) -> str:
        """What is wrong with these columns of `count` images in a tar, "" for nothing."""
        arrays: tuple[NDArray[Any], ...] = self
        for column, (kind, *shape) in zip(arrays, _COLUMNS, strict=True):
            if column.dtype != kind or column.shape != (count, *shape):
                return "its arrays disagree"
        if (self.image_offsets > tar_size).any():  # each alone: the sum of two may overflow
            return "it has images beyond its tar"
        beyond = self.image_sizes > np.uint64(tar_size) - self.image_offsets
        return "it has images beyond its tar" if beyond.any() else ""


#: Type and shape of what an image has in each column.
_COLUMNS: tuple[tuple[Any, ...], ...] = (("<u8",), ("<u8",), ("<u4", 2), ("|S4",), ("|b1",))


def shard_name(number: int) -> str:
    """Name, without suffix, of a shard's files; shards count from 0."""
    return f"regions-{number:05d}"


def shard_files(number: int) -> tuple[str, str]:
    """Names of a shard's tar and index."""
    return f"{shard_name(number)}.tar", f"{shard_name(number)}.idx.npz"


def shard_numbers(names: Iterable[str]) -> list[int]:
    """Numbers, rising, of the complete shards among file names."""
    found = (re.fullmatch(r"regions-(\d{5,})\.idx\.npz", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def why(path: str) -> str:
    """By which file a folder of packed images is recognised; "" where it is something else."""
    numbers = [0]
    if "://" not in path:
        numbers = shard_numbers(os.listdir(path)) if os.path.isdir(path) else []
    for number in numbers[:1]:
        name = shard_files(number)[1]
        file = _join(path, name)
        try:
            if is_file(file) and ImageColumns._fields[0] in _arrays(file, ()):
                return name
        except Exception:  # whoever reads it says what is wrong with it
            return name
    return ""


class PackedImages(Sequence[dict[str, Any]]):
    """The images of a packed folder as dataset dicts, each made when it is asked for.

    In memory are the columns of the shards' indexes, arrays that forked processes share: some 30 bytes an
    image and its key, whatever their number. Pickled, it is the name of the folder.

    An item has ``file_name``, an address that every reader of images opens; ``image_id``, ``height`` and
    ``width`` in pixels as the images had them before they were packed. In their order, too.
    """

    def __init__(self, folder: str, chosen: NDArray[np.int64] | None = None) -> None:
        """Reads the indexes of a folder, local or remote; with ``chosen`` only these images, in that order.

        StoreError: there is none, a shard is missing or damaged, or of another data set.
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
        """A dataset dict; of a slice a data set."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        index = range(len(self))[index]
        if self._chosen is not None:
            index = int(self._chosen[index])
        number = bisect_right(self._ends, index)
        return self._shards[number].item(index - (self._ends[number - 1] if number else 0))

    def take(self, indices: NDArray[np.int64]) -> "PackedImages":
        """Only the images at these positions, in that order; the arrays are shared."""
        other = object.__new__(PackedImages)
        other.folder, other._shards, other._ends = self.folder, self._shards, self._ends
        other._chosen = indices if self._chosen is None else self._chosen[indices]
        return other

    def keys(self) -> Iterator[bytes]:
        """The texts of the images' ids in UTF-8, in their order: for all of them, without their dicts."""
        every = chain.from_iterable(shard.keys() for shard in self._shards)
        if self._chosen is None:
            return every
        held = list(every)
        return (held[row] for row in self._chosen.tolist())

    @property
    def num_bytes(self) -> int:
        """Of what is kept in memory."""
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
        except Exception as error:  # zipfile raises half a dozen kinds on damaged input
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
    """As text, for addresses too."""
    return f"{folder.rstrip('/')}/{name}"


def _arrays(file: str, names: Sequence[str]) -> Any:
    """Those of an index, by name; without names, which there are."""
    with opened(file) as opened_file, np.load(opened_file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names} if names else arrays.files


def _damaged(folder: str, number: int, what: str) -> StoreError:
    idx = _join(folder, shard_files(number)[1])
    return StoreError(f"{idx} is {what}: remove {shard_name(number)}.* and {_REMEDY}")
