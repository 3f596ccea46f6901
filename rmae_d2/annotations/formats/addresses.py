"""Where a data set lies, in one text, so that whatever takes a path takes format and split, too."""

import os
from collections.abc import Iterable
from typing import NamedTuple

from ...errors import UserError, did_you_mean
from ...files import exists
from ...remote import is_remote

#: Formats by the names that ``format=`` takes.
NAMES = (
    *("images", "list", "packed", "coco", "yolo", "voc", "labelme"),
    *("imagefolder", "parquet", "webdataset"),
)

#: Of single files that stand for a data set.
FILE_EXTENSIONS = (".txt", ".json", ".yaml", ".yml", ".data", ".parquet", ".tar")

_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Address(NamedTuple):
    """A place; as a text, by `str`, ``[FORMAT:]PATH[#SPLIT]``."""

    path: str  #: ``~`` expanded
    format: str | None = None  #: one of `NAMES`; None to recognise it
    split: str | None = None  #: None for all there are

    def __str__(self) -> str:
        start = f"{self.format}:" if self.format else ""
        return f"{start}{self.path}{f'#{self.split}' if self.split else ''}"


def address_of(
    text: str | os.PathLike[str], format: str | None = None, split: str | None = None
) -> Address:
    """What a text says; a file of that very name goes before.

    Args:
        format, split: said beside it; they go before those in the text.

    Raises:
        UserError: a format that is none.
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
    """By which two names of a split are the same: "valid" and "validation" are "val"."""
    return _ALIASES.get(name.casefold(), name.casefold())


def split_folders(path: str) -> dict[str, str]:
    """Sub-folders of a local folder that name a split: the split's own name -> the folder's."""
    if is_remote(path):
        return {}
    return splits_in(sorted(entry.name for entry in os.scandir(path) if entry.is_dir()))


def folder_of_split(path: str, split: str | None) -> str:
    """The sub-folder of a split, "val" for "validation"; without a split the folder itself.

    Raises:
        UserError: it has none of that name.
    """
    if split is None or os.path.isdir(os.path.join(path, split)):
        return os.path.join(path, split or "").rstrip("/") or "/"
    parts = split_folders(path)
    if split_named(split) not in parts:
        raise UserError(f"{path} has no split {split}: it has {', '.join(parts) or 'none'}")
    return os.path.join(path, parts[split_named(split)])


def splits_in(names: Iterable[str]) -> dict[str, str]:
    """Of names of files or folders those that name a split: the split's own name -> the name."""
    return {_ALIASES[name.casefold()]: name for name in names if name.casefold() in _ALIASES}
