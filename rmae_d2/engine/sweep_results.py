"""Results of a sweep's runs: a table and a curve."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..events import HEADLINES, plain, read_run, results, step_values
from ..files import atomic_file
from ..tables import table
from ..visualization.curves import draw_sweep
from .provenance import describe_code
from .sweep import Run, short_names


@dataclass(frozen=True)
class Measured:
    """A run and its measurements.

    Attributes:
        last: the last value of everything, by name; empty if it has not finished.
        cause: why it has not finished.
    """

    run: Run
    last: Mapping[str, float]
    cause: str


def measure(run: Run, cause: str = "") -> Measured:
    """Read a run's folder.

    Args:
        cause: why it has not finished, if known better than from the folder.
    """
    if not run.finished:
        at = next(stage for stage in run.stages if not stage.finished)
        return Measured(run, {}, cause or at.ended() or ("not finished" if at.begun else "not run"))
    events, _ = read_run(run.folder)
    curves = step_values(events) | results(events)
    return Measured(run, {name: points[-1][1] for name, points in curves.items()}, "")


def choose_metric(measured: Sequence[Measured], name: str | None) -> str:
    """Choose a metric; by default the main result of the runs' evaluator, else the total loss.

    Raises:
        UserError: no run has it; lists the available ones.
    """
    known = list(dict.fromkeys(name for one in measured for name in one.last))
    of_all = [
        n for n in known if "-" not in n.rpartition("/")[2]
    ]  # without those of single classes
    if name is None:
        of_tasks = (n for n in of_all if "/" in n)
        return next((n for n in (*HEADLINES, *of_tasks) if n in known), "total_loss")
    if known and name not in known:
        raise UserError(f"--metric {name}: no run has it, but {', '.join(of_all)}")
    return name


def points_of(measured: Sequence[Measured]) -> list[list[Measured]]:
    """Group runs by point."""
    groups: dict[tuple[str, ...], list[Measured]] = {}
    for one in measured:
        groups.setdefault(tuple(one.run.values.values()), []).append(one)
    return list(groups.values())


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean, NaN without values; and sample standard deviation, NaN for fewer than two."""
    mean = float(np.mean(values)) if values else math.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def results_table(measured: Sequence[Measured], metric: str) -> str:
    """One row per point: its values, mean ± standard deviation over seeds, their number, what is missing."""
    names = short_names(list(measured[0].run.values))
    rows = []
    for group in points_of(measured):
        values = [one.last[metric] for one in group if metric in one.last]
        mean, deviation = mean_and_deviation(values)
        notes = [
            f"seed {one.run.seed}: {one.cause or 'has no such value'}".replace("|", "\\|")
            for one in group
            if metric not in one.last
        ]
        number = _with_deviation(mean, deviation) if values else None
        rows.append([*group[0].run.values.values(), number, len(values), "; ".join(notes)])
    headers = [*names.values(), metric, "n", "missing"]
    if not any(row[-1] for row in rows):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    return table(headers, rows, left=(len(headers) - 1,) if "missing" in headers else ())


def _with_deviation(mean: float, deviation: float) -> str:
    """Format both to the second digit of the deviation."""
    if not (math.isfinite(mean) and 0 < deviation < math.inf):
        return f"{mean:.4g}" if math.isnan(deviation) else f"{mean:.4g} ± {deviation:g}"
    digits = max(1 - math.floor(math.log10(deviation)), 0)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def write_results(
    measured: Sequence[Measured], metric: str, output: Path, about: Mapping[str, Any]
) -> list[Path]:
    """Write sweep.md, sweep.json and, if any key is swept, sweep.png.

    Args:
        about: what the sweep ran, for sweep.json; its ``command`` appears in sweep.md.

    Returns:
        the files.
    """
    text = f"{results_table(measured, metric)}\n\nMean ± standard deviation over n seeds.\n\n"
    text += f"    {about['command']}\n"
    points = []
    for group in points_of(measured):
        values = [one.last[metric] for one in group if metric in one.last]
        mean, deviation = mean_and_deviation(values)
        runs = [
            {"seed": o.run.seed, "folder": o.run.folder, "cause": o.cause, "last": o.last}
            for o in group
        ]
        point = {"values": group[0].run.values, "mean": mean, "deviation": deviation}
        points.append({**point, "n": len(values), "runs": runs})
    content = {**about, "metric": metric, "code": describe_code(), "points": points}
    made = {"sweep.md": text, "sweep.json": json.dumps(plain(content), indent=1) + "\n"}
    for name, body in made.items():
        with atomic_file(output / name) as file:
            file.write(body.encode())
    files = [output / name for name in made]
    if measured[0].run.values and any(metric in one.last for one in measured):
        files.append(_draw(measured, metric, output / "sweep.png"))
    return files


def _draw(measured: Sequence[Measured], metric: str, path: Path) -> Path:
    """Plot over the numeric key with the most values, else the first; one line per choice of the others."""
    swept = list(measured[0].run.values)
    names = short_names(swept)
    texts = {key: list(dict.fromkeys(one.run.values[key] for one in measured)) for key in swept}
    numeric = [key for key in swept if all(map(_is_number, texts[key]))]
    across = max(numeric, key=lambda key: len(texts[key])) if numeric else swept[0]
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for group in points_of(measured):
        values = group[0].run.values
        label = ", ".join(f"{names[key]}={values[key]}" for key in swept if key != across)
        x = float(values[across]) if numeric else texts[across].index(values[across])
        found = [one.last[metric] for one in group if metric in one.last]
        lines.setdefault(label, []).append((x, *mean_and_deviation(found)))
    words = () if numeric else texts[across]
    return draw_sweep(lines, names[across], metric, path, words)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
