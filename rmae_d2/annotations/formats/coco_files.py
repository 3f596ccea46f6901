"""COCO and LVIS jsons in their usual folders: COCO's own, and Roboflow, CVAT and Label Studio exports."""

import os
import re
from collections.abc import Mapping

from ...errors import UserError, examples
from .addresses import split_folders, split_named

LOOKED_FOR = (
    "a json with images, annotations and categories, in it, in annotations/ or in train/, valid/"
)

_HEAD = 4096
_FIRST_KEY = re.compile(rb'^(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*\{\s*"(\w+)"')
_KEYS = {b"info", b"licenses", b"license", b"images", b"annotations", b"categories", b"type"}


def why(path: str) -> str:
    """What identifies a folder or file as this format; "" if it is not."""
    if not os.path.isdir(path):
        return ".json" if path.lower().endswith(".json") else ""
    found = [os.path.relpath(file, path) for files in _by_split(path).values() for file in files]
    return examples(found)


def splits(path: str) -> list[str]:
    """Names of the splits that have a json."""
    return list(_by_split(path)) if os.path.isdir(path) else []


def json_of(path: str, split: str | None) -> str:
    """The json of a split, or the only one.

    Raises:
        UserError: there is none, or there are several; says how to choose one.
    """
    if not os.path.isdir(path):
        if split is not None:
            raise UserError(f"{path} is one json, which has no splits: leave out split={split}")
        return path
    by_split = _by_split(path)
    if split is not None and split_named(split) not in by_split:
        raise UserError(f"{path} has no split {split}: it has {', '.join(by_split) or 'none'}")
    chosen = by_split if split is None else {split: by_split[split_named(split)]}
    files = [file for files in chosen.values() for file in files]
    if len(files) == 1:
        return files[0]
    if not files:
        raise UserError(f"{path} is not in COCO's format: looked for {LOOKED_FOR}")
    remedy = f" or dataset.split={list(chosen)[0]}" if len(chosen) > 1 else ""
    raise UserError(
        f"{path} has {len(files)} jsons in COCO's format, {examples(files)}: choose one with its path{remedy}"
    )


def _by_split(path: str) -> Mapping[str, list[str]]:
    """The files of each split; if there are several, those named "instances" are preferred."""
    found: dict[str, list[str]] = {}
    parts = split_folders(path)
    for folder in ("", "annotations", *parts.values()):
        place = os.path.join(path, folder)
        for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
            file = os.path.join(place, name)
            if name.lower().endswith(".json") and _is_coco(file):
                split = split_named(folder) if folder in parts.values() else _split_of(name)
                found.setdefault(split, []).append(file)
    instances = {
        split: [file for file in files if os.path.basename(file).startswith("instances")] or files
        for split, files in found.items()
    }
    return instances


def _split_of(name: str) -> str:
    """The split in a file name: train for instances_train2017.json, default for instances_default.json."""
    stem = os.path.splitext(name)[0].split("_")[-1]
    return split_named(re.sub(r"\d+$", "", stem) or stem)


def _is_coco(file: str) -> bool:
    try:
        with open(file, "rb") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return False
    match = _FIRST_KEY.match(head.replace(b"\0", b""))
    return match is not None and match[1] in _KEYS and b'"segments_info"' not in head
