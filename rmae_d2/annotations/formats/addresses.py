"""A data set's location as one string, so that anything that takes a path also takes format and split."""

import os
from collections.abc import Iterable
from typing import NamedTuple

from ...errors import UserError, did_you_mean
from ...files import exists
from ...remote import is_remote

#: Formats, by the names that ``format=`` accepts.
NAMES = (
    *("images", "list", "packed", "coco", "yolo", "voc", "labelme"),
    *("imagefolder", "parquet", "webdataset"),
)

#: Extensions of single files that stand for a data set.
FILE_EXTENSIONS = (".txt", ".json", ".yaml", ".yml", ".data", ".parquet", ".tar")

_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Address(NamedTuple):
    """A parsed location; `str` gives ``[FORMAT:]PATH[#SPLIT]``."""

    path: str  #: with ``~`` expanded
    format: str | None = None  #: one of `NAMES`; None to detect it
    split: str | None = None  #: None for all splits

    def __str__(self) -> str:
        start = f"{self.format}:" if self.format else ""
        return f"{start}{self.path}{f'#{self.split}' if self.split else ''}"


def address_of(
    text: str | os.PathLike[str], format: str | None = None, split: str | None = None
) -> Address:
    """Parse a location; an existing file with exactly that name takes precedence.

    Args:
        format, split: override those in the text.

    Raises:
        UserError: the format is unknown.
    """
    path = os.path.expanduser(os.fspath(text))
    said_format = said_split = None
    head, _, rest = path.partition(":")
    if head in NAMES and rest and not exists(path):
        said_format, path = head, os.path.expanduser(rest)
    before, mark, after = path.rpartition("#")
    if mark and before and not exists(path):
        path, said_split = before, after
    format, split = format or said_format, split or said_split
    if format is not None and format not in NAMES:
        hint = did_you_mean(format, NAMES, f"choose from {', '.join(NAMES)}")
        raise UserError(f"dataset.format={format} is not a known format: {hint}")
    return Address(path, format, split)


def split_named(name: str) -> str:
    """Normalize a split's name: "valid" and "validation" become "val"."""
    return _ALIASES.get(name.casefold(), name.casefold())


def split_folders(path: str) -> dict[str, str]:
    """Sub-folders of a local folder that name a split: normalized split name -> folder name."""
    if is_remote(path):
        return {}
    return splits_in(sorted(entry.name for entry in os.scandir(path) if entry.is_dir()))


def folder_of_split(path: str, split: str | None) -> str:
    """The sub-folder of a split, e.g. "val" for "validation"; without a split, the folder itself.

    Raises:
        UserError: there is no such sub-folder.
    """
    if split is None or os.path.isdir(os.path.join(path, split)):
        return os.path.join(path, split or "").rstrip("/") or "/"
    parts = split_folders(path)
    if split_named(split) not in parts:
        raise UserError(f"{path} has no split {split}: it has {', '.join(parts) or 'none'}")
    return os.path.join(path, parts[split_named(split)])


def splits_in(names: Iterable[str]) -> dict[str, str]:
    """The file or folder names that name a split: normalized split name -> given name."""
    return {_ALIASES[name.casefold()]: name for name in names if name.casefold() in _ALIASES}
