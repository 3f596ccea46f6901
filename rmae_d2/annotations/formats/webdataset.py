"""WebDataset shards: tars in which files with the same name except for the extension form one sample.

``.cls`` holds the image's class, a number. Images are read in place from the tar, which must not be
compressed. A shard's members are found by scanning its headers.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

from ...errors import AnnotationError, UserError
from ...listing import is_image
from ...members import tar_member
from ..values import integer, shown
from .addresses import split_folders, split_named, splits_in
from .content import Broken, Content, Entry, Sources

LOOKED_FOR = "*.tar with images in them, in it or in folders of splits"

#: Number of members checked to recognize a shard.
_TRIED = 8
_LONGEST_LABEL = 20
_MOST_CLASSES = 10**6


class _Sample(NamedTuple):
    name: str  # shard/key.extension
    file: str
    label: str | None  # content of the .cls file


def why(path: str) -> str:
    """What identifies a folder or file as this format; "" if it is not."""
    shards = [name for names in _shards(path).values() for name in names]
    if not shards or (os.path.isdir(path) and any(map(is_image, os.listdir(path)))):
        return ""
    file = os.path.join(path, shards[0]) if os.path.isdir(path) else path
    try:
        with tarfile.open(file, "r:") as tar:
            names = [member.name for member, _ in zip(tar, range(_TRIED), strict=False)]
    except (OSError, tarfile.TarError):
        return ""
    return shards[0] if any(map(is_image, names)) else ""


def splits(path: str) -> list[str]:
    """Names of the splits, from the names of shards or their folders."""
    return list(_shards(path))


def read(path: str, split: str | None, images_only: bool) -> Content:
    """Read a data set, or a split of one.

    Raises:
        AnnotationError: a shard is not a complete tar.
        UserError: there is no such split.
    """
    shards = _shards(path)
    if split is not None and split_named(split) not in shards:
        raise UserError(f"{path} has no split {split}: it has {', '.join(shards) or 'none'}")
    sources = Sources(path)
    samples: list[_Sample] = []
    for part, names in shards.items():
        for name in names if split is None or part == split_named(split) else ():
            samples += _samples(os.path.join(path, name) if os.path.isdir(path) else path, name)
    for sample in samples:
        sources.add(sample.name, (sample.label or "").encode())
    labels = [] if images_only else [_label(s) for s in samples if s.label is not None]
    numbers = [entry["category_id"] for entry in labels if not isinstance(entry, Broken)]
    return Content(
        sources,
        # Numbers without an image are classes too: another split may have some.
        ({"id": number, "name": str(number)} for number in range(max(numbers, default=-1) + 1)),
        ({"id": sample.name, "file_name": sample.file} for sample in samples),
        labels,
    )


def _label(sample: _Sample) -> Entry:
    try:
        number = integer((sample.label or "").strip())
    except ValueError as error:
        return Broken(sample.name, ".cls", str(error))
    if not 0 <= number < _MOST_CLASSES:
        return Broken(sample.name, ".cls", f"{shown(number)} is not a class number")
    return {"id": sample.name, "image_id": sample.name, "category_id": number}


def _shards(path: str) -> dict[str, list[str]]:
    """The files of each split, as sorted relative paths; "all" for files that name no split."""
    if not os.path.isdir(path):
        return {"all": [os.path.basename(path)]} if path.lower().endswith(".tar") else {}
    found: dict[str, list[str]] = {}
    for folder in ("", *split_folders(path).values()):
        for name in sorted(os.listdir(os.path.join(path, folder))):
            if name.lower().endswith(".tar"):
                parts = splits_in([*re.split(r"[^A-Za-z]+", name), folder])
                inside = PurePath(folder, name).as_posix()
                found.setdefault(next(iter(parts), "all"), []).append(inside)
    return found


def _samples(file: str, shard: str) -> Iterator[_Sample]:
    """The samples of a shard that have an image, in order."""
    images: dict[str, tuple[str, str]] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                path = PurePath(member.name)
                if not member.isfile() or path.name.startswith("."):
                    continue
                key, _, extension = path.name.partition(".")
                key = (path.parent / key).as_posix()
                if is_image(path.name):  # the first, if there are several
                    place = tar_member(file, member.offset_data, member.size)
                    images.setdefault(key, (f"{shard}/{member.name}", place))
                elif extension.lower() == "cls" and (content := tar.extractfile(member)):
                    labels[key] = content.read(_LONGEST_LABEL).decode("ascii", "replace")
    except (OSError, tarfile.TarError) as error:
        raise AnnotationError(
            f"{file} is not a complete, uncompressed tar ({error}): copy it again"
        ) from error
    for key, (name, place) in images.items():
        yield _Sample(name, place, labels.get(key))
