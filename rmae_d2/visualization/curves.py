"""Curves from Detectron2's metrics.json."""

import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


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
