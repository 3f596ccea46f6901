"""Plots of results of runs and evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..errors import UserError, did_you_mean
from ..events import Point, read_run, results, step_values
from ..files import atomic_file


def draw_loss_curve(folder: str | Path, path: str | Path) -> Path:
    """Draws every ``loss*`` and the learning rate over iterations, as a PNG."""
    values = step_values(read_run(folder)[0])
    names = sorted(name for name in values if name.startswith("loss"))
    figure, (axes,) = _figure(7, 4)
    for name in names:
        axes.plot(*zip(*values[name], strict=True), label=name)
    rate = axes.twinx()
    if "lr" in values:
        rate.plot(*zip(*values["lr"], strict=True), color="0.75", linestyle="--", zorder=0)
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    rate.set_ylabel("learning rate (dashed)")
    if names:
        axes.legend(loc="upper right")
    axes.grid(alpha=0.3)
    return _saved(figure, path)


def draw_costs(costs: Mapping[str, Sequence[tuple[int, float]]], path: str | Path) -> Path:
    """Draws multiply-adds per image (in G) against the image's side, both on logarithmic axes, as a PNG.

    Args:
        costs: (side, cost) of each variant.
    """
    figure, (axes,) = _figure(7, 4)
    for name, points in costs.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    sides = sorted({side for points in costs.values() for side, _ in points})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sides, [str(side) for side in sides])
    axes.minorticks_off()
    axes.set_xlabel("side of the image, pixels")
    axes.set_ylabel("GMACs per image")
    axes.legend()
    axes.grid(alpha=0.3)
    return _saved(figure, path)


def draw_metrics(
    runs: Sequence[tuple[str, str | Path]], names: Sequence[str], path: str | Path
) -> Path:
    """Draws values of several runs over iterations, as a PNG: one panel per name, one line per run.

    Args:
        runs: label and folder of each; runs with the same label, such as seeds, share a colour.
        names: of results, such as ``bbox/AP``, or of values of steps.

    Raises:
        UserError: if a run has no such value; suggests similar names.
    """
    labels = list(dict.fromkeys(label for label, _ in runs))
    figure, panels = _figure(5.5 * len(names), 4, len(names))
    for axes, name in zip(panels, names, strict=True):
        for label, folder in runs:
            points = zip(*_points(folder, name), strict=True)
            axes.plot(*points, color=f"C{labels.index(label)}", marker=".")
        for k, label in enumerate(labels):
            axes.plot([], [], color=f"C{k}", marker=".", label=label)
        axes.set_xlabel("iteration")
        axes.set_ylabel(name)
        axes.legend()
        axes.grid(alpha=0.3)
    return _saved(figure, path)


def _points(folder: str | Path, name: str) -> list[Point]:
    events, _ = read_run(folder)
    curves = step_values(events) | results(events)
    if name in curves:
        return curves[name]
    has = f"it has {', '.join(sorted(curves)[:10])}" if curves else "it has no values at all"
    hint = did_you_mean(name, curves, has, sep="/")
    raise UserError(f"{folder} has no {name}: {hint}")


def draw_iou_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]],
    path: str | Path,
    *,
    title: str,
    unit: str,
) -> Path:
    """Draws mean IoU with bands of one standard error, as a PNG.

    Curves are keyed by method: counts (of a unit such as "clicks"), mean IoU, its standard errors.
    """
    figure, (axes,) = _figure(7, 4.5)
    for i, (name, (counts, mean, error)) in enumerate(curves.items()):
        low, high = np.subtract(mean, error), np.add(mean, error)
        axes.fill_between(counts, low, high, color=f"C{i}", alpha=0.2, linewidth=0)
        axes.plot(counts, mean, color=f"C{i}", marker=".", label=name)
    axes.set_xlabel(unit)
    axes.set_ylabel("mean IoU (band: standard error)")
    axes.set_ylim(0, 1)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, fontsize=10)
    axes.legend(loc="best", fontsize=9)
    axes.grid(alpha=0.3)
    return _saved(figure, path)


def draw_sweep(
    lines: Mapping[str, Sequence[tuple[float, float, float]]],
    key: str,
    metric: str,
    path: str | Path,
    words: Sequence[str] = (),
) -> Path:
    """Draws a metric over the values of a key, with bars of one standard deviation, as a PNG.

    Args:
        lines: by label: value of the key, mean, deviation; NaN for missing values.
        words: what the values 0, 1 ... stand for if the key is not numeric; points are then not joined.
    """
    figure, (axes,) = _figure(6, 4)
    style: Any = {"fmt": "o" if words else "o-", "capsize": 3}
    for i, (label, points) in enumerate(lines.items()):
        x, mean, deviation = zip(*sorted(points), strict=True)
        beside = 0.06 * (i - (len(lines) - 1) / 2) if words else 0
        axes.errorbar(np.add(x, beside), mean, deviation, label=_text(label), **style)
    places = sorted({x for points in lines.values() for x, _, _ in points})
    if not words and places[0] > 0 and places[-1] / places[0] > 10:
        axes.set_xscale("log")
    axes.set_xticks(places, [*map(_text, words)] or [f"{x:g}" for x in places])
    if max(map(len, words), default=0) > 12:
        axes.tick_params(axis="x", labelsize=8)
        for tick in axes.get_xticklabels():
            tick.set(rotation=15, horizontalalignment="right")
    axes.minorticks_off()
    axes.set_xlabel(key)
    axes.set_ylabel(metric)
    axes.ticklabel_format(axis="y", useOffset=False)
    if not all(np.isnan(deviation) for points in lines.values() for _, _, deviation in points):
        axes.set_title("bars: standard deviation over seeds", fontsize=9)
    axes.margins(x=0.08)
    if len(lines) > 1:
        axes.legend()
    axes.grid(alpha=0.3)
    return _saved(figure, path)


def _text(value: str) -> str:
    """Shows a config value literally; it may be long, and is not a formula."""
    return (value if len(value) <= 60 else f"{value[:59]}…").replace("$", r"\$")


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, NDArray[Any]]:
    """Creates a figure with a size in inches, and its panels side by side."""
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _saved(figure: Figure, path: str | Path) -> Path:
    figure.tight_layout()
    with atomic_file(path, durable=False) as file:
        figure.savefig(file, format=Path(path).suffix[1:] or "png")
    return Path(path)


def draw_differences(
    bars: Sequence[tuple[str, float, float, float, bool]], title: str, path: str | Path
) -> Path:
    """Draws differences with their intervals, one below the other, relative to a line at zero, as a PNG.

    Args:
        bars: label, difference, low and high end of its interval, and whether it is coloured (otherwise
            gray).
        title: shown below the axis.
    """
    figure, (axes,) = _figure(8, 1.2 + 0.35 * len(bars))
    for row, (_, mean, low, high, shown) in enumerate(bars):
        color = "C0" if shown else "0.55"
        axes.plot([low, high], [row, row], color=color, linewidth=2)
        axes.plot([mean], [row], "o", color=color)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(bars)), [_text(label) for label, *_ in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    # Below the whole figure: next to long labels the axis is narrower than its title.
    figure.supxlabel(title, fontsize=9)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    return _saved(figure, path)
