"""Pascal VOC's xml files, one per image: boxes, and polygons if a tool has added them.

Supported layouts are the official one (``Annotations``, ``JPEGImages``, ``ImageSets``), folders ``train``,
``valid`` and ``test`` (Roboflow), and files beside the images (LabelImg). VOC counts pixels from 1, so a box
from 1 to W covers an image of W pixels: 1 is subtracted from xmin and ymin, as in Detectron2. If any of these
is 0 or a fraction, as in CVAT exports, all count from 0.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from ...errors import AnnotationError, UserError
from ...files import read_text
from ...listing import files_below
from ..values import number
from .addresses import split_folders, split_named
from .content import Content, Entry, Sources, image_sizes, sized
from .matching import Images

LOOKED_FOR = "Annotations/*.xml of Pascal VOC, or its xml files beside the images"

_IMAGE_FOLDER = "JPEGImages"


class _File(NamedTuple):
    image: str  # relative to the folder
    size: tuple[int, int] | None  # (height, width)
    objects: list[Entry]  # with the class name as category_id


def why(path: str) -> str:
    """What identifies a folder as this format; "" if it is not."""
    if not os.path.isdir(path):
        return ""
    for folder in ("Annotations", "", *split_folders(path).values()):
        place = os.path.join(path, folder)
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
        name = next((n for n in names if n.lower().endswith(".xml")), None)
        if name is not None and _is_voc(os.path.join(place, name)):
            return os.path.join(folder, name)
    return ""


def splits(path: str) -> list[str]:
    """Names of the splits with a list in ImageSets, else of those with a folder."""
    return list(_image_sets(path) or split_folders(path))


def read(path: str, split: str | None, images_only: bool) -> Content:
    """Read a data set, or a split of one; classes are numbered in sorted order of names, over all splits.

    Raises:
        AnnotationError: a file is not an annotation, or does not say what it belongs to.
        UserError: there is no such split.
    """
    sources = Sources(path)
    images, others = files_below(path)
    listed = Images(images, _IMAGE_FOLDER)
    files = {name: _read(sources, name, listed) for name in others if name.endswith(".xml")}
    one_based = all(
        all(float(x).is_integer() and x >= 1 for x in entry.get("corner", ()))
        for file in files.values()
        for entry in file.objects
    )
    names = sorted({entry["category_id"] for file in files.values() for entry in file.objects})
    numbers = {name: number for number, name in enumerate(names)}
    chosen = [files[name] for name in _of_split(sources, split, list(files))]
    sizes = {file.image: file.size for file in chosen}
    if not images_only and (unsized := [image for image, size in sizes.items() if size is None]):
        found = image_sizes([os.path.join(path, image) for image in unsized])
        sizes |= dict(zip(unsized, found, strict=True))
    return Content(
        sources,
        ({"id": number, "name": name} for name, number in numbers.items()),
        (sized({"id": file.image, "file_name": file.image}, sizes[file.image]) for file in chosen),
        (
            _object(entry, file.image, numbers, one_based)
            for file in chosen
            for entry in file.objects
        ),
    )


def _object(
    entry: Entry, image: str, numbers: Mapping[str, int], one_based: bool
) -> dict[str, Any]:
    found = {**entry, "image_id": image, "category_id": numbers[entry["category_id"]]}
    corner = found.pop("corner", None)
    if corner is not None and one_based:
        x, y, width, height = found["bbox"]
        found["bbox"] = [x - 1, y - 1, width + 1, height + 1]
    return found


# ---------------------------------------------------------------------------------- splits


def _image_sets(path: str) -> dict[str, str]:
    """Image lists in ImageSets: split -> file; lists for single classes, class_split.txt, are ignored."""
    for kind in ("Main", "Segmentation", "Layout", ""):
        folder = os.path.join(path, "ImageSets", kind)
        if os.path.isdir(folder):
            stems = [
                os.path.splitext(n)[0] for n in sorted(os.listdir(folder)) if n.endswith(".txt")
            ]
            found = {split_named(stem): stem for stem in stems if "_" not in stem}
            if found:
                return {split: os.path.join(folder, f"{stem}.txt") for split, stem in found.items()}
    return {}


def _of_split(sources: Sources, split: str | None, names: Sequence[str]) -> list[str]:
    """The xml files that belong to a split."""
    if split is None:
        return list(names)
    wanted, path = split_named(split), sources.folder
    sets, parts = _image_sets(path), split_folders(path)
    if wanted in sets:
        lines = [line.split() for line in read_text(sets[wanted]).splitlines()]
        by_stem = {key: name for name in names for key in (PurePath(name).stem, _stem_in_set(name))}
        found: dict[str, None] = {}
        for words in filter(None, lines):
            if words[0] in by_stem:
                found[by_stem[words[0]]] = None
            else:
                sources.note(words[0], "images of the split without an xml file, left out")
        return list(found)
    if wanted in parts and not sets:
        return [name for name in names if name.startswith(f"{parts[wanted]}/")]
    raise UserError(f"{path} has no split {split}: it has {', '.join(sets or parts) or 'none'}")


def _stem_in_set(name: str) -> str:
    """A file's name as in a list: CVAT's lists include the folders below Annotations."""
    return PurePath(name).with_suffix("").as_posix().removeprefix("Annotations/")


# ---------------------------------------------------------------------------------- one file


def _is_voc(file: str) -> bool:
    try:
        return _tree(read_text(file), file).tag == "annotation"
    except UserError:
        return False


def _tree(text: str, path: str) -> ElementTree.Element:
    if "<!ENTITY" in text:  # a few lines of them can fill the memory
        raise AnnotationError(f"{path} declares entities, which no annotation needs: take them out")
    try:
        return ElementTree.fromstring(text.lstrip())
    except (ElementTree.ParseError, ValueError) as error:
        raise AnnotationError(
            f"{path} is not complete XML ({error}): copy or export it again"
        ) from error


def _read(sources: Sources, name: str, images: Images) -> _File:
    path = os.path.join(sources.folder, name)
    tree = _tree(sources.text(path), path)
    if tree.tag != "annotation":
        raise AnnotationError(
            f"{path} begins with <{tree.tag}>, Pascal VOC's with <annotation>: take it out"
            + (". CVAT's own xml: export as COCO" if tree.tag == "annotations" else "")
        )
    image = images.of(name, (tree.findtext("filename") or "").strip())
    objects = [
        _entry(element, f"{name}:{k}", sources) for k, element in enumerate(tree.iter("object"), 1)
    ]
    return _File(image, _size(tree), [entry for entry in objects if entry is not None])


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width); None if only the image has it."""
    try:
        height, width = (int(number(tree.findtext(f"size/{side}"))) for side in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


def _entry(element: ElementTree.Element, identity: str, sources: Sources) -> Entry | None:
    """An object with its class name and the corner that tells if it counts from 1; None without a class."""
    name = (element.findtext("name") or "").strip()
    if not name:
        sources.note(identity, "objects without a name, left out")
        return None
    if (element.findtext("difficult") or "").strip() == "1":
        sources.note(identity, "objects marked as difficult, taken like others")
    found: dict[str, Any] = {"id": identity, "category_id": name}
    if (turned := element.find("robndbox")) is not None:
        sources.note(identity, "turned boxes, of which the upright box around is taken")
        return {**found, **_upright(turned)}
    try:
        corners = [
            number(element.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")
        ]
    except ValueError:
        return {**found, "bbox": None}
    left, top, right, bottom = corners
    found |= {"bbox": [left, top, right - left, bottom - top], "corner": corners[:2]}
    if (polygon := element.find("polygon")) is not None:
        found["segmentation"] = [list(_points(polygon))]
    return found


def _points(polygon: ElementTree.Element) -> Iterator[Any]:
    """Coordinates from x1, y1, x2, y2 ... (Roboflow) or <pt><x/><y/></pt> (LabelMe's website)."""
    for point in polygon.iter("pt"):
        yield from (point.findtext("x"), point.findtext("y"))
    k = 1
    while polygon.find(f"x{k}") is not None:
        yield from (polygon.findtext(f"x{k}"), polygon.findtext(f"y{k}"))
        k += 1


def _upright(element: ElementTree.Element) -> dict[str, Any]:
    """The box around a rotated box of roLabelImg: centre, sides, angle in radians."""
    try:
        x, y, width, height, angle = (
            number(element.findtext(key)) for key in ("cx", "cy", "w", "h", "angle")
        )
    except ValueError:
        return {"bbox": None}
    across, down = abs(np.cos(angle)), abs(np.sin(angle))
    w, h = float(width * across + height * down), float(width * down + height * across)
    return {"bbox": [x - w / 2, y - h / 2, w, h]}
