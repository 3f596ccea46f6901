"""Formats rows of text and numbers as a table."""

from collections.abc import Collection, Sequence
from typing import Any

from tabulate import tabulate


def table(
    headers: Sequence[Any],
    rows: Sequence[Sequence[Any]],
    *,
    digits: int = 2,
    left: Collection[int] = (0,),
) -> str:
    """Formats a Markdown table with padded columns, so that it reads well in a terminal too.

    Args:
        headers: titles of the columns.
        rows: cells; floats are rounded, None is "-", everything else is shown by ``str``.
        digits: decimal places of floats.
        left: indices of left-aligned columns; the others are right-aligned.
    """
    cells = [[_cell(value, digits) for value in row] for row in rows]
    sides = ["left" if i in left else "right" for i in range(len(headers))]
    return tabulate(
        cells,
        [*map(str, headers)],
        "pipe",
        disable_numparse=True,
        colalign=sides if cells else None,
    )


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
