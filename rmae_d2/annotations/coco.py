"""Labels in COCO's, LVIS's or another format, for training, evaluation, regions and `inspect`.

Every value is handled in one of three ways, the same for all of these uses. Values with one possible meaning
are read: a number as text, [x, y] pairs, a box implied by its mask. Problems that affect a few objects cause
these to be left out, counted and reported. Problems that would change the task are errors: other classes, no
masks left, more than one entry in ten unreadable.

COCO train2017's json has 450 MB and takes gigabytes as Python objects. Entries are decoded one by one and
stored packed, so that forked workers share one copy.
"""

import logging
import os
import pickle
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

from ..errors import AnnotationError, UserError, examples
from ..files import is_file
from ..listing import is_image, walk
from ..remote import absolute
from .entries import (
    Image,
    Instance,
    Unreadable,
    instance_of,
    key_of,
    label_of,
)
from .formats.addresses import address_of
from .formats.coco_files import json_of
from .formats.recognise import LOOKED_FOR, recognise
from .missing import missing_dataset
from .reader import Reader, slashes
from .values import shown

logger = logging.getLogger(__name__)

#: Overrides that select the user's own data instead of a registered data set.
OWN_DATA = (
    "dataset.json=FILE.json (COCO's format) and dataset.root=IMAGES, or dataset.root=SET alone"
)


class ImageIndex:
    """The images listed in a file, with what belongs to each. Picklable; processes forked later share it.

    Attributes:
        path: the file as given.
    """

    def __init__(
        self,
        path: str,
        images: Mapping[int | str, Image],
        owners: Sequence[int | str],
        packed: Sequence[bytes],
    ) -> None:
        """Takes images by `key_of` their ids; pickled values, and for each the key of its image."""
        self.path = path
        keys = sorted(images, key=lambda key: (isinstance(key, str), key))
        listed = [images[key] for key in keys]
        self._ids = _Places(keys)
        self._stems = _Places([_stem(slashes(image.file_name)) for image in listed])
        self._images = _Packed([pickle.dumps(tuple(image)) for image in listed])
        rows = {key: row for row, key in enumerate(keys)}
        of_rows = np.array([rows[key] for key in owners], np.int64)
        order = np.argsort(of_rows, kind="stable").tolist()
        self._values = _Packed([packed[k] for k in order])
        self._first = np.concatenate(([0], np.cumsum(np.bincount(of_rows, minlength=len(keys)))))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def image(self, row: int) -> Image:
        """An image, by its index in the order of ids."""
        return Image(*self._images[row])

    def values(self, row: int) -> list[Any]:
        """What belongs to the image, in the order given."""
        first, last = self._first[row : row + 2].tolist()
        return [self._values[k] for k in range(first, last)]

    def rows_of(self, key: int | str) -> list[int]:
        """The row of the image with an id, given by `key_of`; [] if the file does not list it."""
        return [row for row in self._ids.of(key) if key_of(self.image(row).id) == key]

    def row_of(self, dataset_dict: Mapping[str, Any]) -> int | None:
        """The image of a dataset dict; None if the file does not list it.

        It is found by `image_id` if that is an integer in the file; else by the longest suffix of its path
        that is an image's `file_name`; else by its base name alone, finally ignoring case and extension.

        Raises:
            UserError: the image with this id is a different file, or several images have this name.
        """
        image_id = dataset_dict.get("image_id")
        path = slashes(str(dataset_dict["file_name"]))
        if isinstance(image_id, int | np.integer):
            for row in self.rows_of(int(image_id)):
                self._check_name(self.image(row), path)
                return row
        base = posixpath.basename(path)
        like = {row: slashes(self.image(row).file_name) for row in self._stems.of(_stem(base))}
        like = {row: name for row, name in like.items() if _stem(name) == _stem(base)}
        # With other case or another extension only if there is no exact match.
        named = {row: n for row, n in like.items() if posixpath.basename(n) == base} or like
        ends = [row for row, name in named.items() if f"/{path}".endswith(f"/{name}")]
        if ends:
            return max(ends, key=lambda row: len(named[row]))
        if len(named) > 1:
            raise UserError(
                f"{self.path} has {len(named)} images called {base}, and {path} may be "
                "any of them. Use a data set whose image ids are those of this json"
            )
        return next(iter(named), None)

    def _check_name(self, image: Image, path: str) -> None:
        """Raise UserError if the image is a different photo; the extension may differ."""
        there = slashes(image.file_name)
        if _stem(there) != _stem(path):
            raise UserError(
                f"{self.path} says that image {image.id} is {there}, the data set says {path}: "
                "they are different data sets. Name the json of this data set"
            )


class Annotations(ImageIndex):
    """The result of `read_annotations`; its path may be ``[FORMAT:]PATH[#SPLIT]``, of another format.

    Attributes:
        folder: folder that relative ``file_name`` values refer to; None if a json does not say.
        digest: hexadecimal digest of the labels' bytes.
        categories: sorted by id; empty for files with regions only.
        labelled: whether the file has annotations at all; those of test sets have none.
        notes: what was left out or repaired.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader.path, reader.images, reader.owners, reader.packed)
        self.folder, self.digest = reader.folder, reader.digest
        self.categories = tuple(sorted(reader.categories.values(), key=lambda c: c.id))
        self.labelled = reader.labelled
        self.notes = tuple(reader.notes())

    def __getitem__(self, row: int) -> tuple[Image, list[Instance]]:
        """An image, by its index in the order of ids, and its instances in the file's order."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.image(row), [Instance(*values) for values in self.values(row)]

    def class_ids(
        self, mapping: Mapping[int, int] | None = None, first: int | None = None
    ) -> dict[int, int]:
        """Map the model's class indices to category ids, as Detectron2's loaders do.

        Args:
            mapping: category id -> class index, as registered; by default, categories are numbered in order.
            first: id of class 0 if class indices are ids minus an offset, as in LVIS; None to number classes
                by sorted ids.

        Raises:
            AnnotationError: there are no categories, or they differ from those of the mapping.
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
        """The image of a dataset dict with its instances; see `row_of`."""
        row = self.row_of(dataset_dict)
        return None if row is None else self[row]


class _Packed:
    """Pickled values concatenated in one array, which forked processes share."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._bytes = np.frombuffer(b"".join(parts), np.uint8)
        self._ends = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, k: int) -> Any:
        return pickle.loads(self._bytes[self._ends[k] : self._ends[k + 1]].tobytes())


class _Places:
    """Positions of values in a sequence, by their hashes: two arrays, whatever the values are."""

    def __init__(self, values: Sequence[int | str]) -> None:
        hashes = np.array([_hash(value) for value in values], np.uint64)
        self._rows = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._rows]

    def of(self, value: int | str) -> list[int]:
        """Positions of a value; of a colliding one too, about once in 10^18 pairs."""
        wanted = np.uint64(_hash(value))
        first, last = (int(self._hashes.searchsorted(wanted, side)) for side in ("left", "right"))
        return self._rows[first:last].tolist()


def _hash(value: int | str) -> int:
    return int.from_bytes(blake2b(repr(value).encode(), digest_size=8).digest(), "little")


def _stem(name: str) -> str:
    """The part of a file name that is comparable across systems: no folders, no extension, case-folded."""
    return posixpath.splitext(posixpath.basename(name))[0].casefold()


def joined(folder: str, name: str) -> str:
    """Join a file name to a folder; a URL is returned unchanged."""
    return name if "://" in name else os.path.join(folder, name)


def read_annotations(path: str, name: str | None = None) -> Annotations:
    """Read and validate labels; cached as long as the files do not change.

    Entries that are left out or repaired are reported in one warning per reason.

    Args:
        path: a json in COCO's format, which may be remote; or ``[FORMAT:]PATH[#SPLIT]``, any data set that
            `recognise` knows. ``~`` is expanded.
        name: the registered dataset that a json belongs to, for the error message if it is missing.

    Raises:
        UserError: the file does not exist, or the data set has no boxes or masks.
        AnnotationError: the file is not complete JSON, not in the format, contradictory, or has too many
            unreadable entries; the message names file, entry, field and value.
    """
    path = located(path, name)
    return _read(path, stamp_of(path))


def stamp_of(path: str) -> tuple[int, int] | None:
    """A value that changes with a local file, or with a data set's folders and its non-image files."""
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
    except OSError:  # a dangling link
        return 0


def forget_annotations() -> None:
    """Free the cached files, except those still referenced; they are read again on the next request."""
    for forget in FORGETTING:
        forget()


def read_images(path: str) -> list[Image]:
    """Read only a data set's images, whatever its annotations are, in the file's order.

    For formats other than COCO's, `file_name` is the image's path.

    Raises:
        UserError and AnnotationError: as in `read_annotations`; but unreadable sizes are 0, and a missing id
            is replaced by the file name.
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
    """Check annotations, with XYWH boxes, made by a dataset's own loader for an image of (H, W) pixels.

    Returns:
        each instance as the file reader gives it; None, with a warning, for unreadable ones or those without
        an area.
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
    """Resolve a path to the json, or to ``FORMAT:PATH[#SPLIT]`` for another data set.

    Arguments and errors are those of `read_annotations`.
    """
    address = address_of(path)
    if name is not None or address.path.lower().endswith(".json"):
        if not is_file(address.path):
            if name is not None:
                raise missing_dataset(name, [address.path], OWN_DATA)
            raise UserError(f"there is no annotation file {absolute(address.path)}")
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


#: Functions that `forget_annotations` calls.
FORGETTING: list[Callable[[], None]] = [_read.cache_clear]
