"""The common form of all formats: the entries of a COCO json one by one, and the files they come from."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, NamedTuple

from ...files import READERS, decode_text, read_bytes
from ...pixels import upright_size

Entry = Mapping[str, Any]


class Broken(dict[str, Any]):
    """An entry that its format's reader could not parse: its ``id``, and what is wrong.

    Attributes:
        field, what: together a clause, with the field as its subject.
    """

    def __init__(self, identity: str, field: str, what: str) -> None:
        super().__init__(id=identity)
        self.field, self.what = field, what


class Sources:
    """The label files of a data set as they are read, and notes about what was left out.

    Attributes:
        folder: the data set's folder.
        notes: reason -> entries that it applies to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.notes: dict[str, list[Any]] = {}
        self._digest = blake2b(digest_size=16)

    def raw(self, path: str) -> bytes:
        """A file's bytes. UserError and OSError as in `read_bytes`."""
        raw = read_bytes(path)
        self.add(path, raw)
        return raw

    def add(self, path: str, raw: bytes) -> None:
        """Add a file's content to the digest."""
        self._digest.update(f"{self.name(path)}\0{len(raw)}\0".encode())
        self._digest.update(raw)

    def text(self, path: str) -> str:
        """A file's text. UserError: it is not text."""
        return decode_text(self.raw(path), path)

    def name(self, path: str) -> str:
        """A file's path relative to the folder, with forward slashes; the full path if it lies outside."""
        relative = os.path.relpath(path, self.folder)
        return PurePath(path if relative.startswith(os.pardir) else relative).as_posix()

    def note(self, entry: Any, reason: str) -> None:
        self.notes.setdefault(reason, []).append(entry)

    @property
    def digest(self) -> str:
        """Hexadecimal digest of all files read so far."""
        return self._digest.hexdigest()


class Content(NamedTuple):
    """A data set, or a split of one. Each of the three iterables is consumed once, in this order."""

    sources: Sources
    categories: Iterable[Entry]
    images: Iterable[
        Entry
    ]  #: ``file_name`` is relative to the sources' folder, absolute, or a member's
    annotations: Iterable[Entry]


def image_sizes(paths: Sequence[str]) -> list[tuple[int, int] | None]:
    """Upright (height, width) of images, from their headers alone; None for files that are not images."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(upright_size, paths))


def sized(entry: Entry, size: tuple[int, int] | None) -> Entry:
    """Add the size to an image's entry, if it is known."""
    return entry if size is None else {**entry, "height": size[0], "width": size[1]}
