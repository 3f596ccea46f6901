"""Draw curves as SVG for embedding in an HTML page, with its fonts and its light and dark colours."""

import io
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from ..events import Point

#: Curves with at most this many points are drawn in full; longer ones as means with a min-max band.
MAX_POINTS = 300

#: The page defines these colours as --c0 to --c7.
NUM_COLOURS = 8

#: Values from here on are gaps, like those that are not finite: axes for such numbers overflow.
_HUGE = 1e100

# Matplotlib knows no CSS: it draws in marker colours, which are then replaced in the SVG.
_TEXT, _GRID = "#010203", "#010204"
_LINES = [f"#01030{i}" for i in range(NUM_COLOURS)]

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rmae_d2",  # otherwise the names of clip paths differ each time
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # shipped with matplotlib, for measuring text
    "text.parse_math": False,  # names of values are not formulas
    "font.size": 9,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "grid.color": _GRID,
    "legend.frameon": False,
}


#: Label and points of a line; non-finite values leave gaps.
Curve = tuple[str, Sequence[Point]]


def draw_chart(
    curves: Sequence[Curve],
    name: str,
    size: tuple[float, float] = (3.7, 2.2),
    legend: bool = False,
    may_be_log: bool = False,
) -> str:
    """Draw curves over iterations.

    Args:
        curves: at least one; they take the page's colours in order.
        name: the chart's name, for its ids and for screen readers; letters, digits and dashes.
        size: width and height in inches; the page keeps the ratio.
        legend: whether to show which curve is which.
        may_be_log: whether values spanning several orders of magnitude get a logarithmic axis.

    Returns:
        an ``<svg>`` element; equal values give identical output.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size)
        figure.patch.set_alpha(0)
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        for index, curve in enumerate(curves):
            _draw(axes, curve, index)
        values = [y for _, points in curves for _, y in points if abs(y) < _HUGE]
        if may_be_log and values and min(values) > 0 and max(values) / min(values) > 100:
            axes.set_yscale("log")
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k, 1.2M
        low, high = axes.get_ylim()
        ticks = [float(tick) for tick in axes.get_yticks() if low <= tick <= high]
        log = axes.get_yscale() == "log"
        labels = [f"{tick:g}" for tick in ticks] if log else tick_labels(ticks)
        axes.set_yticks(ticks, labels)
        # Room for the numbers, in inches; computing it takes as long as everything else.
        (width, height) = size
        room = {
            "left": (0.2 + 0.08 * max(map(len, labels), default=0)) / width,
            "right": 1 - 0.2 / width,
        }
        figure.subplots_adjust(**room, bottom=0.42 / height, top=1 - 0.08 / height)
        axes.grid(alpha=0.6, linewidth=0.6)
        if legend:
            axes.legend(loc="best", fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(buffer.getvalue(), name)


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Format each tick by itself, without a shared offset or factor, in as few digits as identify it."""
    largest = max(map(abs, ticks), default=0.0)
    plain = largest == 0 or 1e-3 <= largest < 1e6
    close = 1e-3 * min((abs(b - a) for a, b in pairwise(ticks)), default=largest)
    texts: list[str] = []
    for digits in range(16):
        texts = [f"{tick:.{digits}{'f' if plain else 'e'}}" for tick in ticks]
        if all(abs(float(text) - tick) <= close for text, tick in zip(texts, ticks, strict=True)):
            break
    texts = ["0" if float(text) == 0 else text for text in texts]
    return [re.sub(r"e([+-])0*", r"e\1", text).replace("e+", "e") for text in texts]


def thin(
    points: Sequence[Point], limit: int = MAX_POINTS
) -> list[tuple[float, float, float, float]]:
    """Reduce a curve to at most ``limit`` equal bins of (iteration, mean, lowest, highest).

    Points that are not finite, or huge, are excluded from means; a bin with only such points is a gap, NaN.
    """
    per_bin = -(-len(points) // limit)
    bins = [points[i : i + per_bin] for i in range(0, len(points), max(per_bin, 1))]
    return [_summary(part) for part in bins]


def _summary(part: Sequence[Point]) -> tuple[float, float, float, float]:
    values = [y for _, y in part if abs(y) < _HUGE] or [math.nan]
    middle = sum(x for x, _ in part) / len(part)
    return middle, sum(values) / len(values), min(values), max(values)


def _draw(axes: matplotlib.axes.Axes, curve: Curve, index: int) -> None:
    label, points = curve
    x, mean, low, high = zip(*thin(points), strict=True)
    colour = _LINES[index % NUM_COLOURS]
    dashes = "-" if index < NUM_COLOURS else "--"
    dots: Any = {"marker": "o" if len(x) <= 30 else "", "markersize": 3}
    axes.plot(x, mean, dashes, color=colour, label=label, linewidth=1.4, **dots)
    if len(x) < len(points):
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _for_page(svg: str, name: str) -> str:
    """Extract the bare element, to be sized by the page, with ids that are unique in the page."""
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    head, body = re.split(r"(?<=>)", svg[svg.index("<svg") :], maxsplit=1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = body.replace(' id="', f' id="{name}-').replace("url(#", f"url(#{name}-")
    body = body.replace('xlink:href="#', f'href="#{name}-').replace("'DejaVu Sans'", "sans-serif")
    for index, colour in enumerate(_LINES):
        body = body.replace(colour, f"var(--c{index})")
    body = body.replace(_TEXT, "currentColor").replace(_GRID, "var(--rule)").strip()
    return f'<svg role="img" aria-label="{name}" {box.group() if box else ""}>{body}'
