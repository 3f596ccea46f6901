"""Locate the files that a list or an annotation file names, however the names are written.

The names come from other systems and machines: with backslashes, URL-encoded, absolute, in a different case,
or without an extension. A name that does not exist as written is resolved if only one file can be meant.
"""

import difflib
import logging
import os
import posixpath
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from ..annotations.coco import joined
from ..annotations.reader import slashes
from ..errors import UserError, examples
from ..files import exists
from ..listing import IMAGE_EXTENSIONS, files_below
from ..remote import absolute, is_remote

logger = logging.getLogger(__name__)

#: How many names are tried when searching for a json's image folder.
_TRIED = 16


def image_files(path: str, names: Sequence[str], root: str | None) -> list[str]:
    """Locate a json's images, in the order of their names; names that are not found are resolved.

    Args:
        path: path of the json.
        names: file names as written in the json. URLs stand for themselves, unless a root is given.
        root: folder that the names are relative to; by default it is searched for near the json.

    Raises:
        UserError: none of a sample of the names exists in any of the folders tried.
    """
    if root is not None:
        root = os.path.expanduser(root)
    elif all(is_remote(name) for name in names):
        return list(names)
    candidates = _candidate_folders(path) if root is None else [root]
    few = [name for name in names if root is not None or not is_remote(name)]
    few = few[:: -(-len(few) // _TRIED)]
    if is_remote(candidates[0]):
        there = (place for place in candidates if any(exists(joined(place, name)) for name in few))
        if (place := next(there, None)) is None:
            raise _nowhere(path, names, candidates)
        return files_in(place, names, path, addresses=root is not None)
    hits = [sum(os.path.exists(os.path.join(place, name)) for name in few) for place in candidates]
    if max(hits):
        # A copy of the data set beside this one may hold a photo that is missing here.
        near = (place for place, n in zip(candidates, hits, strict=True) if 2 * n >= len(few))
        folder = next(near, candidates[hits.index(max(hits))])
    else:
        meant = [len(_Listing(place, deep=root is not None).meant_by(few)) for place in candidates]
        folder = candidates[meant.index(max(meant))]
        if not max(meant):
            raise _nowhere(path, names, candidates)
    return files_in(folder, names, path, addresses=root is not None)


def files_in(folder: str, names: Sequence[str], path: str, *, addresses: bool = False) -> list[str]:
    """Paths of files in a folder; a missing name is resolved to the only file it can mean, logged once.

    Args:
        path: the file that lists the names, for the log.
        addresses: whether URLs, too, stand for files in the folder.
    """
    if "://" in folder:
        return [joined(folder, name) for name in names]
    absent = _absent([os.path.join(folder, name) for name in names])
    unknown = [
        name
        for name in names
        if (addresses if is_remote(name) else os.path.join(folder, name) in absent)
    ]
    meant = _Listing(folder, deep=True).meant_by(unknown) if unknown else {}
    if meant:
        some = (f"{name!r} as {file!r}" for name, file in meant.items())
        logger.info(
            "%s: %d file names are written in another way than the files in %s, and were found: %s",
            *(path, len(meant), folder, examples(some)),
        )
    return [joined(folder, meant.get(name, name)) for name in names]


class _Listing:
    """The images below a folder, indexed by the parts of a name that survive a move between systems."""

    def __init__(self, folder: str, deep: bool) -> None:
        files: list[str] = []
        if deep:
            files = files_below(folder)[0]
        else:
            with suppress(OSError):
                files = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
        self._by_stem: dict[str, list[str]] = {}
        for file in files:
            self._by_stem.setdefault(_stem(file), []).append(file)

    def meant_by(self, names: Sequence[str]) -> dict[str, str]:
        """Map each name that can mean only one file to that file."""
        found = {name: self._meant_by(name) for name in names}
        return {name: file for name, file in found.items() if file is not None}

    def _meant_by(self, name: str) -> str | None:
        for spelling in dict.fromkeys((slashes(name), slashes(unquote(name)))):
            extension = _image_extension(spelling)
            files = [
                file
                for file in self._by_stem.get(_stem(spelling), [])
                if extension in ("", _image_extension(file))
            ]
            scores = [_common_end(spelling, file) for file in files]
            if files and scores.count(max(scores)) == 1:
                return files[scores.index(max(scores))]
        return None


def _image_extension(name: str) -> str:
    extension = posixpath.splitext(name)[1].lower()
    return extension if extension in IMAGE_EXTENSIONS else ""


def _stem(name: str) -> str:
    base = posixpath.basename(name)
    return base[: len(base) - len(_image_extension(base))].casefold()


def _common_end(name: str, file: str) -> tuple[int, int]:
    """Count the trailing path components that agree ignoring case, and exactly; extensions are ignored."""
    name, file = (text[: len(text) - len(_image_extension(text))] for text in (name, file))
    counts = []
    for a, b in ((name.casefold(), file.casefold()), (name, file)):
        pairs = zip(reversed(a.split("/")), reversed(b.split("/")), strict=False)
        counts.append(
            next(
                (n for n, (x, y) in enumerate(pairs) if x != y), min(a.count("/"), b.count("/")) + 1
            )
        )
    return counts[0], counts[1]


def _nowhere(path: str, names: Sequence[str], candidates: Sequence[str]) -> UserError:
    tried = "\n  ".join(absolute(candidate) for candidate in candidates)
    return UserError(
        f"{absolute(path)} names {len(names)} images, such as {names[0]}, but none of those "
        f"tried is in any of\n  {tried}\n{_nearest(names[0], candidates)}"
        "Say where they are with dataset.image_root=/folder"
    )


def _nearest(name: str, folders: Sequence[str]) -> str:
    """A sentence naming the file most similar to a missing one; empty if none is similar."""
    files: dict[str, str] = {}
    for folder in folders:
        with suppress(OSError):
            files |= {
                entry: os.path.join(folder, entry) for entry in os.listdir(folder or os.curdir)
            }
    like = difflib.get_close_matches(posixpath.basename(slashes(name)), files, 1)
    return f"The nearest file is {absolute(files[like[0]])}. " if like else ""


def _candidate_folders(path: str) -> list[str]:
    """Folders that may hold a json's images: COCO's usual places first, then any nearby folder.

    For annotations/instances_train2017.json, COCO has train2017; others have images/train2017 or images.
    """
    start, mark, inside = path.rpartition("://")
    here = os.path.dirname(inside) or os.curdir
    above = os.path.join(here, os.pardir)
    split = os.path.splitext(os.path.basename(inside))[0].split("_")[-1]
    usual = [
        os.path.normpath(os.path.join(base, part))
        for base in (above, here)
        for part in (split, f"images/{split}", "images", "")
    ]
    if mark:
        bucket = here.partition("/")[0]
        usual = [place for place in (here, *usual) if place.partition("/")[0] == bucket]
        return list(dict.fromkeys(start + mark + place for place in usual))
    siblings = sorted(os.path.normpath(entry.path) for entry in os.scandir(above) if entry.is_dir())
    return list(dict.fromkeys([os.path.normpath(here), *usual, *siblings]))


def _absent(files: Sequence[str]) -> set[str]:
    """Find missing files. Lists each folder once: on NFS, one stat per file takes hours."""
    local = [file for file in files if "://" not in file]
    there: dict[str, set[str]] = {}
    for folder in {os.path.dirname(file) for file in local}:
        with suppress(FileNotFoundError, NotADirectoryError):
            there[folder] = set(os.listdir(folder or os.curdir))
    return {f for f in local if os.path.basename(f) not in there.get(os.path.dirname(f), ())}


def without_absent(
    dicts: list[dict[str, Any]], path: str, allow_missing: float | None
) -> list[dict[str, Any]]:
    """Drop samples whose files are missing, with a warning.

    Args:
        path: the file or folder that names them.
        allow_missing: largest fraction that may be missing; None keeps all samples.

    Raises:
        UserError: a larger fraction is missing.
    """
    if allow_missing is None:
        return dicts
    absent = _absent([sample["file_name"] for sample in dicts])
    if not absent:
        return dicts
    first = min(absent)
    named = absolute(path) if os.path.exists(path) else path
    message = (
        f"{len(absent)} of the {len(dicts)} files that {named} names are absent, "
        f"such as {examples(absolute(file) for file in sorted(absent))}"
    )
    kept = [sample for sample in dicts if sample["file_name"] not in absent]
    if not kept or len(absent) > allow_missing * len(dicts):
        raise UserError(
            f"{message}. {_nearest(first, [os.path.dirname(first)])}At most {allow_missing:.0%} may be: "
            "fetch them or take them out of the list"
        )
    logger.warning("%s. They are left out", message)
    return kept
