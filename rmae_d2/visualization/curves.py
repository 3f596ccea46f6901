"""Curves from Detectron2's metrics.json."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import UserError


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """The records of a metrics.json, one a line; a line cut short by a kill is left out."""
    records = []
    for line in Path(path).read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    # A resumed run repeats iterations: the later record counts.
    return list(
        {record["iteration"]: record for record in records if "iteration" in record}.values()
    )


def draw_loss_curve(metrics: str | Path, path: str | Path) -> Path:
    """Draws every ``loss*`` and the learning rate over iterations, as a PNG.

    Args:
        metrics: Detectron2's metrics.json.
        path: where to.
    """
    records = sorted(read_metrics(metrics), key=lambda r: r["iteration"])
    names = sorted({k for record in records for k in record if k.startswith("loss")})
    figure = Figure(figsize=(7, 4), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in names:
        points = [(r["iteration"], r[name]) for r in records if name in r]
        axes.plot(*zip(*points, strict=True), label=name)
    rate = axes.twinx()
    points = [(r["iteration"], r["lr"]) for r in records if "lr" in r]
    if points:
        rate.plot(*zip(*points, strict=True), color="0.75", linestyle="--", zorder=0)
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    rate.set_ylabel("learning rate (dashed)")
    if names:
        axes.legend(loc="upper right")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    return Path(path)


def draw_metrics(
    runs: Sequence[tuple[str, str | Path]], names: Sequence[str], path: str | Path
) -> Path:
    """Draws values of several runs over iterations, as a PNG: one panel a name, one line a run.

    Args:
        runs: label and metrics.json of each; runs of one label, such as seeds, share a colour.
        names: keys of metrics.json, such as ``bbox/AP``.
        path: where to.

    Raises:
        UserError: a run has no such value; names those near it.
    """
    labels = list(dict.fromkeys(label for label, _ in runs))
    figure = Figure(figsize=(5.5 * len(names), 4), dpi=120)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        seen = set()
        for label, metrics in runs:
            axes.plot(
                *zip(*_points(metrics, name), strict=True),
                color=f"C{labels.index(label)}",
                marker=".",
                label=None if label in seen else label,
            )
            seen.add(label)
        axes.set_xlabel("iteration")
        axes.set_ylabel(name)
        axes.legend()
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    return Path(path)


def _points(metrics: str | Path, name: str) -> list[tuple[float, float]]:
    records = sorted(read_metrics(metrics), key=lambda r: r["iteration"])
    if points := [(r["iteration"], r[name]) for r in records if name in r]:
        return points
    known = sorted({key for record in records for key in record})
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:10]
    hint = f"did you mean {', '.join(near)}?" if near else "it has no values at all"
    raise UserError(f"{metrics} has no {name}: {hint}")
