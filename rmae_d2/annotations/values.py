"""Parse single values of annotation files as written by common tools: numbers as text, flags as words.

Values with one possible meaning are read; anything else raises `ValueError`, which the file's reader turns
into a message that names file, entry and field.
"""

import json
import math
import re
from typing import Any

#: Limit for ids: what a float, a text and numpy's int64 all hold exactly.
_LARGEST = 2**53
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.0*)?")
_FLAGS = {"0": False, "false": False, "no": False, "": False, "1": True, "true": True, "yes": True}
_SHOWN = 60


def shown(value: Any) -> str:
    """A value quoted in JSON notation, truncated if long: '99' is a number, '"99"' a text."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return f"'{text}'" if len(text) <= _SHOWN else f"'{text[:_SHOWN]} ...'"


def integer(value: Any) -> int:
    """Parse ``7``, ``7.0``, ``"7"`` and ``"7.0"`` as 7. No booleans."""
    if type(value) is int and -_LARGEST <= value <= _LARGEST:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST:
        return int(value)
    if isinstance(value, str) and (found := _INTEGER.fullmatch(value.strip())):
        return int(found[0].partition(".")[0])
    raise ValueError(f"{shown(value)} is not a whole number")


def number(value: Any) -> float:
    """Parse a finite number, also from text. No booleans."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            found = math.nan
        if math.isfinite(found):
            return found
    raise ValueError(f"{shown(value)} is not a finite number")


def flag(value: Any) -> bool:
    """Parse ``0``, ``1``, booleans and their texts; a missing value is false."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and (found := _FLAGS.get(value.strip().lower())) is not None:
        return found
    raise ValueError(f"{shown(value)} is neither 0 nor 1")


def identifier(value: Any) -> int | str:
    """Parse an id: an integer, also as a float; or text, unchanged."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return integer(value)
    raise ValueError(f"{shown(value)} is not an id")


def parsed(value: Any) -> Any:
    """Decode a text that holds a JSON list or object; other values are returned unchanged."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
