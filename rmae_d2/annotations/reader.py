"""Take in the entries of one data set one by one, and cross-check them."""

import json
import logging
import pickle
import posixpath
from collections import Counter
from collections.abc import Iterable
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple

from ..errors import AnnotationError, UserError, examples
from ..files import decode_text, read_bytes
from .entries import (
    Category,
    Image,
    Unreadable,
    category_of,
    image_of,
    instance_of,
    key_of,
    label_of,
)
from .formats.addresses import address_of
from .formats.content import Broken, Content
from .formats.recognise import FORMATS
from .json_stream import Cursor
from .values import identifier, shown

logger = logging.getLogger(__name__)

#: At most one in this many entries may be unreadable; beyond that, the file is damaged or of another kind.
_ONE_IN = 10
_SECTIONS = ("images", "categories", "annotations")
_ENDS = {"{": "}", "[": "]"}


class Noted(NamedTuple):
    """Why a number of entries were left out or repaired, with examples."""

    reason: str
    entries: int
    examples: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.entries}, such as {self.examples}"


def slashes(name: str) -> str:
    """Normalize a file name to forward slashes without ``./``."""
    return posixpath.normpath(name.replace("\\", "/"))


class Reader:
    """Takes the entries of one file and checks their references to each other."""

    #: Whether images whose size cannot be read are left out.
    needs_sizes = True
    #: The first character of the file, and its layout in words.
    begins, layout = "{", "an object of 'images', 'annotations' and 'categories'"

    def __init__(self, path: str, images_only: bool = False) -> None:
        self.path = path
        self.folder: str | None = None
        self.digest = ""
        self._images_only = images_only
        self._is_json = True
        self._found: list[str] = []  # sections
        self.images: dict[Any, Image] = {}  # by key_of
        self.categories: dict[int, Category] = {}
        self.owners: list[Any] = []  # for each packed instance, its image's key
        self.packed: list[bytes] = []
        self.labelled = False
        self._segmented = self._masked = 0
        self._contents: dict[Any, int] = {}  # by annotation id
        self._first_use: dict[int, str] = {}  # by category
        self._noted: dict[str, list[Any]] = {}
        self._by_file: dict[Any, Any] = {}  # an image's name and size -> its key
        self._same: dict[Any, Any] = {}  # key of a duplicate image -> key of the first one
        self._objects: dict[Any, set[int]] = {}  # of such first images, contents without ids
        self._reach = 0.0  # of boxes, in pixels from the corner
        self._between = False  # whether a box begins or ends between two pixels

    def notes(self) -> list[Noted]:
        """What was left out or repaired."""
        return [Noted(reason, len(of), examples(of)) for reason, of in self._noted.items()]

    def log_notes(self) -> None:
        """Log one warning per reason."""
        for note in self.notes():
            logger.warning("%s: %s", self.path, note)

    def note(self, entry: Any, reason: str) -> None:
        self._noted.setdefault(reason, []).append(entry)

    def error(self, what: str) -> AnnotationError:
        return AnnotationError(f"{self.path} {what}")

    # ------------------------------------------------------------------ layout

    def read_all(self) -> None:
        """Read what is at the path, a json or a data set in another format.

        Raises:
            UserError and AnnotationError: see `read_annotations`.
        """
        address = address_of(self.path)
        read = None if address.format is None else FORMATS[address.format].read
        if read is None:
            raw = read_bytes(self.path)
            self.digest = blake2b(raw, digest_size=16).hexdigest()
            self.read(raw)
        else:
            self._take(read(address.path, address.split, self._images_only))

    def _take(self, content: Content) -> None:
        self.folder, self._is_json = content.sources.folder, False
        self.labelled = True
        self._entries("categories", content.categories)
        self._entries("images", content.images)
        if not self._images_only:
            self._entries("annotations", content.annotations)
        self.digest = content.sources.digest
        self._noted |= content.sources.notes
        if not self.images:
            raise self.error("has no image")

    def read(self, raw: bytes) -> None:
        """Read a json's sections; images before annotations, whatever their order in the file.

        Raises:
            AnnotationError: see `read_annotations`.
        """
        try:
            text = decode_text(raw, self.path)
        except UserError as error:
            raise AnnotationError(str(error)) from error
        try:
            self._read(Cursor(text))
        except RecursionError as error:
            raise self.error("is nested too deeply to be a data set") from error
        except (json.JSONDecodeError, IndexError) as error:
            raise self.error(self._broken(text, error)) from error
        except UserError:
            raise
        except ValueError as error:
            raise self.error(f"has a number of thousands of digits ({error})") from error

    def _read(self, cursor: Cursor) -> None:
        wanted = _SECTIONS[:1] if self._images_only else _SECTIONS
        later = None
        for section in cursor.sections():
            self._found.append(section)
            if section not in wanted:
                cursor.skip()
            elif section == "annotations" and not self.images:
                later = cursor.position
                cursor.skip()
            else:
                self._section(section, cursor)
        if later is not None:
            cursor.position = later
            self._section("annotations", cursor)
        if not self.images:
            raise self.error(
                "is not in COCO's format: it needs a list 'images' with entries, it has "
                f"{examples(map(shown, self._found)) or 'nothing'}"
                + (". It is one of labelme's: give the folder" if "shapes" in self._found else "")
            )

    def _section(self, section: str, cursor: Cursor) -> None:
        if cursor.character != "[":
            value = cursor.value()
            if value is None and section == "annotations":
                return  # as in test sets' files
            raise self.error(f"is not in COCO's format: {section!r} is {shown(value)}, not a list")
        self.labelled |= section == "annotations"
        self._entries(section, cursor.values())

    def _entries(self, section: str, entries: Iterable[Any]) -> None:
        take = {
            "images": self._image,
            "categories": self._category,
            "annotations": self._annotation,
            "detections": self._annotation,  # from `detections.py`
        }
        place, unreadable = -1, []
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise self.error(f"is not in COCO's format: {section!r} holds {shown(entry)}")
            if isinstance(entry, Broken):
                error: Unreadable | None = Unreadable(entry.field, entry.what)
            else:
                error = take[section](entry, place)
            if error is not None:
                unreadable.append((label_of(section, entry, place), *error.args))
        if not unreadable:
            return
        label, field, what = unreadable[0]
        first = f"{label}: {field} {what}"
        if len(unreadable) * _ONE_IN > place + 1:
            raise self.error(
                f"has {len(unreadable)} of {place + 1} {section} that cannot be read, and at most one in "
                f"{_ONE_IN} may be left out. {first}. Correct or remove these entries"
            )
        for label, *_ in unreadable:
            self.note(label, f"{section} that cannot be read, left out ({first})")

    def check(self) -> None:
        """Drop images without a size. AnnotationError: problems that only the whole file reveals."""
        if self.needs_sizes:
            self.images = {key: image for key, image in self.images.items() if image.height}
        unknown = [k for k in self._first_use if k not in self.categories]
        if self.categories and unknown:
            raise self.error(
                f"has annotations with category ids that 'categories' does not list: "
                f"{examples(self._first_use[k] for k in unknown)}; "
                f"it lists {examples(map(shown, sorted(self.categories)))}. List them, or take these "
                "annotations out"
            )
        if 0 < self._reach <= 1 and self._between:
            raise self.error(
                f"has boxes within the first pixel of their images (to {self._reach:g}): shares of the sides?"
                " COCO's format has pixels: multiply x and width by the width, y and height by the height"
            )
        names = Counter(category.name for category in self.categories.values())
        for category in self.categories.values():
            if names[category.name] > 1:
                self.note(
                    f"{category.name} (id {category.id})",
                    "categories with the name of another one, each a class of its own",
                )
        if self._segmented and not self._masked:
            raise self.error(
                f"has {self._segmented} segmentations and none with an area: polygons need three points "
                'or more. Where there are boxes only, give "segmentation": []'
            )

    # ------------------------------------------------------------------ entries

    def _image(self, entry: dict[str, Any], place: int) -> Unreadable | None:
        if self._images_only and entry.get("id") is None:
            entry = {**entry, "id": entry.get("file_name")}
        try:
            image, problem = image_of(entry)
        except Unreadable as error:
            field, what = error.args
            raise self.error(
                f"has {label_of('images', entry, place)} whose {field} {what}: correct it"
            ) from error
        before = self.images.setdefault(key_of(image.id), image)
        if before != image:
            raise self.error(
                f"has the image id {shown(entry['id'])} twice: {before.file_name}, "
                f"{before.width}x{before.height} pixels, and {image.file_name}, "
                f"{image.width}x{image.height}. Give every image its own id"
            )
        if before is not image:
            self.note(image.id, "images that stand in it twice, taken once")
        self._find_same(image)
        return problem if self.needs_sizes and not self._images_only else None

    def _find_same(self, image: Image) -> None:
        """Merge an image with an earlier one that has the same file but another id; likewise its objects."""
        key = key_of(image.id)
        first = self._by_file.setdefault((slashes(image.file_name), *image[2:4]), key)
        if first != key:
            del self.images[key]
            self._same[key] = first
            self._objects[first] = set()
            self.note(image.id, "images whose file is there under another id, taken as that one")

    def _category(self, entry: dict[str, Any], place: int) -> None:
        try:
            category = category_of(entry)
        except Unreadable as error:
            field, what = error.args
            raise self.error(
                f"has {label_of('categories', entry, place)} whose {field} {what}: correct it"
            ) from error
        before = self.categories.setdefault(category.id, category)
        if before != category:
            raise self.error(
                f"has the category id {shown(entry['id'])} twice, as {shown(before.name)} and as "
                f"{shown(category.name)}: give every category its own id"
            )

    def _annotation(self, entry: dict[str, Any], place: int) -> Unreadable | None:
        name = entry.get("id", f"entry {place}")
        if "segments_info" in entry:
            raise self.error(
                "is a panoptic json, whose segments are in PNG files: give these images' instances json"
            )
        try:
            image = self._image_of(entry, name)
        except ValueError as error:
            return Unreadable("image_id", str(error))
        if image is None:
            return None
        if not image.height:
            self.note(name, "annotations of images whose size cannot be read, left out")
            return None
        self._segmented += bool(entry.get("segmentation"))
        try:
            # In other formats, box and area are normally derived from other values.
            note = partial(self.note, name) if self._is_json else _unsaid
            instance = instance_of(entry, (image.height, image.width), note)
        except Unreadable as error:
            return error
        self._masked += instance.mask is not None
        if instance.category_id not in self._first_use:
            label = f"{shown(entry.get('category_id'))} of {label_of('annotations', entry, place)}"
            self._first_use[instance.category_id] = label
        if min(instance.box[2:]) <= 0:
            self.note(name, "annotations whose box and mask have no area, left out")
            return None
        x, y, width, height = instance.box
        self._reach = max(self._reach, x + width, y + height)
        self._between |= any(value % 1 for value in instance.box)
        key, packed = key_of(image.id), pickle.dumps(tuple(instance))
        if key in self._objects:
            content = hash(pickle.dumps(tuple(instance)[1:]))
            if content in self._objects[key]:
                self.note(
                    name, "annotations that are there for both ids of their image, taken once"
                )
                return None
            self._objects[key].add(content)
        if not self._is_repeated(instance.id, hash((key, packed))):
            self.owners.append(key)
            self.packed.append(packed)
        return None

    def _image_of(self, entry: dict[str, Any], name: Any) -> Image | None:
        """The listed image of an annotation; None, with a note, if not listed. ValueError: unreadable id."""
        key = key_of(identifier(entry.get("image_id")))
        image = self.images.get(self._same.get(key, key))
        if image is None:
            self.note(name, "annotations of images that it does not list, left out")
        return image

    def _is_repeated(self, identity: Any, content: int) -> bool:
        """Whether an earlier annotation is identical; one that shares only the id is another object."""
        name = identity if isinstance(identity, int | str) else repr(identity)
        if identity is None or name not in self._contents:
            self._contents[name] = content
            return False
        if self._contents[name] == content:
            self.note(identity, "annotations that stand in it twice, taken once")
            return True
        self.note(identity, "annotations with the id of another one, both taken")
        return False

    def _broken(self, text: str, error: Exception) -> str:
        """Describe what is wrong with a text that is not JSON or has the wrong beginning."""
        start, end = text[:1000].strip()[:1], text[-1000:].strip()[-1:]
        if start and start in '{["-0123456789tfn' and start != self.begins:
            return (
                f"is not in COCO's format: it begins with {shown(text.strip()[:20])} and not with "
                f"{self.layout}"
                + (". Of Label Studio's own json export as COCO" if start == "[" else "")
            )
        early = isinstance(error, IndexError)
        cut = not start or early or (start == self.begins and end != _ENDS[start])
        what, reason = "is cut off" if cut else "is not JSON", "it ends early" if early else error
        return f"{what} ({len(text):,} characters; {reason}): download, copy or unpack it again"


def _unsaid(reason: str) -> None:
    """Discard notes about things that need no mention."""
