"""Parse single entries of COCO and LVIS annotation files into validated values."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import UserError
from .segmentation import Mask, box_of, compressed, read_mask
from .values import flag, identifier, integer, number, parsed, shown

#: In pixels: the largest sides and areas whose masks pycocotools and a machine's memory can hold.
_LONGEST_SIDE, _LARGEST_AREA = 10**6, 2**31 - 1
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,15}")

#: Called with a description of what was repaired, once per entry.
Note = Callable[[str], None]


class Unreadable(Exception):  # noqa: N818
    """A field of an entry that cannot be read; the args are its name and what is wrong with it."""


class Image(NamedTuple):
    """An entry of ``images``; height and width in pixels are 0 if unreadable."""

    id: int | str
    file_name: str  #: as in the file; for LVIS, the last two parts of ``coco_url``
    height: int
    width: int
    neg_category_ids: tuple[int, ...] | None = None  #: LVIS, like the next; None if absent
    not_exhaustive_category_ids: tuple[int, ...] | None = None


class Category(NamedTuple):
    """An entry of ``categories``; ``frequency`` exists in LVIS only."""

    id: int
    name: str
    frequency: Any = None


class Instance(NamedTuple):
    """An entry of ``annotations``."""

    id: Any  #: for messages only
    category_id: int  #: -1 if the entry has none
    box: tuple[
        float, float, float, float
    ]  #: x, y, width, height in pixels, the latter two positive
    area: float  #: square pixels
    iscrowd: bool
    ignore: bool  #: must be false under LVIS's rules
    mask: Mask | None  #: see `read_mask`


def key_of(identity: int | str) -> int | str:
    """A key that is equal for equal ids, such as "7" and 7."""
    if isinstance(identity, str) and _INTEGER.fullmatch(identity):
        return int(identity)
    return identity


def label_of(section: str, entry: Mapping[str, Any], place: int) -> str:
    """How messages refer to an entry: by its id, or by its position in the list."""
    if entry.get("id") is None:
        return f"entry {place} of {section!r}"
    kind = "category" if section == "categories" else section[:-1]
    return f"{kind} {shown(entry['id'])}"


def image_of(entry: Mapping[str, Any]) -> tuple[Image, Unreadable | None]:
    """Parse an image; if its size or LVIS's lists are unreadable, its size is 0, and the reason is returned.

    Raises:
        Unreadable: the id or file name.
    """
    identity, name = _field(entry, "id", identifier), _file_name(entry)
    try:
        height, width = (_field(entry, side, integer) for side in ("height", "width"))
        if not (0 < height <= _LONGEST_SIDE and 0 < width <= _LONGEST_SIDE):
            wrong = "width" if 0 < height <= _LONGEST_SIDE else "height"
            raise Unreadable(wrong, f"{shown(entry[wrong])} is not a size of an image")
        if height * width > _LARGEST_AREA:
            raise Unreadable("height", f"{shown(height)} times width {shown(width)} is too large")
        negative, partial = (
            _category_ids(entry, key) for key in ("neg_category_ids", "not_exhaustive_category_ids")
        )
    except Unreadable as error:
        return Image(identity, name, 0, 0), error
    return Image(identity, name, height, width, negative, partial), None


def category_of(entry: Mapping[str, Any]) -> Category:
    """Parse a category. Raises Unreadable if the id is not a number or there is no name."""
    name = entry.get("name")
    if not isinstance(name, str | int | float) or isinstance(name, bool) or name == "":
        raise Unreadable("name", f"{shown(name)} is not text")
    return Category(_field(entry, "id", integer), str(name), entry.get("frequency"))


def instance_of(entry: Mapping[str, Any], size: tuple[int, int], note: Note) -> Instance:
    """Parse an annotation of an image of (H, W) pixels; without usable bbox and mask, its box has no area.

    Raises:
        Unreadable: a field that is needed to identify the object.
    """
    category = -1 if entry.get("category_id") is None else _field(entry, "category_id", integer)
    crowd, ignored = (_field(entry, key, flag) for key in ("iscrowd", "ignore"))
    try:
        mask = read_mask(entry.get("segmentation"), size)
    except UserError as error:
        raise Unreadable("segmentation", str(error)) from error
    box = _box(entry, mask, size, note)
    return Instance(
        *(entry.get("id"), category, box, _area(entry, mask, box, size, note)),
        *(crowd, ignored, mask),
    )


def _field(entry: Mapping[str, Any], key: str, read: Callable[[Any], Any]) -> Any:
    try:
        return read(entry.get(key))
    except ValueError as error:
        raise Unreadable(key, str(error)) from error


def _file_name(entry: Mapping[str, Any]) -> str:
    name, url = entry.get("file_name"), entry.get("coco_url")
    if isinstance(name, str) and name.strip("/\\. "):
        return name
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    if isinstance(url, str) and url:  # LVIS
        return "/".join(url.split("/")[-2:])
    raise Unreadable("file_name", f"{shown(name)} names no file, and there is no coco_url")


def _category_ids(entry: Mapping[str, Any], key: str) -> tuple[int, ...] | None:
    """Parse one of LVIS's lists of categories: null is an empty list, None means there is no such field."""
    if key not in entry:
        return None
    try:
        return tuple(integer(k) for k in parsed(entry[key]) or ())
    except (TypeError, ValueError) as error:
        raise Unreadable(key, f"{shown(entry[key])} is not a list of category ids") from error


def _box(
    entry: Mapping[str, Any], mask: Mask | None, size: tuple[int, int], note: Note
) -> tuple[float, float, float, float]:
    """The box, or that of the mask if the box is unreadable or has no area."""
    value, side = entry.get("bbox"), max(size)
    problem = ""
    listed = parsed(value)
    try:
        if isinstance(listed, list) and len(listed) == 1:
            listed = parsed(listed[0])  # nested in one list too many
        x, y, width, height = (number(part) for part in listed)
        if mask is None:
            x, y, width, height = _upright(entry, (x, y, width, height))
    except (TypeError, ValueError):
        problem = f"{shown(value)} is not [x, y, width, height], four numbers"
        if isinstance(listed, list) and len(listed) == 5:
            problem += "; a turned box with its angle? Give the upright box around it"
    else:
        if min(x, y) < -side or max(x, y) > 2 * side or max(width, height) > 3 * side:
            problem = f"{shown(value)} is far outside the image, {size[1]}x{size[0]} pixels"
        elif min(width, height) < 0:
            problem = f"{shown(value)} has a negative width or height"
        elif min(width, height) > 0 or mask is None:
            return x, y, width, height
    if mask is None:
        raise Unreadable("bbox", problem)
    box = box_of(mask, size)
    if min(box[2:]) > 0:
        note("annotations without a usable box, that of the mask is taken")
    return box


def _upright(
    entry: Mapping[str, Any], box: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """The box around a rotated one from CVAT, which stores degrees around the centre in an attribute.

    Raises:
        ValueError: the angle is not a number.
    """
    attributes = entry.get("attributes")
    degrees = attributes.get("rotation") if isinstance(attributes, dict) else None
    if degrees is None or not (angle := math.radians(number(degrees))):
        return box
    x, y, width, height = box
    across, down = abs(math.cos(angle)), abs(math.sin(angle))
    w, h = width * across + height * down, width * down + height * across
    return x + (width - w) / 2, y + (height - h) / 2, w, h


def _area(
    entry: Mapping[str, Any],
    mask: Mask | None,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    note: Note,
) -> float:
    """The area that determines an object's size class in evaluation."""
    try:
        area = number(entry.get("area"))
    except ValueError:
        area = -1.0
    if area >= 0:
        return area
    note("annotations without `area`, that of the mask, else of the box is taken")
    if mask is None:
        return box[2] * box[3]
    from pycocotools import mask as mask_util

    return float(mask_util.area(compressed(mask, size)))
