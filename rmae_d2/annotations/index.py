"""A COCO or LVIS instance json, read image by image.

COCO train2017's has 450 MB and takes gigabytes as Python objects. What is kept here is where each
image and each annotation stands in the file, arrays of some 30 MB that forked workers share; the
annotations of an image are read from the file when they are asked for, so processes also share
the one copy in the system's file cache.
"""

import json
import logging
import os
import posixpath
import re
from array import array
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .segmentation import is_short

logger = logging.getLogger(__name__)

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_NEXT = re.compile(r"[ \t\n\r]*,?[ \t\n\r]*")


class _Entry(NamedTuple):
    section: str
    content: dict[str, Any]
    start: int
    end: int


class CocoJson:
    """Index of a json's images and of their annotations with masks. Picklable.

    Attributes:
        path: the file as given.
        digest: of the file's bytes, hexadecimal.
    """

    def __init__(self, path: str | os.PathLike[str], *, include_crowd: bool) -> None:
        """Read the whole file once (UserError where unusable), needing twice its size in memory.

        Args:
            path: local, or whatever iopath's `g_pathmgr` opens.
            include_crowd: keep annotations with `iscrowd`.
        """
        from iopath.common.file_io import g_pathmgr

        self.path = os.fspath(path)
        if not g_pathmgr.isfile(self.path):
            raise UserError(f"there is no annotation file {self.path}: correct json_file")
        self._local = Path(g_pathmgr.get_local_path(self.path))
        self._stamp = _stamp(self._local.stat())
        content = self._local.read_bytes()
        self.digest = blake2b(content, digest_size=16).hexdigest()
        # One character a byte, whatever the encoding, so that places in the text are places in the
        # file; JSON's own characters are all ASCII.
        text = content.decode("latin-1")
        del content
        try:
            self._index(text, include_crowd)
        except (ValueError, LookupError) as error:
            reason = "it is cut short" if isinstance(error, IndexError) else str(error)
            raise UserError(
                f"{self.path} is not usable as COCO or LVIS instance json: {reason}. It needs "
                "`images` with `id` and `file_name`, `annotations` with `image_id` and "
                "`segmentation`"
            ) from error

    def find(
        self, dataset_dict: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """The entry of an image in `images` and its entries in `annotations`, in the file's order.

        Found by `image_id` where that is an integer, else by the longest end of its path that is
        an image's `file_name` (`coco_url` in LVIS), else by the file's name alone.

        None where the json does not have the image. UserError: the image with this id is another file,
        or several have this name. RuntimeError: the file was changed since it was indexed.
        """
        row = self._row(dataset_dict)
        if row is None:
            return None
        spans = [self._image_spans[row], *self._spans[self._first[row] : self._first[row + 1]]]
        with open(self._local, "rb") as file:
            if _stamp(os.fstat(file.fileno())) != self._stamp:
                # No ValueError: it is not one image that is to blame.
                raise RuntimeError(f"{self.path} was changed while in use: start again")
            texts = [os.pread(file.fileno(), end - start, start) for start, end in spans]
        image, *annotations = map(json.loads, texts)
        return image, annotations

    def _row(self, dataset_dict: Mapping[str, Any]) -> int | None:
        image_id = dataset_dict.get("image_id")
        path = posixpath.normpath(str(dataset_dict["file_name"]))
        if isinstance(image_id, int | np.integer):
            row = int(self._ids.searchsorted(image_id))
            if row < len(self._ids) and self._ids[row] == image_id:
                self._check_name(row, path)
                return row
        base = posixpath.basename(path)
        first, last = (int(self._bases.searchsorted(base, side)) for side in ("left", "right"))
        rows = self._rows_by_base[first:last].tolist()
        ends = [row for row in rows if f"/{path}".endswith(f"/{self._names[row]}")]
        if ends:
            return max(ends, key=lambda row: len(self._names[row]))
        if len(rows) > 1:
            raise UserError(
                f"{self.path} has {len(rows)} images called {base}, and {path} may be "
                "any of them. Use a data set whose image ids are those of this json"
            )
        return rows[0] if rows else None

    def _check_name(self, row: int, path: str) -> None:
        """UserError where the row is of another photo; another extension passes."""
        there = str(self._names[row])
        stems = {posixpath.splitext(posixpath.basename(name))[0] for name in (there, path)}
        if len(stems) > 1:
            raise UserError(
                f"{self.path} says that image {self._ids[row]} is {there}, the data set says {path}: "
                "they are different data sets. Name the json of this data set"
            )

    # ------------------------------------------------------------------ building

    def _index(self, text: str, include_crowd: bool) -> None:
        ids, owners = array("q"), array("q")
        image_spans, spans = array("q"), array("q")
        names: list[str] = []
        crowd = bare = short = 0
        for entry in _entries(text):
            if entry.section == "images":
                ids.append(_integer(entry, "id"))
                names.append(_name(_as_utf8(entry, text)))
                image_spans.extend((entry.start, entry.end))
                continue
            segmentation = entry.content.get("segmentation")
            if entry.content.get("iscrowd") and not include_crowd:
                crowd += 1
            elif not segmentation:
                bare += 1
            else:
                short += sum(map(is_short, segmentation)) if isinstance(segmentation, list) else 0
                owners.append(_integer(entry, "image_id"))
                spans.extend((entry.start, entry.end))
        self._index_images(np.array(ids), np.array(names), np.array(image_spans).reshape(-1, 2))
        self._index_annotations(np.array(owners), np.array(spans).reshape(-1, 2))
        logger.info(
            "%s: %d masks of %d images, %d of which have none and give no regions; left out: %d "
            "crowd annotations, %d without segmentation, %d polygons of fewer than 3 points",
            self.path, len(self._spans), len(ids), (np.diff(self._first) == 0).sum(),
            crowd, bare, short,
        )  # fmt: skip

    def _index_images(
        self, ids: NDArray[np.int64], names: NDArray[np.str_], spans: NDArray[np.int64]
    ) -> None:
        """Images by rising id, and their rows by rising name of the file."""
        if not len(ids):
            raise UserError("it has no images")
        order = np.argsort(ids)
        self._ids, self._names, self._image_spans = ids[order], names[order], spans[order]
        twice = self._ids[1:][self._ids[1:] == self._ids[:-1]]
        if len(twice):
            raise UserError(f"image id {twice[0]} stands in it twice")
        bases = np.array([posixpath.basename(name) for name in self._names.tolist()])
        self._rows_by_base = np.argsort(bases, kind="stable")
        self._bases = bases[self._rows_by_base]

    def _index_annotations(self, owners: NDArray[np.int64], spans: NDArray[np.int64]) -> None:
        """Annotations in the order of their images' rows; row i's are from `_first[i]` on."""
        if not len(owners):
            raise UserError("none of its annotations has a mask, and boxes alone give no regions")
        rows = np.searchsorted(self._ids, owners).clip(max=len(self._ids) - 1)
        strays = owners[self._ids[rows] != owners]
        if len(strays):
            raise UserError(
                f"{len(strays)} annotations are of images that it does not list, such as image id "
                f"{strays[0]}"
            )
        self._spans = spans[np.argsort(rows, kind="stable")]
        self._first = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=len(self._ids)))))


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _entries(text: str) -> Iterator[_Entry]:
    """Entries of `images` and `annotations`, one at a time. IndexError where the text ends early."""
    position = _opened(text, 0, "{")
    while text[position] != "}":
        section, position = _DECODER.raw_decode(text, position)
        position = _opened(text, position, ":")
        if section in ("images", "annotations") and text[position] == "[":
            position = _opened(text, position, "[")
            while text[position] != "]":
                content, end = _DECODER.raw_decode(text, position)
                if not isinstance(content, dict):
                    raise UserError(f"its {section} hold a {type(content).__name__}")
                yield _Entry(section, content, position, end)
                position = _end(_NEXT, text, end)
            position += 1
        else:
            position = _DECODER.raw_decode(text, position)[1]
        position = _end(_NEXT, text, position)


def _opened(text: str, position: int, character: str) -> int:
    """Where the next value begins, behind a character that must come first."""
    position = _end(_SPACE, text, position)
    if text[position] != character:
        raise UserError(f"it has {text[position]!r} instead of {character!r} at byte {position}")
    return _end(_SPACE, text, position + 1)


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _as_utf8(entry: _Entry, text: str) -> dict[str, Any]:
    """The entry with names as they are: those beyond ASCII were read one character a byte."""
    raw = text[entry.start : entry.end]
    content: dict[str, Any] = entry.content if raw.isascii() else json.loads(raw.encode("latin-1"))
    return content


def _integer(entry: _Entry, key: str) -> int:
    value = entry.content.get(key)
    if not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise UserError(f"an entry of {entry.section} has {key} {value!r}, no integer")
    return value


def _name(image: Mapping[str, Any]) -> str:
    name = image.get("file_name")
    if isinstance(name, str):
        return posixpath.normpath(name)
    url = image.get("coco_url")
    if isinstance(url, str):  # LVIS
        return "/".join(url.split("/")[-2:])
    raise UserError(f"image {image.get('id')} has neither file_name nor coco_url")
