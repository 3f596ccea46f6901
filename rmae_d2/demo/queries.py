"""What the page asks for, read from JSON and checked: nothing is assumed of it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .uploads import RefusedError

#: Far above what the largest grid with all regions marked needs.
MAX_BYTES = 2_000_000
MAX_NAME = 200

Patch = tuple[int, int]


@dataclass(frozen=True)
class Marks:
    """Patches (row, column) of one region: part of it, and not part of it."""

    positive: tuple[Patch, ...]
    negative: tuple[Patch, ...]


@dataclass(frozen=True)
class Query:
    """Regions to predict.

    Attributes:
        regions: at least one, each with a positive patch.
        threshold: probability from which on a pixel belongs to the mask.
        chosen: the region to write, an index of ``regions``; None for all.
        name: of the image's file, as the user's machine calls it; only ever repeated.
    """

    regions: tuple[Marks, ...]
    threshold: float
    chosen: int | None
    name: str


def parse_query(body: bytes, grid: tuple[int, int], max_regions: int) -> Query:
    """Reads ``{"regions": [{"positive": [[row, column], ...], "negative": [...]}], "threshold": 0.5}``.

    ``"chosen"`` and ``"name"`` may be there too, see :class:`Query`.

    Args:
        body: JSON, UTF-8.
        grid: (Gh, Gw) of the image's patches.
        max_regions: more are refused.

    Raises:
        RefusedError: 400 for what is no JSON object, 422 for values; the text names the value.
    """
    fields = _object(_decoded(body), "the request", {"regions", "threshold", "chosen", "name"})
    given = fields.get("regions")
    if not isinstance(given, list) or not 1 <= len(given) <= max_regions:
        raise RefusedError(422, f"regions must be a list of 1 to {max_regions} regions.")
    regions = tuple(_marks(region, number, grid) for number, region in enumerate(given, 1))
    return Query(
        regions,
        _threshold(fields.get("threshold", 0.5)),
        _chosen(fields.get("chosen"), len(regions)),
        _name(fields.get("name", "")),
    )


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The request is not JSON.") from None


def _object(value: Any, what: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(400, f"{what} must be a JSON object.")
    if unknown := sorted(value.keys() - known):
        raise RefusedError(422, f"{what} has an unknown field {unknown[0][:40]!r}.")
    return value


def _marks(value: Any, number: int, grid: tuple[int, int]) -> Marks:
    fields = _object(value, f"region {number}", {"positive", "negative"})
    positive, negative = (
        _patches(fields.get(name, []), f"region {number}, {name}", grid)
        for name in ("positive", "negative")
    )
    if not positive:
        raise RefusedError(422, f"region {number}: mark at least one patch as part of it.")
    if both := set(positive) & set(negative):
        raise RefusedError(422, f"region {number}: patch {min(both)} is both part and not part.")
    return Marks(positive, negative)


def _patches(value: Any, what: str, grid: tuple[int, int]) -> tuple[Patch, ...]:
    if not isinstance(value, list) or len(value) > grid[0] * grid[1]:
        raise RefusedError(422, f"{what} must be a list of at most {grid[0] * grid[1]} patches.")
    patches = []
    for item in value:
        ok = isinstance(item, list) and len(item) == 2 and all(type(x) is int for x in item)
        if not ok or not (0 <= item[0] < grid[0] and 0 <= item[1] < grid[1]):
            raise RefusedError(
                422,
                f"{what}: a patch is [row, column] below [{grid[0]}, {grid[1]}], "
                f"not {json.dumps(item)[:40]}.",
            )
        patches.append((item[0], item[1]))
    if len(set(patches)) < len(patches):
        raise RefusedError(422, f"{what}: a patch is there twice.")
    return tuple(patches)


def _threshold(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value < 1:
        raise RefusedError(422, "threshold must be a number between 0 and 1.")
    return float(value)


def _chosen(value: Any, count: int) -> int | None:
    if value is None or (type(value) is int and 0 <= value < count):
        return value
    raise RefusedError(422, f"chosen must be null or the index of one of the {count} regions.")


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise RefusedError(422, f"name must be a text of at most {MAX_NAME} characters.")
    return value
