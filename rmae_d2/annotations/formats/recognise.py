"""Detect the format of a data set."""

import logging
import os
from collections.abc import Callable
from typing import NamedTuple

from ... import packed
from ...errors import UserError, examples
from ...files import exists, is_file
from ...listing import IMAGE_EXTENSIONS, is_image, walk
from ...remote import absolute, is_remote
from . import coco_files, hugging_face, labelme, voc, webdataset, yolo
from .addresses import Address, split_folders
from .content import Content

logger = logging.getLogger(__name__)


class Format(NamedTuple):
    """A format; every function takes the data set's path."""

    title: str
    looked_for: str
    why: Callable[[str], str]  #: what identifies a path as this format; "" if it is not
    splits: Callable[[str], list[str]]  #: names of its splits, if it has any
    #: takes path, split and whether only images are wanted; None: no labels, or those of a COCO json
    read: Callable[[str, str | None, bool], Content] | None
    #: whether its folder contains photos as plain files and no other images, so that all can be used
    photos_only: bool


def _is_folder_of_images(path: str) -> str:
    if is_remote(path):
        return "" if is_file(path) else "a folder of an object store"
    if not os.path.isdir(path):
        return ""
    for parent, files in walk(path):
        if name := next((n for n in files if is_image(n) and not n.startswith(".")), None):
            return os.path.relpath(os.path.join(parent, name), path)
    return ""


def _is_list(path: str) -> str:
    return ".txt" if path.lower().endswith(".txt") else ""


def _no_splits(path: str) -> list[str]:
    return []


#: By the names in `NAMES`, in the order in which they are tried.
FORMATS = {
    "list": Format(
        "a list of images", "a .txt, one path per line", _is_list, _no_splits, None, False
    ),
    "packed": Format(
        "images packed into shards", packed.LOOKED_FOR, packed.why, _no_splits, None, False
    ),
    "yolo": Format("YOLO", yolo.LOOKED_FOR, yolo.why, yolo.splits, yolo.read, True),
    "voc": Format("Pascal VOC", voc.LOOKED_FOR, voc.why, voc.splits, voc.read, False),
    "parquet": Format(
        "Hugging Face's Parquet",
        hugging_face.LOOKED_FOR_PARQUET,
        hugging_face.why_parquet,
        hugging_face.splits_parquet,
        hugging_face.read_parquet,
        False,
    ),
    "imagefolder": Format(
        "Hugging Face's imagefolder",
        hugging_face.LOOKED_FOR_METADATA,
        hugging_face.why_metadata,
        hugging_face.splits_metadata,
        hugging_face.read_metadata,
        True,
    ),
    "webdataset": Format(
        "WebDataset",
        webdataset.LOOKED_FOR,
        webdataset.why,
        webdataset.splits,
        webdataset.read,
        False,
    ),
    "coco": Format(
        "COCO's or LVIS's json",
        coco_files.LOOKED_FOR,
        coco_files.why,
        coco_files.splits,
        None,
        True,
    ),
    "labelme": Format(
        "labelme", labelme.LOOKED_FOR, labelme.why, labelme.splits, labelme.read, True
    ),
    "images": Format(
        "a folder of images",
        f"images in it or below: {' '.join(sorted(IMAGE_EXTENSIONS))}",
        _is_folder_of_images,
        lambda path: list(split_folders(path)),
        None,
        True,
    ),
}


#: What each format is recognized by, one line each.
LOOKED_FOR = "\n".join(f"  {name:12}{format.looked_for}" for name, format in FORMATS.items())


class Recognised(NamedTuple):
    """What a path was recognized as."""

    name: str  #: one of `FORMATS`
    address: Address  #: with that format

    @property
    def format(self) -> Format:
        return FORMATS[self.name]


def recognise(address: Address) -> Recognised:
    """Determine a data set's format: from its files, or as given in the address. Logged once per path.

    Raises:
        UserError: nothing is there, or nothing recognizable; says what was looked for.
    """
    path = address.path
    if not exists(path):
        raise UserError(f"there is no {absolute(path)}: looked for\n{LOOKED_FOR}")
    if address.format is not None:
        return Recognised(address.format, address)
    found = {name: why for name, format in FORMATS.items() if (why := format.why(path))}
    if not found:
        raise UserError(
            f"{absolute(path)} is not a data set in a known format: looked for\n{LOOKED_FOR}"
        )
    name = next(iter(found))
    others = [other for other in found if other not in (name, "images")]
    _say(name, path, found[name], others)
    return Recognised(name, address._replace(format=name))


def splits_of(address: Address) -> list[str]:
    """Names of a data set's splits; arguments and errors as in `recognise`; a json has none."""
    if address.path.lower().endswith(".json"):
        return []
    found = recognise(address)
    return found.format.splits(address.path)


_said: set[str] = set()


def _say(name: str, path: str, why: str, others: list[str]) -> None:
    if path in _said:
        return
    _said.add(path)
    splits = FORMATS[name].splits(path)
    logger.info(
        "%s is read as %s (%s), by %s%s%s",
        *(path, FORMATS[name].title, name, why),
        f"; its splits: {examples(splits)}" if splits else "",
        f". It could be {', '.join(others)}, too: dataset.format={others[0]}" if others else "",
    )
