"""Tables and curves of a study, inserted into its page between two marks."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine.sweep_results import mean_and_deviation
from ..errors import UserError
from ..files import atomic_file
from ..inference.region_evaluation import regions_table
from ..tables import table
from ..visualization.curves import draw_differences, draw_sweep
from .plan import Method, Metric, Study
from .records import Record, Records, values
from .statistics import Difference, paired_difference

BEGIN = "<!-- made by rmae-d2 study: what stands from here on is replaced -->"
END = "<!-- until here -->"


def write_page(study: Study, records: Records, page: Path) -> list[Path]:
    """Puts the study's tables into its page, and draws its pictures next to it.

    Args:
        page: Markdown, with a line `BEGIN` and a line `END`; if it does not exist, it is created with
            these alone.

    Returns:
        The written files.

    Raises:
        UserError: if the page lacks these marks.
    """
    text = (
        page.read_text(encoding="utf-8")
        if page.is_file()
        else f"# {study.name}\n\n{BEGIN}\n{END}\n"
    )
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page} has no lines\n{BEGIN}\n{END}\nto put the tables between")
    page.parent.mkdir(parents=True, exist_ok=True)
    pictures = _draw(study, records.all, page)
    shown = [f"![{text}]({picture.name})" for text, picture in pictures.items()]
    body = "\n\n".join([_state(study, records.all), *shown, *_sections(study, records)])
    with atomic_file(page) as file:
        file.write(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}".encode())
    return [page, *sorted(pictures.values())]


def _draw(study: Study, records: Sequence[Record], page: Path) -> dict[str, Path]:
    """Draws the first metric, over views and as differences to baselines: pictures by what they show."""
    metric, pictures = study.metrics[0].label, {}
    if lines := lines_over_views(study, records):
        picture = draw_sweep(
            lines,
            "views of pre-training, thousands",
            metric,
            page.with_name(f"{page.stem}_views.png"),
        )
        pictures[f"{metric} over the views of pre-training"] = picture
    if bars := _bars(study, records):
        title = f"{metric}: difference to the baseline, 95 % interval"
        picture = draw_differences(bars, title, page.with_name(f"{page.stem}.png"))
        pictures[f"{metric} of each method less its baseline's"] = picture
    return pictures


def _sections(study: Study, records: Records) -> list[str]:
    found, parts = records.all, []
    for group in dict.fromkeys(method.group for method in study.methods):
        methods = [method for method in study.methods if method.group == group]
        if not any(record["method"] in {m.name for m in methods} for record in found):
            continue
        parts += [f"### {group}" if group else "", values_table(study, methods, found)]
        if differences := differences_table(study, methods, found):
            parts += ["Differences to a baseline, paired by seed:", differences]
    if records.regions:
        parts += ["### Region sources", regions_table(records.regions["sources"])]
    if records.cost:
        parts += ["### Cost", cost_table(study, records)]
    return [part for part in parts if part]


def _state(study: Study, records: Sequence[Record]) -> str:
    planned = sum(map(study.seeds_of, study.methods))
    hours = sum(record["seconds"] for record in records) / 3600
    text = f"{len(records)} of {planned} runs are in; their pre-training took {hours:.1f} hours in all."
    if len(records) < planned:
        missing = [
            f"{method.label}{f' ({method.group})' if method.group else ''} {has} of {wants}"
            for method in study.methods
            if (wants := study.seeds_of(method))
            > (has := sum(record["method"] == method.name for record in records))
        ]
        text += f" Not run yet: {', '.join(missing)}."
    return text


def values_table(study: Study, methods: Sequence[Method], records: Sequence[Record]) -> str:
    """Tabulates mean ± standard deviation over seeds, one row per method and one column per metric."""
    rows = []
    for method in methods:
        own = [record for record in records if record["method"] == method.name]
        if not own:
            continue
        cells = [_mean(metric, records, method.name) for metric in study.metrics]
        rows.append([method.label, f"{own[0]['views']:,}", len(own), *cells])
    return _table(["method", "views", "n", *(metric.label for metric in study.metrics)], rows)


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Builds a table, omitting metrics that none of its methods has."""
    kept = [i for i in range(len(headers)) if any(row[i] != "-" for row in rows)]
    return table([headers[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _mean(metric: Metric, records: Sequence[Record], method: str) -> str:
    found = [
        metric.scale * value
        for value in values(records, method, metric.stage, metric.names).values()
    ]
    if not found:
        return "-"
    mean, deviation = mean_and_deviation(found)
    text = f"{mean:.{metric.digits}f}"
    return text if len(found) < 2 else f"{text} ± {deviation:.{metric.digits}f}"


def differences_table(study: Study, methods: Sequence[Method], records: Sequence[Record]) -> str:
    """Tabulates each method's differences to its baselines; empty if none has two seeds."""
    rows = []
    for method in methods:
        for name in method.baselines:
            cells = [
                _told(metric, _difference(metric, method.name, name, records))
                for metric in study.metrics
            ]
            if any(cell != "-" for cell in cells):
                rows.append([method.label, study.method(name).label, *cells])
    if not rows:
        return ""
    return _table(["method", "baseline", *(metric.label for metric in study.metrics)], rows)


def _difference(
    metric: Metric, method: str, baseline: str, records: Sequence[Record]
) -> Difference | None:
    """The difference, if the two have at least two seeds in common."""
    own, other = (values(records, name, metric.stage, metric.names) for name in (method, baseline))
    found = paired_difference(own, other)
    return found if found and found.n > 1 else None


def _told(metric: Metric, difference: Difference | None) -> str:
    if difference is None:
        return "-"
    digits, scale = metric.digits, metric.scale
    mean, low, high = (
        f"{scale * value:+.{digits}f}" for value in (difference.mean, *difference.bootstrap)
    )
    text = f"{mean} [{low}, {high}]"
    return f"**{text}**" if difference.significant else text


def _bars(study: Study, records: Sequence[Record]) -> list[tuple[str, float, float, float, bool]]:
    """Label, mean, interval ends and whether it is significant, for the first metric and baselines."""
    metric = study.metrics[0]
    bars = []
    for method in study.methods:
        if not method.baselines:
            continue
        found = _difference(metric, method.name, method.baselines[0], records)
        if found and math.isfinite(found.mean):
            mean, low, high = (metric.scale * x for x in (found.mean, *found.bootstrap))
            twice = sum(other.label == method.label for other in study.methods) > 1
            name = f"{method.label}, {method.group}" if twice else method.label
            bars.append((f"{name} (n={found.n})", mean, low, high, found.significant))
    return bars


def lines_over_views(
    study: Study, records: Sequence[Record]
) -> dict[str, list[tuple[float, float, float]]]:
    """Thousands of views, mean and standard deviation of the first metric for each line's methods."""
    metric = study.metrics[0]
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for method in study.methods:
        by_seed = values(records, method.name, metric.stage, metric.names)
        if not method.line or not by_seed:
            continue
        found = [metric.scale * value for value in by_seed.values()]
        views = next(record["views"] for record in records if record["method"] == method.name)
        lines.setdefault(method.line, []).append((views / 1000, *mean_and_deviation(found)))
    return lines


def cost_table(study: Study, records: Records) -> str:
    """Tabulates the cost of each method's training step, as measured side by side.

    Methods of the same label and cost share a row; those that do not train have none.
    """
    rows = [
        (
            method.label,
            cost["parameters"] / 1e6,
            cost["gmacs"],
            cost["views_per_second"],
            cost["saved_mib"],
        )
        for method in study.methods
        if method.views and (cost := records.cost.get(method.name))
    ]
    headers = ["method", "M parameters", "GMACs per view", "views per second", "MiB kept per view"]
    return table(headers, list(dict.fromkeys(rows)))
