"""labelme's json files, one per image: polygons, rectangles, circles and masks.

Shapes with the same label and ``group_id`` are parts of one object. A rectangle is a box without a mask;
points and lines have no area and are left out. Sizes are those of the upright image, as shown by labelme.
"""

import base64
import binascii
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ...errors import AnnotationError, UserError
from ...listing import files_below
from ..segmentation import box_of, compressed, read_mask
from ..values import integer, number, shown
from .addresses import split_folders, split_named
from .content import Broken, Content, Entry, Sources, image_sizes, sized
from .matching import Images

LOOKED_FOR = "labelme's json files, with imagePath and shapes, one per image"

#: How many bytes of how many files are checked to recognize the format.
_HEAD, _TRIED = 4096, 8
#: Corners of the polygon that approximates a circle.
_CORNERS = 64
_WITHOUT_AREA = ("point", "line", "linestrip", "points")


def why(path: str) -> str:
    """What identifies a folder as this format; "" if it is not."""
    if not os.path.isdir(path):
        return ""
    for folder in ("", *split_folders(path).values()):
        place = os.path.join(path, folder)
        names = [n for n in sorted(os.listdir(place)) if n.lower().endswith(".json")]
        for name in names[:_TRIED]:
            if _is_labelme(os.path.join(place, name)):
                return os.path.join(folder, name)
    return ""


def splits(path: str) -> list[str]:
    """Names of the splits that have a folder."""
    return list(split_folders(path))


def read(path: str, split: str | None, images_only: bool) -> Content:
    """Read a data set, or a split of one; classes are numbered in sorted order of names, over all splits.

    Raises:
        AnnotationError: a json file is not labelme's.
        UserError: there is no such split.
    """
    sources, parts = Sources(path), split_folders(path)
    if split is not None and split_named(split) not in parts:
        raise UserError(f"{path} has no split {split}: it has {', '.join(parts) or 'none'}")
    below = "" if split is None else f"{parts[split_named(split)]}/"
    images, others = files_below(path)
    listed = Images(images)
    labels: set[str] = set()
    chosen: dict[str, tuple[Mapping[str, Any], str]] = {}
    for name in others:
        if name.lower().endswith(".json") and (content := _content(sources, name)) is not None:
            labels |= {label for shape in content["shapes"] if (label := _label(shape))}
            if name.startswith(below):
                said = str(content.get("imagePath") or "").replace("\\", "/")
                chosen[name] = content, listed.of(name, said)
    if not chosen:
        raise AnnotationError(f"{path} has none of {LOOKED_FOR}")
    bare = set(images) - {image for _, image in chosen.values()}
    for image in sorted(bare):
        if image.startswith(below):
            sources.note(image, "images without a json file, not labelled, left out")
    sizes = {image: _size(content) for content, image in chosen.values()}
    if not images_only and (unsized := [image for image, size in sizes.items() if size is None]):
        found = image_sizes([os.path.join(path, image) for image in unsized])
        sizes |= dict(zip(unsized, found, strict=True))
    numbers = {label: number for number, label in enumerate(sorted(labels))}
    return Content(
        sources,
        ({"id": number, "name": label} for label, number in numbers.items()),
        (sized({"id": image, "file_name": image}, size) for image, size in sizes.items()),
        (
            entry
            for name, (content, image) in chosen.items()
            if (size := sizes[image]) is not None
            for entry in _annotations(sources, name, content, image, numbers, size)
        ),
    )


def _is_labelme(file: str) -> bool:
    """Check the keys at the beginning; the rest is validated on reading."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return False
    return any(key in head for key in (b'"shapes"', b'"imagePath"', b'"imageData"'))


def _content(sources: Sources, name: str) -> Mapping[str, Any] | None:
    """A file's values without the embedded image; None if it is not labelme's."""
    path = os.path.join(sources.folder, name)
    try:
        content = json.loads(sources.text(path))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise AnnotationError(
            f"{path} is not complete JSON ({error}): copy or save it again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        sources.note(name, "json files that are not labelme's, left out")
        return None
    content.pop("imageData", None)
    return content


def _size(content: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width); None if only the image has it, as with old versions."""
    try:
        height, width = (integer(content.get(f"image{side}")) for side in ("Height", "Width"))
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


# ---------------------------------------------------------------------------------- shapes


class _Part(NamedTuple):
    box: tuple[float, float, float, float]  # x0, y0, x1, y1
    polygon: list[float] | None = None
    mask: Mapping[str, Any] | None = None  # run lengths


def _label(shape: Any) -> str | None:
    """The class of a shape that has an area; None for other shapes."""
    if not isinstance(shape, dict) or shape.get("shape_type") in _WITHOUT_AREA:
        return None
    label = str(shape.get("label") or "")
    return None if not label or label.startswith("__ignore__") else label


def _annotations(
    sources: Sources,
    name: str,
    content: Mapping[str, Any],
    image: str,
    numbers: Mapping[str, int],
    size: tuple[int, int],
) -> Iterator[Entry]:
    """The objects of an image of (H, W) pixels; shapes of one group are one object."""
    objects: dict[Any, tuple[str, str, list[_Part]]] = {}
    for k, shape in enumerate(content["shapes"], 1):
        identity = f"{name}:{k}"
        label = _label(shape)
        if label is None:
            sources.note(identity, "shapes without an area or a class (points, lines), left out")
            continue
        try:
            part = _part(shape, size)
        except ValueError as error:
            yield Broken(identity, "shape", str(error))
            continue
        group = shape.get("group_id")
        key = k if group is None else (label, str(group))
        objects.setdefault(key, (identity, label, []))[2].append(part)
    for identity, label, parts in objects.values():
        left, top = (min(part.box[axis] for part in parts) for axis in (0, 1))
        right, bottom = (max(part.box[axis] for part in parts) for axis in (2, 3))
        yield {
            "id": identity,
            "image_id": image,
            "category_id": numbers[label],
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": _union(parts, size),
        }


def _union(parts: Sequence[_Part], size: tuple[int, int]) -> list[Any]:
    """Combine parts: polygons, or run lengths if any part is a mask."""
    polygons = [part.polygon for part in parts if part.polygon is not None]
    masks = [part.mask for part in parts if part.mask is not None]
    drawn = read_mask(polygons, size) if masks else None
    return [*masks, *([compressed(drawn, size)] if drawn else ())] if masks else polygons


def _part(shape: Mapping[str, Any], size: tuple[int, int]) -> _Part:
    """Parse a shape in an image of (H, W) pixels. ValueError: says what is wrong with it."""
    kind = shape.get("shape_type") or "polygon"  # the only kind in old versions
    try:
        points = [(number(x), number(y)) for x, y in shape.get("points") or ()]
    except (TypeError, ValueError) as error:
        raise ValueError(f"has points that are not pairs of numbers ({error})") from error
    least = {"rectangle": 2, "circle": 2, "mask": 2, "polygon": 3, "rotation": 3}
    if kind not in least:
        raise ValueError(f"is a {shown(kind)}, which is not a known shape")
    if len(points) < least[kind]:
        raise ValueError(f"is a {kind} of {len(points)} points, it must have {least[kind]}")
    if kind == "circle":
        points = _circle(*points[:2])
    xs, ys = zip(*points, strict=True)
    box = (min(xs), min(ys), max(xs), max(ys))
    if kind == "mask":
        mask = _mask(str(shape.get("mask") or ""), (round(box[0]), round(box[1])), size)
        x, y, width, height = box_of(mask, size)
        return _Part((x, y, x + width, y + height), mask=mask)
    if kind in ("rectangle", "rotation"):
        return _Part(box)
    return _Part(box, [value for point in points for value in point])


def _circle(centre: tuple[float, float], edge: tuple[float, float]) -> list[tuple[float, float]]:
    radius = math.dist(centre, edge)
    angles = [2 * math.pi * k / _CORNERS for k in range(_CORNERS)]
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def _mask(text: str, corner: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """Convert a base64 PNG whose first pixel is at the corner (x, y) to run lengths of the image.

    Raises:
        ValueError: it is not a PNG, or extends beyond the image.
    """
    from pycocotools import mask as mask_util

    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            pixels = np.asarray(image.convert("L")) > 0
    except (OSError, SyntaxError, binascii.Error) as error:
        raise ValueError(f"has a mask that is not a PNG in base64 ({error})") from error
    (left, top), (height, width) = corner, pixels.shape
    if min(left, top) < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError(
            f"has a mask of {width}x{height} pixels at {left}, {top}, in an image of {size[1]}x{size[0]}"
        )
    whole = np.zeros(size, np.uint8, order="F")
    whole[top : top + height, left : left + width] = pixels
    return dict(mask_util.encode(whole))
