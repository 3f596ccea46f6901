"""Statistics of a data set's boxes and masks, and the places where they do not fit the images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..annotations.coco import Annotations
from ..annotations.entries import Image, Instance
from ..annotations.image_labels import ImageLabels
from ..annotations.segmentation import compressed
from ..pixels import stored_size
from ..tables import table
from .photos import PhotoFacts

_LISTED = 40
#: Pixels by which a box may reach beyond its image, to allow for rounding.
_BEYOND = 1.0


class LabelFacts(NamedTuple):
    """Findings, each the beginning of a sentence, with the objects or images it applies to."""

    lines: list[str]  #: counts
    classes: str  #: a Markdown table
    wrong: Mapping[str, list[str]]  #: problems that stop training or make it drop data
    odd: Mapping[str, list[str]]  #: oddities that training accepts
    at: Mapping[str, str]  #: finding -> the first image it applies to


def look_at_labels(annotations: Annotations, photos: Mapping[int, PhotoFacts]) -> LabelFacts:
    """Count objects and check them against the images.

    Args:
        annotations: annotations as read, without unreadable ones.
        photos: by the image's index in the annotations.
    """
    kinds: Counter[str] = Counter()
    objects: Counter[int] = Counter()
    images: Counter[int] = Counter()
    found = _Findings()
    sides = []
    for row, (image, instances) in enumerate(annotations):
        kinds["empty"] += not instances
        images.update({instance.category_id for instance in instances})
        found.compare_sizes(image, photos[row])
        for instance in instances:
            objects[instance.category_id] += 1
            kinds["crowds"] += instance.iscrowd
            kinds["polygons"] += isinstance(instance.mask, list)
            kinds["run lengths"] += isinstance(instance.mask, dict)
            sides.append(np.sqrt(instance.box[2] * instance.box[3]))
            found.compare_places(image, instance, photos[row].file_name)
    count = sum(objects.values())
    lines = [
        f"{len(annotations)} images are listed, {kinds['empty']} of them without objects; "
        f"{len(annotations.categories)} classes",
        f"{count} objects, {kinds['crowds']} of them crowds: {kinds['polygons']} with polygons, "
        f"{kinds['run lengths']} with run lengths, "
        f"{count - kinds['polygons'] - kinds['run lengths']} with boxes alone",
    ]
    if sides:
        low, middle, high = np.quantile(sides, (0.05, 0.5, 0.95))
        lines.append(
            f"side of a box (root of its area): {middle:.0f} pixels in the middle, {low:.0f} to "
            f"{high:.0f} in nine of ten"
        )
    named = sorted(annotations.categories, key=lambda category: -objects[category.id])
    unused = [category.name for category in named if not objects[category.id]]
    found.odd |= {"classes without an object": unused} if unused else {}
    rows = [(c.name, c.id, objects[c.id], images[c.id]) for c in named]
    classes = _first(["class", "id", "objects", "images"], rows, "classes")
    return LabelFacts(lines, classes, found.wrong, found.odd, found.at)


class _Findings:
    """Mismatches, grouped by kind."""

    def __init__(self) -> None:
        self.wrong: dict[str, list[str]] = {}
        self.odd: dict[str, list[str]] = {}
        self.at: dict[str, str] = {}

    def _add(self, to: dict[str, list[str]], what: str, which: str, file_name: str) -> None:
        to.setdefault(what, []).append(which)
        self.at.setdefault(what, file_name)

    def compare_sizes(self, image: Image, photo: PhotoFacts) -> None:
        """Check whether labels have the size of their photo."""
        said = (image.height, image.width)
        if photo.error or photo.size == said:
            return
        if stored_size(photo.file_name) == said:
            what = "photos that EXIF turns were annotated as they are stored, and are read so"
            self._add(self.odd, what, photo.file_name, photo.file_name)
            return
        which = (
            f"{photo.file_name} ({photo.size[1]}x{photo.size[0]}, labels for {said[1]}x{said[0]})"
        )
        self._add(self.wrong, "labels do not fit their photo", which, photo.file_name)

    def compare_places(self, image: Image, instance: Instance, file_name: str) -> None:
        """Check whether an object lies within its image and its mask has pixels."""
        x, y, width, height = instance.box
        which = f"annotation {instance.id} of {image.file_name}"
        if min(x + width, y + height) <= 0 or x >= image.width or y >= image.height:
            self._add(self.wrong, "boxes lie outside their image", which, file_name)
            return
        if min(x, y, image.width - x - width, image.height - y - height) < -_BEYOND:
            self._add(self.odd, "boxes reach beyond their image and are clipped", which, file_name)
        if instance.mask is not None and not _area(instance, (image.height, image.width)):
            self._add(self.wrong, "masks have no area", which, file_name)


def _area(instance: Instance, size: tuple[int, int]) -> int:
    from pycocotools import mask as mask_util

    assert instance.mask is not None
    return int(mask_util.area(compressed(instance.mask, size)))


def by_folder(file_names: Sequence[str], root: str) -> str:
    """A table of how many images each sub-folder (often a class) holds; "" if there are no sub-folders."""
    prefix = root.rstrip("/") + "/"
    counts = Counter(
        name.removeprefix(prefix).rpartition("/")[0] for name in file_names if "://" not in name
    )
    if set(counts) <= {""}:
        return ""
    rows = [(folder or ".", count) for folder, count in sorted(counts.items())]
    return _first(["folder", "images"], rows, "folders")


def class_counts(labels: ImageLabels) -> str:
    """A table of how many images each class has."""
    counts = Counter(number for _, number in labels.images)
    rows = [(c.name, c.id, counts[k]) for k, c in enumerate(labels.categories)]
    rows.sort(key=lambda row: -row[2])
    return _first(["class", "id", "images"], rows, "classes")


def _first(headers: Sequence[str], rows: Sequence[Sequence[Any]], what: str) -> str:
    """A table of the first rows and a note of how many more there are; "" if there are none."""
    if not rows:
        return ""
    text = table(headers, rows[:_LISTED])
    return text if len(rows) <= _LISTED else f"{text}\nand {len(rows) - _LISTED} {what} more"
