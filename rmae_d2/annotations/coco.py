"""The one reader of labels in COCO's and LVIS's format: for training, evaluation, regions and `inspect`.

Every value has one of three answers, the same for all of them. What has one reading is read: a number as
text, [x, y] pairs, a box that its mask tells. What loses a few objects is left out, counted and named. What
would change the task is refused: other classes, no masks left, more than one entry in ten unreadable.

COCO train2017's json has 450 MB and takes gigabytes as Python objects. Entries are decoded one by one, and
what is kept is packed, so that forked workers share one copy of it.
"""

import json
import logging
import os
import pickle
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any

import numpy as np

from ..errors import AnnotationError, UserError, examples
from ..files import decode_text, is_file, read_bytes
from ..listing import is_image, walk
from .entries import (
    Category,
    Image,
    Instance,
    Unreadable,
    category_of,
    image_of,
    instance_of,
    key_of,
    label_of,
)
from .formats.addresses import address_of
from .formats.coco_files import json_of
from .formats.content import Broken, Content
from .formats.recognise import FORMATS, LOOKED_FOR, recognise
from .json_stream import Cursor
from .missing import missing_dataset
from .values import identifier, shown

logger = logging.getLogger(__name__)

#: Overrides that name own data in place of a registered data set.
OWN_DATA = "dataset.json=FILE.json (COCO's format) and dataset.root=IMAGES"

#: One in so many entries may be unreadable; with more, the file is damaged or means something else.
_ONE_IN = 10
_SECTIONS = ("images", "categories", "annotations")


class Annotations:
    """What `read_annotations` read. Picklable; processes forked later share it.

    Attributes:
        path: the file, or ``[FORMAT:]PATH[#SPLIT]`` of another format.
        folder: that ``file_name`` is relative to, absolute ones aside; None where a json does not say.
        digest: of the labels' bytes, hexadecimal.
        categories: in the order of their ids; none in files for regions alone.
        labelled: whether the file has annotations at all, as those of test sets have not.
        notes: what was left out or mended, a line each, with counts and examples.
    """

    def __init__(self, reader: "Reader") -> None:
        self.path, self.folder, self.digest = reader.path, reader.folder, reader.digest
        self.categories = tuple(sorted(reader.categories.values(), key=lambda c: c.id))
        self.labelled = reader.labelled
        self.notes = tuple(reader.notes())
        keys = sorted(reader.images, key=lambda key: (isinstance(key, str), key))
        images = [reader.images[key] for key in keys]
        self._ids = _Places(keys)
        self._stems = _Places([_stem(slashes(image.file_name)) for image in images])
        self._images = _Packed([pickle.dumps(tuple(image)) for image in images])
        rows = {key: row for row, key in enumerate(keys)}
        owners = np.array([rows[key] for key in reader.owners], np.int64)
        order = np.argsort(owners, kind="stable").tolist()
        self._instances = _Packed([reader.packed[k] for k in order])
        self._first = np.concatenate(([0], np.cumsum(np.bincount(owners, minlength=len(keys)))))

    def __len__(self) -> int:
        """Images."""
        return len(self._images)

    def __getitem__(self, row: int) -> tuple[Image, list[Instance]]:
        """An image, by its place in the order of the ids, and its instances in the file's order."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        first, last = self._first[row : row + 2].tolist()
        return self._image(row), [Instance(*self._instances[k]) for k in range(first, last)]

    def _image(self, row: int) -> Image:
        return Image(*self._images[row])

    def class_ids(
        self, mapping: Mapping[int, int] | None = None, first: int | None = None
    ) -> dict[int, int]:
        """The model's class number -> category id: as Detectron2's loaders have it.

        Args:
            mapping: category id -> class number, where it is registered; by default categories are counted.
            first: the id of class 0 where ids are counted from it, as LVIS's; None for the order of the ids.

        Raises:
            AnnotationError: no categories, or the mapping has others.
        """
        ids = [category.id for category in self.categories]
        if not ids:
            raise AnnotationError(
                f"{self.path} is not in COCO's format: it needs a list 'categories' with entries"
            )
        if mapping is None:
            return {(k if first is None else i - first): i for k, i in enumerate(ids)}
        if set(mapping) != set(ids):
            raise AnnotationError(
                f"{self.path} has {len(ids)} categories, its registered metadata {len(mapping)}; ids in one "
                f"of the two only: {examples(sorted(set(mapping) ^ set(ids)))}. Register it under another "
                "name"
            )
        return {number: identifier for identifier, number in mapping.items()}

    def __iter__(self) -> Iterator[tuple[Image, list[Instance]]]:
        return (self[row] for row in range(len(self)))

    def find(self, dataset_dict: Mapping[str, Any]) -> tuple[Image, list[Instance]] | None:
        """The image of a dataset dict, with its instances; None where the file does not have it.

        Found by `image_id` where that is an integer of the file's, else by the longest end of its path that
        is an image's `file_name`, else by the file's name alone, in the end in any case and extension.

        Raises:
            UserError: the image with this id is another file, or several have this name.
        """
        image_id = dataset_dict.get("image_id")
        path = slashes(str(dataset_dict["file_name"]))
        if isinstance(image_id, int | np.integer):
            for row in self._ids.of(int(image_id)):
                if key_of((image := self._image(row)).id) == image_id:
                    self._check_name(image, path)
                    return self[row]
        base = posixpath.basename(path)
        like = {row: slashes(self._image(row).file_name) for row in self._stems.of(_stem(base))}
        like = {row: name for row, name in like.items() if _stem(name) == _stem(base)}
        # In another case or with another extension only where nothing has the very name.
        named = {row: n for row, n in like.items() if posixpath.basename(n) == base} or like
        ends = [row for row, name in named.items() if f"/{path}".endswith(f"/{name}")]
        if ends:
            return self[max(ends, key=lambda row: len(named[row]))]
        if len(named) > 1:
            raise UserError(
                f"{self.path} has {len(named)} images called {base}, and {path} may be "
                "any of them. Use a data set whose image ids are those of this json"
            )
        return self[next(iter(named))] if named else None

    def _check_name(self, image: Image, path: str) -> None:
        """UserError where the image is another photo; another extension passes."""
        there = slashes(image.file_name)
        if _stem(there) != _stem(path):
            raise UserError(
                f"{self.path} says that image {image.id} is {there}, the data set says {path}: "
                "they are different data sets. Name the json of this data set"
            )


class _Packed:
    """Pickled values one after another in one array, which forked processes share."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._bytes = np.frombuffer(b"".join(parts), np.uint8)
        self._ends = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, k: int) -> Any:
        return pickle.loads(self._bytes[self._ends[k] : self._ends[k + 1]].tobytes())


class _Places:
    """Where values stand in a sequence, by hashes of them: two arrays, whatever the values are."""

    def __init__(self, values: Sequence[int | str]) -> None:
        hashes = np.array([_hash(value) for value in values], np.uint64)
        self._rows = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._rows]

    def of(self, value: int | str) -> list[int]:
        """Places of a value; of another one too, once in 10^18 pairs."""
        wanted = np.uint64(_hash(value))
        first, last = (int(self._hashes.searchsorted(wanted, side)) for side in ("left", "right"))
        return self._rows[first:last].tolist()


def _hash(value: int | str) -> int:
    return int.from_bytes(blake2b(repr(value).encode(), digest_size=8).digest(), "little")


def _stem(name: str) -> str:
    """By which file names of two systems are the same: without folders, extension, and case."""
    return posixpath.splitext(posixpath.basename(name))[0].casefold()


def joined(folder: str, name: str) -> str:
    """A file's name in a folder; an address stands for itself."""
    return name if "://" in name else os.path.join(folder, name)


def slashes(name: str) -> str:
    """A file name with forward slashes and no ``./``."""
    return posixpath.normpath(name.replace("\\", "/"))


def read_annotations(path: str, name: str | None = None) -> Annotations:
    """Reads and checks labels; once, as long as they do not change.

    What is left out or mended is counted in one warning for each reason.

    Args:
        path: a json in COCO's format, which may be remote; or ``[FORMAT:]PATH[#SPLIT]``, any data set that
            `recognise` knows. ``~`` is expanded.
        name: the registered dataset that a json belongs to, for the message where it is absent.

    Raises:
        UserError: no such file, or a data set without boxes or masks.
        AnnotationError: not complete JSON, not in the format, or contents that contradict themselves or of
            which too much has no reading; names file, entry, field and value.
    """
    path = located(path, name)
    return _read(path, stamp_of(path))


def stamp_of(path: str) -> tuple[int, int] | None:
    """By which a change shows: of a local file, or of the folders of a data set and its files but images."""
    address = address_of(path)
    if address.format is None or "://" in path:
        status = os.stat(path) if os.path.isfile(path) else None
        return (status.st_mtime_ns, status.st_size) if status else None
    whole = os.path.isdir(address.path)
    folder = address.path if whole else os.path.dirname(address.path) or os.curdir
    places = [address.path]
    for parent, files in walk(folder):
        places += [parent, *(os.path.join(parent, n) for n in files if not is_image(n))]
    return max(_changed(place) for place in places), len(places)


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:  # a link to nowhere
        return 0


def forget_annotations() -> None:
    """Frees the files that were read, but for what somebody holds; asked for again, they are read again."""
    for forget in FORGETTING:
        forget()


def read_images(path: str) -> list[Image]:
    """The images of a data set alone, whatever its annotations are, in the file's order.

    Of other formats than COCO's `file_name` is where the image lies.

    Raises:
        UserError and AnnotationError, as `read_annotations`; but sizes that cannot be read are 0, and where
            there is no id the file's name is it.
    """
    path = located(path)
    reader = Reader(path, images_only=True)
    reader.read_all()
    images = list(reader.images.values())
    if reader.folder is None:
        return images
    return [i._replace(file_name=joined(reader.folder, i.file_name)) for i in images]


def check_instances(
    entries: Sequence[Mapping[str, Any]], size: tuple[int, int], place: str
) -> list[Instance | None]:
    """Annotations of one image of (H, W) pixels that a dataset's own loader made, with boxes XYWH.

    Returns:
        each as the reader of files gives it; None for those without a reading or an area, with a warning.
    """
    checked: list[Instance | None] = []
    for k, entry in enumerate(entries):
        try:
            instance = instance_of(entry, size, lambda _: None)
            if min(instance.box[2:]) <= 0:
                raise Unreadable("bbox", f"{shown(entry.get('bbox'))} has no area, nor has a mask")
        except Unreadable as error:
            label = label_of("annotations", entry, k)
            logger.warning("%s, %s: %s %s. It is left out", place, label, *error.args)
            checked.append(None)
        else:
            checked.append(instance)
    return checked


def located(path: str, name: str | None = None) -> str:
    """The json, or ``FORMAT:PATH[#SPLIT]`` of another data set.

    Args and errors as `read_annotations`.
    """
    address = address_of(path)
    if name is not None or address.path.lower().endswith(".json"):
        if not is_file(address.path):
            if name is not None:
                raise missing_dataset(name, [address.path], OWN_DATA)
            raise UserError(f"there is no annotation file {os.path.abspath(address.path)}")
        return json_of(address.path, address.split)
    found = recognise(address)
    if found.name == "coco":
        return json_of(address.path, address.split)
    if found.format.read is None:
        raise UserError(
            f"{address} is {found.format.title}, which says nothing of what is on them: looked for\n"
            f"{LOOKED_FOR}"
        )
    return str(found.address)


@lru_cache(maxsize=4)
def _read(path: str, stamp: tuple[int, int] | None) -> Annotations:
    reader = Reader(path)
    reader.read_all()
    reader.check()
    reader.log_notes()
    return Annotations(reader)


#: What `forget_annotations` calls.
FORGETTING: list[Callable[[], None]] = [_read.cache_clear]


class Reader:
    """Takes the entries of one file, and knows what they say of each other."""

    #: Whether an image is left out whose size cannot be read.
    needs_sizes = True

    def __init__(self, path: str, images_only: bool = False) -> None:
        self.path = path
        self.folder: str | None = None
        self.digest = ""
        self._images_only = images_only
        self._is_json = True
        self._found: list[str] = []  # sections
        self.images: dict[Any, Image] = {}  # by key_of
        self.categories: dict[int, Category] = {}
        self.owners: list[Any] = []  # of each packed instance its image's key
        self.packed: list[bytes] = []
        self.labelled = False
        self._segmented = self._masked = 0
        self._contents: dict[Any, int] = {}  # of each annotation's id
        self._first_use: dict[int, str] = {}  # of each category
        self._noted: dict[str, list[Any]] = {}
        self._by_file: dict[Any, Any] = {}  # of each image's name and size its key
        self._same: dict[Any, Any] = {}  # of an image that is there under another id that one's key
        self._objects: dict[Any, set[int]] = {}  # of the latter contents without ids
        self._reach = 0.0  # of boxes, in pixels from the corner
        self._between = False  # whether a box begins or ends between two pixels

    def notes(self) -> list[str]:
        """What was left out or mended."""
        return [
            f"{reason}: {len(of)}, such as {examples(of)}" for reason, of in self._noted.items()
        ]

    def log_notes(self) -> None:
        """One warning for each reason."""
        for line in self.notes():
            logger.warning("%s: %s", self.path, line)

    def note(self, entry: Any, reason: str) -> None:
        self._noted.setdefault(reason, []).append(entry)

    def error(self, what: str) -> AnnotationError:
        return AnnotationError(f"{self.path} {what}")

    # ------------------------------------------------------------------ layout

    def read_all(self) -> None:
        """Takes what is at the path, a json or a data set in another format.

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
        """Takes a file's sections; images before annotations, wherever they stand.

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
            raise self.error(_broken(text, error)) from error
        except UserError:
            raise
        except ValueError as error:
            raise self.error(f"has a number of thousands of digits ({error})") from error
        if not self.images:
            raise self.error(
                "is not in COCO's format: it needs a list 'images' with entries, it has "
                f"{examples(map(shown, self._found)) or 'nothing'}"
                + (". It is one of labelme's: give the folder" if "shapes" in self._found else "")
            )

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

    def _section(self, section: str, cursor: Cursor) -> None:
        if cursor.character != "[":
            value = cursor.value()
            if value is None and section == "annotations":
                return  # as in the files of test sets
            raise self.error(f"is not in COCO's format: {section!r} is {shown(value)}, not a list")
        self.labelled |= section == "annotations"
        self._entries(section, cursor.values())

    def _entries(self, section: str, entries: Iterable[Any]) -> None:
        take = {
            "images": self._image,
            "categories": self._category,
            "annotations": self._annotation,
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
        """Leaves out images without a size. AnnotationError: what only the whole file shows to be wrong."""
        if self.needs_sizes:
            self.images = {key: image for key, image in self.images.items() if image.height}
        strangers = [k for k in self._first_use if k not in self.categories]
        if self.categories and strangers:
            raise self.error(
                f"has annotations with category ids that 'categories' does not list: "
                f"{examples(self._first_use[k] for k in strangers)}; "
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
        """An image whose file is there under another id is that one; so are its objects."""
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
            # In other formats box and area follow from what there is, as a rule.
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
        """The listed image of an annotation; None, which is counted. ValueError: its id has no reading."""
        key = key_of(identifier(entry.get("image_id")))
        image = self.images.get(self._same.get(key, key))
        if image is None:
            self.note(name, "annotations of images that it does not list, left out")
        return image

    def _is_repeated(self, identity: Any, content: int) -> bool:
        """Whether an earlier annotation is the same; one that has its id alone is another object."""
        name = identity if isinstance(identity, int | str) else repr(identity)
        if identity is None or name not in self._contents:
            self._contents[name] = content
            return False
        if self._contents[name] == content:
            self.note(identity, "annotations that stand in it twice, taken once")
            return True
        self.note(identity, "annotations with the id of another one, both taken")
        return False


def _unsaid(reason: str) -> None:
    """For what needs no word."""


def _broken(text: str, error: Exception) -> str:
    """What is wrong with a text that is not JSON, or not an object."""
    start, end = text[:1000].strip()[:1], text[-1000:].strip()[-1:]
    remedy = "download, copy or unpack it again"
    if start and start in '["-0123456789tfn':
        return (
            f"is not in COCO's format: it begins with {shown(text.strip()[:20])} and not with an object of "
            "'images', 'annotations' and 'categories'"
            + (". Of Label Studio's own json export as COCO" if start == "[" else "")
        )
    early = isinstance(error, IndexError)
    cut = not start or early or (start == "{" and end != "}")
    what, reason = "is cut off" if cut else "is not JSON", "it ends early" if early else error
    return f"{what} ({len(text):,} characters; {reason}): {remedy}"
