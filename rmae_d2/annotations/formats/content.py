"""What every format is read as: the entries of a COCO json one by one, and the files they come from."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, NamedTuple

from ...files import decode_text, read_bytes
from ...pixels import upright_size

# Headers read at once: storage over a network answers each after a while, but many together.
_READERS = 16

Entry = Mapping[str, Any]


class Broken(dict[str, Any]):
    """An entry that its format's reader cannot make anything of: its ``id``, and what is wrong.

    Attributes:
        field, what: a clause whose subject is the field.
    """

    def __init__(self, identity: str, field: str, what: str) -> None:
        super().__init__(id=identity)
        self.field, self.what = field, what


class Sources:
    """The files that say what is on a data set's images, as they are read; and what was left out of them.

    Attributes:
        folder: the data set's.
        notes: reason -> entries that it holds for.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.notes: dict[str, list[Any]] = {}
        self._digest = blake2b(digest_size=16)

    def raw(self, path: str) -> bytes:
        """A file's content. UserError and OSError as `read_bytes`."""
        raw = read_bytes(path)
        self.add(path, raw)
        return raw

    def add(self, path: str, raw: bytes) -> None:
        """Takes what was read of a file into the digest."""
        self._digest.update(f"{self.name(path)}\0{len(raw)}\0".encode())
        self._digest.update(raw)

    def text(self, path: str) -> str:
        """A file's text. UserError: it has none."""
        return decode_text(self.raw(path), path)

    def name(self, path: str) -> str:
        """A file's path from the folder on, with forward slashes; of one outside of it the whole."""
        relative = os.path.relpath(path, self.folder)
        return PurePath(path if relative.startswith(os.pardir) else relative).as_posix()

    def note(self, entry: Any, reason: str) -> None:
        self.notes.setdefault(reason, []).append(entry)

    @property
    def digest(self) -> str:
        """Of all files read so far, hexadecimal."""
        return self._digest.hexdigest()


class Content(NamedTuple):
    """A data set, or a split of one. Each of the three is walked through once, in this order."""

    sources: Sources
    categories: Iterable[Entry]
    images: Iterable[
        Entry
    ]  #: ``file_name`` is relative to the sources' folder, absolute, or a member's
    annotations: Iterable[Entry]


def image_sizes(paths: Sequence[str]) -> list[tuple[int, int] | None]:
    """(height, width) of images as readers see them, by their headers alone; None of what is not an image."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(upright_size, paths))


def sized(entry: Entry, size: tuple[int, int] | None) -> Entry:
    """An image's entry with its size, where it is known."""
    return entry if size is None else {**entry, "height": size[0], "width": size[1]}
