"""COCO's results format: a list of detections, each with an image id and a score."""

import json
import math
import os
import pickle
import posixpath
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from ..files import is_file, read_bytes
from ..remote import absolute
from .coco import ImageIndex, read_images
from .entries import Image, Instance, Unreadable, instance_of, key_of
from .json_stream import Cursor
from .reader import Reader, slashes
from .values import identifier, number, shown


class Detection(NamedTuple):
    """A detection as stored in the file, except for its validated score."""

    score: float
    bbox: Any
    segmentation: Any  #: in any form, or empty if the detector gives boxes only


class Detections(ImageIndex):
    """The result of `read_detections`.

    Attributes:
        digest: hexadecimal digest of the file's bytes and of the image list's.
        images_json: the image list; None if the results alone define the images.
        count: number of detections that reach the score; `masked`, how many of them have a segmentation.
    """

    def __init__(self, digest: str, reader: "_DetectionReader") -> None:
        super().__init__(reader.path, reader.images, reader.owners, reader.packed)
        self.digest, self.images_json = digest, reader.images_json
        self.count, self.masked = len(reader.packed), reader.masked

    def find(self, dataset_dict: Mapping[str, Any]) -> tuple[Image, list[Detection]] | None:
        """The image of a dataset dict and its detections by decreasing score; None if it is unknown.

        With an image list, this works like `Annotations.find`. Without one, only ids are compared: ids of the
        data set, paths below its folder, with or without extension, or a path that is a number. A base
        name alone would match frames of any video.
        """
        row = self.row_of(dataset_dict) if self.images_json else self._row_by_id(dataset_dict)
        if row is None:
            return None
        found = [Detection(*values) for values in self.values(row)]
        return self.image(row), sorted(found, key=lambda detection: -detection.score)

    def _row_by_id(self, dataset_dict: Mapping[str, Any]) -> int | None:
        identity = dataset_dict.get("image_id")
        if isinstance(identity, int | np.integer):
            keys: list[int | str] = [int(identity)]
        else:
            path = slashes(str(identity))
            bare = posixpath.splitext(path)[0]
            number = [int(bare)] if bare.isascii() and bare.isdecimal() else []
            keys = [key_of(str(identity)), path, key_of(bare), *number]
        return next((row for key in keys for row in self.rows_of(key)), None)

    def read(self, detection: Detection, size: tuple[int, int]) -> Instance:
        """Validate a detection in an image of (H, W) pixels like an annotation.

        UserError: it is invalid, e.g. because its mask has another size.
        """
        try:
            return instance_of(detection._asdict(), size, lambda _: None)
        except Unreadable as error:
            field, what = error.args
            raise UserError(f"{field} {what}") from error


def read_detections(path: str, images_json: str | None, min_score: float) -> Detections:
    """Read and validate a results file; masks and boxes are validated later, given their image's size.

    Args:
        path: the file; may be remote, ``~`` is expanded.
        images_json: a file in COCO's format, or anything else that `read_images` accepts, whose images have
            the ids of the results; None if these are ids or paths of the data set.
        min_score: detections below it are left out.

    Raises:
        UserError: the file does not exist, or no detection reaches the score.
        AnnotationError: the file is in another format, is for other images, or more than one entry in ten is
            unreadable.
    """
    path = os.path.expanduser(path)
    if not is_file(path):
        raise UserError(f"there is no file of results {absolute(path)}")
    reader = _DetectionReader(path, images_json, min_score)
    raw = read_bytes(path)
    reader.read(raw)
    reader.check()
    reader.log_notes()
    digest = blake2b(raw, digest_size=16)
    if images_json:
        listed = sorted((str(key), image.file_name) for key, image in reader.images.items())
        digest.update(json.dumps(listed).encode())
    return Detections(digest.hexdigest(), reader)


class _DetectionReader(Reader):
    begins = "["
    layout = "a list of detections, {image_id, category_id, score, segmentation or bbox}"

    def __init__(self, path: str, images_json: str | None, min_score: float) -> None:
        super().__init__(path)
        self.images_json = images_json
        for image in read_images(images_json) if images_json else ():
            self.images[key_of(image.id)] = image
        self.masked = 0
        self._least = min_score
        self._highest = -math.inf

    def _read(self, cursor: Cursor) -> None:
        if cursor.character != self.begins:
            raise json.JSONDecodeError("it begins otherwise", "", 0)
        self._section("detections", cursor)
        cursor.end()

    def _annotation(self, entry: dict[str, Any], place: int) -> Unreadable | None:
        for field, read in (("image_id", identifier), ("score", number)):
            try:
                read(entry.get(field))
            except ValueError as error:
                return Unreadable(field, str(error))
        score, segmentation = number(entry["score"]), entry.get("segmentation")
        if not segmentation and not entry.get("bbox"):
            return Unreadable(
                "bbox", f"is {shown(entry.get('bbox'))}, and there is no segmentation"
            )
        key = key_of(identifier(entry["image_id"]))
        if not self.images_json and isinstance(key, str):
            key = slashes(key)
        elif self.images_json and key not in self.images:
            self.note(key, f"detections in images that {self.images_json} does not list, left out")
            return None
        self.images.setdefault(key, Image(key, str(key), 0, 0))
        self._highest = max(score, self._highest)
        if score >= self._least:
            self.owners.append(key)
            self.packed.append(pickle.dumps((score, entry.get("bbox"), segmentation)))
            self.masked += bool(segmentation)
        return None

    def check(self) -> None:
        """Raise AnnotationError or UserError if nothing is left of the file."""
        if self._highest == -math.inf:
            what = f" in an image of {self.images_json}" if self.images_json else ""
            raise self.error(
                f"has no detection{what}: give the results of a detector on these images"
                + "".join(f" ({line})" for line in self.notes())
            )
        if not self.packed:
            raise UserError(
                f"{self.path}: no detection has a score of {self._least} or more, the highest is "
                f"{self._highest:g}: give a lower min_score"
            )
