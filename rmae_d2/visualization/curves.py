"""Pictures of what runs measured."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import UserError
from ..events import Point, read_run, results, step_values


def draw_loss_curve(folder: str | Path, path: str | Path) -> Path:
    """Draws every ``loss*`` and the learning rate over iterations, as a PNG.

    Args:
        folder: of the run.
        path: where to.
    """
    values = step_values(read_run(folder)[0])
    names = sorted(name for name in values if name.startswith("loss"))
    figure = Figure(figsize=(7, 4), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
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
    figure.tight_layout()
    figure.savefig(path)
    return Path(path)


def draw_metrics(
    runs: Sequence[tuple[str, str | Path]], names: Sequence[str], path: str | Path
) -> Path:
    """Draws values of several runs over iterations, as a PNG: one panel a name, one line a run.

    Args:
        runs: label and folder of each; runs of one label, such as seeds, share a colour.
        names: of results, such as ``bbox/AP``, or of values of steps.
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
        for label, folder in runs:
            axes.plot(
                *zip(*_points(folder, name), strict=True),
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


def _points(folder: str | Path, name: str) -> list[Point]:
    events, _ = read_run(folder)
    curves = step_values(events) | results(events)
    if name in curves:
        return curves[name]
    known = sorted(curves)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:10]
    hint = f"did you mean {', '.join(near)}?" if near else "it has no values at all"
    raise UserError(f"{folder} has no {name}: {hint}")
