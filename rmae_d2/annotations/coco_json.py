"""Annotation files in COCO's or LVIS's format: reading them, and saying what is wrong with them."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.utils.file_io import PathManager

from ..errors import AnnotationError, UserError
from .missing import missing_dataset

_EXAMPLES = 5

#: Overrides that name own data in place of a registered data set.
OWN_DATA = "dataset.json=FILE.json (COCO's format) and dataset.root=IMAGES"


def examples(values: Iterable[Any]) -> str:
    """A few of many values, for a message: "3, 7, 9 ..."."""
    values = list(values)
    few = ", ".join(str(value) for value in values[:_EXAMPLES])
    return f"{few} ..." if len(values) > _EXAMPLES else few


def read_coco_json(path: str, name: str | None = None) -> dict[str, Any]:
    """Reads and checks an annotation file; ``annotations`` is absent in the files of test sets.

    Args:
        path: the file; may be remote, ``~`` is expanded.
        name: the registered dataset that it belongs to, for the message where it is absent.

    Raises:
        UserError: no such file.
        AnnotationError: not complete JSON, not in COCO's format, duplicate ids, or bad annotations.
    """
    path = os.path.expanduser(path)
    if not PathManager.isfile(path):
        if name is not None:
            raise missing_dataset(name, [path], OWN_DATA)
        raise UserError(f"there is no annotation file {os.path.abspath(path)}")
    content = _parse(path)
    check_coco(content, path)
    return content


def _parse(path: str) -> Any:
    with PathManager.open(path, "rb") as file:
        raw = file.read()
    try:
        return json.loads(raw)
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path} is not text ({error}): is it an archive that has to be unpacked?"
        ) from error
    except json.JSONDecodeError as error:
        text = raw.decode(errors="replace").strip()
        cut = not text or (
            text.startswith("{") and (not text.endswith("}") or error.pos >= len(text))
        )
        what = "is cut off" if cut else "is not JSON"
        raise AnnotationError(
            f"{path} {what} ({len(raw):,} bytes; {error}): download, copy or unpack it again"
        ) from error


def check_coco(content: Any, path: str) -> None:
    """Refuses content that is not in COCO's format or contradicts itself: `read_coco_json`'s errors."""
    if not isinstance(content, dict):
        raise AnnotationError(
            f"{path} is not in COCO's format: it holds a {type(content).__name__}, not an object with "
            "'images', 'annotations' and 'categories'"
        )
    required = {
        "images": ("id", "height", "width"),
        "categories": ("id", "name"),
        "annotations": ("id", "image_id", "category_id", "bbox"),
    }
    for section, keys in required.items():
        if section == "annotations" and section not in content:
            continue  # a test set
        entries = content.get(section)
        if not isinstance(entries, list) or (not entries and section != "annotations"):
            raise AnnotationError(
                f"{path} is not in COCO's format: it needs a list {section!r}, it has "
                f"{', '.join(sorted(content)) or 'nothing'}"
            )
        _check_entries(entries, section, keys, path)
    _check_annotations(content, path)


def _check_entries(entries: list[Any], section: str, keys: Sequence[str], path: str) -> None:
    for i, entry in enumerate(entries):
        lacking = [k for k in keys if not isinstance(entry, dict) or entry.get(k) is None]
        if lacking:
            raise AnnotationError(
                f"{path}: entry {i} of {section!r} has no {', '.join(lacking)}: {str(entry)[:200]}"
            )
    counts = Counter(entry["id"] for entry in entries)
    if len(counts) < len(entries):
        double = [identifier for identifier, count in counts.items() if count > 1]
        raise AnnotationError(
            f"{path}: {len(double)} ids stand more than once in {section!r}, such as {examples(double)}. "
            "COCO's tools keep one entry of each, silently: give every entry its own id"
        )


def _check_annotations(content: dict[str, Any], path: str) -> None:
    known = {category["id"] for category in content["categories"]}
    annotations = content.get("annotations", [])
    strangers = {a["category_id"] for a in annotations} - known
    if strangers:
        raise AnnotationError(
            f"{path}: annotations have category ids that 'categories' does not list: "
            f"{examples(sorted(strangers))}"
        )
    for annotation in annotations:
        box = annotation["bbox"]
        numbers = isinstance(box, list) and all(isinstance(x, int | float) for x in box)
        if not numbers or len(box) != 4 or not all(map(math.isfinite, box)):
            raise AnnotationError(
                f"{path}: annotation {annotation['id']} has the bbox {box}; four numbers "
                "[x, y, width, height] are expected"
            )


def mask_of(annotation: dict[str, Any]) -> list[list[float]] | dict[str, Any] | None:
    """Polygons of three points or more, or an RLE; None where an annotation has neither.

    pycocotools takes a polygon of two points, four numbers, for a box, and fails.
    """
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict) and segmentation.get("counts"):
        return segmentation
    if not isinstance(segmentation, list):
        return None
    polygons = [p for p in segmentation if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]
    return polygons or None
