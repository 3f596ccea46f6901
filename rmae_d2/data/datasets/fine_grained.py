"""Fine-grained classification as released: CUB-200-2011, Stanford Cars, iNaturalist 2017 to 2019."""

import os
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...annotations.image_labels import read_image_labels
from ...annotations.missing import missing_dataset
from ...annotations.reader import slashes
from ...annotations.values import integer, shown
from ...errors import AnnotationError, UserError, examples
from ...files import NotAFileError, check_file, read_text
from ...photos.image_files import without_absent

#: Overrides that select the user's own data instead of these.
OWN_CLASSES = "dataset.root=/photos with /photos/train/<class>/*.jpg and /photos/val/<class>/*.jpg"

_AGAIN = "Unpack the release again"


class Listing(NamedTuple):
    """What a release's files say about one split."""

    source: str  #: the file that lists the images
    folder: str  #: folder that their paths are relative to
    images: list[tuple[str, int]]  #: path and class index, from 0, in the file's order
    classes: tuple[str, ...]  #: names in the order of their indices


@dataclass(frozen=True)
class FineGrained:
    """A data set in Detectron2's catalog; calling it lists the images with their classes.

    Args:
        name: its registered name.
        read: one of the readers below, with root and split bound.
    """

    name: str
    read: Callable[[str], Listing]

    def __call__(self) -> list[dict[str, Any]]:
        """The dataset dicts of `load`."""
        return self.load()[0]

    def load(self) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
        """Dataset dicts (``file_name``; ``image_id``, the path in the release; ``label``), and classes.

        Images whose file is missing are left out with a warning, at most one in a hundred.

        Returns:
            dicts in the order of the release's list, and the class names in the order of their indices.

        Raises:
            UserError: files are missing; says where to get them.
            AnnotationError: a file has another structure, or files contradict each other.
        """
        listing = self.read(self.name)
        dicts = [
            {"file_name": os.path.join(listing.folder, path), "image_id": path, "label": label}
            for path, label in listing.images
        ]
        return without_absent(dicts, listing.source, allow_missing=0.01), listing.classes


# ---------------------------------------------------------------- CUB-200-2011


def read_cub(root: str, split: str, name: str) -> Listing:
    """Read ``CUB_200_2011/``: images.txt, image_class_labels.txt, train_test_split.txt, classes.txt, images/.

    Args:
        root: that folder.
        split: ``train`` or ``test``.
        name: registered name, for the message if something is missing.
    """
    folder = os.path.join(root, "images")
    files = [
        os.path.join(root, f"{part}.txt")
        for part in ("images", "image_class_labels", "train_test_split", "classes")
    ]
    _check_there(name, [folder, *files])
    source, of_labels, of_split, of_classes = files
    paths, labels, split_of, classes = (_table(file) for file in files)
    for file, table in ((of_labels, labels), (of_split, split_of)):
        if table.keys() != paths.keys():
            odd = sorted(table.keys() ^ paths.keys())
            raise AnnotationError(
                f"{file} lists {len(table)} images, {source} {len(paths)}; ids in one of the two only: "
                f"{examples(odd)}. {_AGAIN}"
            )
    numbers = {identifier: number for number, identifier in enumerate(sorted(classes))}
    wanted = {"train": "1", "test": "0"}[split]
    images = []
    for image, path in paths.items():
        if split_of[image] not in ("0", "1"):
            raise AnnotationError(
                f"{of_split}: image {image} has {shown(split_of[image])}, neither 1 for training nor 0 for "
                f"testing. {_AGAIN}"
            )
        if split_of[image] == wanted:
            label = _class_number(labels[image], numbers, f"{of_labels}: image {image}", of_classes)
            images.append((path, label))
    names = tuple(classes[identifier] for identifier in numbers)
    return _checked(Listing(source, folder, images, names))


def _table(path: str) -> dict[int, str]:
    """Read a text file with a number and a value per line."""
    found: dict[int, str] = {}
    for place, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        key, *value = line.split(None, 1)
        if not key.isdecimal() or not value:
            raise AnnotationError(
                f"{path}, line {place}: {shown(line)} is not a number and a value. {_AGAIN}"
            )
        if int(key) in found:
            raise AnnotationError(f"{path}, line {place}: the number {key} appears twice. {_AGAIN}")
        found[int(key)] = value[0].strip()
    if not found:
        raise AnnotationError(f"{path} is empty. {_AGAIN}")
    return found


# ---------------------------------------------------------------- Stanford Cars


def read_cars(root: str, split: str, name: str) -> Listing:
    """Read ``stanford_cars/``: cars_train/, cars_test/, devkit/cars_meta.mat and cars_train_annos.mat.

    ``cars_test_annos_withlabels.mat`` may be in ``stanford_cars`` or in ``devkit``.

    Args:
        root: that folder.
        split: ``train`` or ``test``.
        name: registered name, for the message if something is missing.
    """
    devkit, folder = os.path.join(root, "devkit"), os.path.join(root, f"cars_{split}")
    meta, source = (os.path.join(devkit, f"cars_{part}.mat") for part in ("meta", "train_annos"))
    if split == "test":
        places = [os.path.join(place, "cars_test_annos_withlabels.mat") for place in (root, devkit)]
        source = next((place for place in places if os.path.exists(place)), places[0])
    _check_there(name, [folder, meta, source])
    classes = tuple(_text(entry, meta, "class_names") for entry in _variable(meta, "class_names"))
    entries = _variable(source, "annotations")
    fields = entries.dtype.names or ()
    if not {"class", "fname"} <= set(fields):
        raise AnnotationError(
            f"{source}: 'annotations' has the fields {examples(fields) or '(none)'}, and class and fname are "
            "needed. Classes of the test images are in the release's cars_test_annos_withlabels.mat"
        )
    numbers = {number + 1: number for number in range(len(classes))}
    images = []
    for place, entry in enumerate(entries, 1):
        where = f"{source}: annotation {place}"
        label = _class_number(_item(entry["class"]), numbers, where, meta)
        images.append((_text(entry["fname"], source, "fname"), label))
    return _checked(Listing(source, folder, images, classes))


def _variable(path: str, variable: str) -> Any:
    """Read a vector from a .mat file."""
    from scipy.io import loadmat

    again = "Take the file of Stanford Cars' development kit"
    try:
        check_file(path)
        content = loadmat(path, squeeze_me=True)
    except NotAFileError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except MemoryError:
        raise
    except Exception as error:  # scipy raises nearly anything on damaged bytes
        raise AnnotationError(
            f"{path} is not a readable .mat file ({type(error).__name__}: {error!s:.100}). {again}"
        ) from error
    if variable not in content:
        there = examples(key for key in content if not key.startswith("__"))
        raise AnnotationError(
            f"{path} has the variables {there or '(none)'}, and {variable!r} is needed. {again}"
        )
    found = np.atleast_1d(content[variable])
    if not len(found):
        raise AnnotationError(f"{path}: {variable!r} is empty. {again}")
    return found


def _item(value: Any) -> Any:
    """The only element of an array, or the value itself."""
    array = np.asarray(value)
    return array.item() if array.size == 1 else value


def _text(value: Any, path: str, field: str) -> str:
    found = _item(value)
    if not isinstance(found, str) or not found:
        raise AnnotationError(f"{path}: {field} holds {shown(found)}, which is not text")
    return found


# ---------------------------------------------------------------- iNaturalist


def read_inaturalist(root: str, year: int, split: str, name: str) -> Listing:
    """Read ``inaturalist_YEAR/``: trainYEAR.json, valYEAR.json, and the image folder that they name.

    The folder is ``train_val_images`` for 2017 and ``train_valYEAR`` for 2018 and 2019, and contains
    SUPERCATEGORY/CATEGORY/FILE. Classes are numbered by sorted category ids.

    Args:
        root: that folder.
        year: year of the competition.
        split: ``train`` or ``val``.
        name: registered name, for the message if something is missing.
    """
    source = os.path.join(root, f"{split}{year}.json")
    _check_there(name, [root, source])
    labels = read_image_labels(source, name)
    images = [(image.file_name, number) for image, number in labels.images]
    names = tuple(category.name for category in labels.categories)
    return _checked(Listing(source, root, images, names))


# ---------------------------------------------------------------- all


def _check_there(name: str, places: list[str]) -> None:
    absent = [place for place in places if not os.path.exists(place)]
    if absent:
        raise missing_dataset(name, absent, OWN_CLASSES)


def _class_number(value: Any, numbers: Mapping[int, int], where: str, of_classes: str) -> int:
    try:
        return numbers[integer(value)]
    except (KeyError, ValueError):
        raise AnnotationError(
            f"{where} has the class {shown(value)}, and {of_classes} lists {len(numbers)}, from "
            f"{min(numbers)} to {max(numbers)}. {_AGAIN}"
        ) from None


def _checked(listing: Listing) -> Listing:
    """Normalize slashes. AnnotationError: no image, or one outside the folder or listed twice."""
    if not listing.images:
        raise AnnotationError(f"{listing.source} names no image of this split. {_AGAIN}")
    seen = set()
    images = []
    for name, label in listing.images:
        path = slashes(name)
        if posixpath.isabs(path) or path.split("/")[0] in ("..", ".") or path[1:2] == ":":
            raise AnnotationError(
                f"{listing.source} names the image {shown(name)}, which is not below {listing.folder}: give "
                "paths within it"
            )
        if path in seen:
            raise AnnotationError(
                f"{listing.source} names the image {shown(name)} twice: take one out. {_AGAIN}"
            )
        seen.add(path)
        images.append((path, label))
    return listing._replace(images=images)
