"""COCO's panoptic json: which PNG holds the segments of which image."""

import posixpath
from typing import Any, NamedTuple

from ..files import read_bytes
from .coco import located
from .entries import Image, Unreadable
from .reader import Reader
from .values import shown


class PanopticImage(NamedTuple):
    """An image, and the file name of the PNG with its segments."""

    image: Image
    png: str


def read_panoptic(path: str, name: str | None = None) -> list[PanopticImage]:
    """Read and validate a panoptic json.

    Images without segments are left out with a warning, like all problems.

    Arguments and errors are those of `read_annotations`.
    """
    path = located(path, name)
    reader = _PanopticReader(path)
    reader.read(read_bytes(path))
    reader.check()
    reader.log_notes()
    if not reader.found:
        raise reader.error("has no annotations with 'segments_info': is it a panoptic json?")
    return reader.found


class _PanopticReader(Reader):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.found: list[PanopticImage] = []

    def _annotation(self, entry: dict[str, Any], place: int) -> Unreadable | None:
        png = entry.get("file_name")
        if not isinstance(png, str) or not posixpath.basename(png):
            return Unreadable("file_name", f"{shown(png)} names no PNG")
        if not isinstance(entry.get("segments_info"), list):
            return Unreadable("segments_info", f"{shown(entry.get('segments_info'))} is not a list")
        try:
            image = self._image_of(entry, png)
        except ValueError as error:
            return Unreadable("image_id", str(error))
        if image is not None:
            self.found.append(PanopticImage(image, png))
        return None
