"""Curves of interactive segmentation: IoU against what was given."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def draw_iou_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]],
    path: str | Path,
    *,
    title: str,
    unit: str,
) -> Path:
    """Draws mean IoU with bands of one standard error, as a PNG.

    Args:
        curves: name of a method -> counts, mean IoU in [0, 1], its standard errors.
        path: where to.
        title: above the picture.
        unit: what is counted, such as "clicks".
    """
    figure = Figure(figsize=(7, 4.5), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (name, (counts, mean, error)) in enumerate(curves.items()):
        low = [m - e for m, e in zip(mean, error, strict=True)]
        high = [m + e for m, e in zip(mean, error, strict=True)]
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
    figure.tight_layout()
    figure.savefig(path)
    return Path(path)
