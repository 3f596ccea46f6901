"""One HTML file about a run, which opens from disk and needs nothing beside it: ``rmae-d2 report``.

All of it comes from the run's folder, and of that nothing is executed. The same files give the same bytes.
"""

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import config_root
from ..errors import UserError
from .charts import MAX_POINTS, Curve, Point, draw_chart
from .embedding import embed_pictures
from .page import as_safe, render
from .redaction import Redaction
from .run_config import Difference, RunConfig, compare, find_base, read_base
from .run_log import Start
from .run_record import Run, begins_with, find_transfers, is_of_one_class, read_run

#: What values of a training step mean, in the order of the page; others come after them by name.
_MEANINGS = {
    "lr": "learning rate",
    "grad_norm": "norm of the gradient",
    "mask_entropy": "entropy of the learned masks, share of the largest",
    "discriminator_accuracy": "share of the mask discriminator's verdicts that are right",
    "chosen_foreground": "share of the mask generator's probability on objects",
    "hidden_foreground": "share of hidden patches on objects",
    "all_foreground": "share of all patches on objects",
    "images_per_second": "images a second",
    "data_wait": "waiting for images, share of the time",
    "mfu": "model FLOPs utilisation, share of the device's peak",
    "memory_mib": "peak memory in MiB",
    "time": "seconds an iteration",
}

#: Said otherwise on the page, or of no use after the run.
_LEFT_OUT = {"eta_seconds", "data_time", "rank_data_time", "total_loss"}

#: Results to name first, where a run has them.
_HEADLINES = (
    "reconstruction/region_iou",
    "bbox/AP",
    "segm/AP",
    "sem_seg/mIoU",
    "classification/top1",
    "knn/top1",
)

#: Ends the names of what the evaluation has without a model.
_BASELINE = "_nearest"

_MAX_CHARTS = 24
_MAX_CURVES = 12  # of one chart
_ABSENT = "not recorded"


def write_report(
    folder: str | Path,
    transfers: Sequence[str | Path] = (),
    output: str | Path | None = None,
    base_config: str | Path | None = None,
) -> Path:
    """Writes the page of a run.

    Args:
        folder: the run's ``train.output_dir``.
        transfers: folders of runs that began with its weights; those beside it are found.
        output: where to; without, ``report.html`` in the run's folder.
        base_config: what to compare its config with; without, the config of this package that its log names.

    Raises:
        UserError: one of the folders is no run.
        UserError: ``base_config`` does not load.
    """
    run = read_run(folder)
    others = [read_run(other) for other in transfers]
    given = {other.folder for other in others}
    others += [read_run(path) for path in find_transfers(run) if path not in given]
    base = Path(base_config) if base_config is not None else None
    path = Path(output) if output is not None else Path(folder) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(_content(run, others, base)), encoding="utf-8")
    return path


def _content(run: Run, others: Sequence[Run], base: Path | None) -> dict[str, Any]:
    """What the template shows; see :mod:`.report_page`."""
    safe = _redaction(run)
    pictures, broken = embed_pictures(run.folder)
    return {
        "name": run.name,
        "kind": run.kind,
        "size": _size(run.config),
        "status": safe(run.status),
        "finished": run.status in ("finished", "evaluated"),
        "facts": _facts(run),
        "command": [_command(start, safe) for start in run.starts[-1:]],
        "problems": [safe(text) for text in [*run.problems, *broken]],
        "losses": _loss_charts(run),
        "pictures": pictures,
        "evaluations": _evaluation_charts(run),
        "results": _rows(run, one_class=False),
        "classes": _rows(run, one_class=True),
        "scalars": _scalar_charts(run),
        "constant": _constants(run),
        "thinned": any(len(points) > MAX_POINTS for points in run.scalars.values()),
        "max_points": MAX_POINTS,
        "transfers": _transfers(run, others),
        "config": run.config.text if run.config else None,
        "comparison": _comparison(run, base),
        "environment": [(k, safe(v)) for k, v in _environment(run)],
        "starts": [_start_row(run, start, safe) for start in run.starts],
        "warnings": [(safe(w), n) for start in run.starts for w, n in start.warnings.items()],
    }


def _redaction(run: Run) -> Redaction:
    return Redaction(run.folder, run.config.values.values() if run.config else ())


@dataclass(frozen=True)
class Comparison:
    """A config beside its base.

    Attributes:
        base: name of the base; empty where there is none to compare with.
        why: there is none.
        changed: values that differ.
        only_one: keys that one of them has alone.
    """

    base: str
    why: str
    changed: list[Difference]
    only_one: list[Difference]


def _comparison(run: Run, base: Path | None) -> Comparison:
    if run.config is None:
        return Comparison("", "the run has no config.yaml", [], [])
    named = [str(start.arguments.get("config_file", "")) for start in run.starts]
    path = base or next((found for name in named if (found := find_base(name))), None)
    if path is None:
        said = Path(named[0]).name if named and named[0] else ""
        why = f"its log names {said}, which is no config of this package" if said else ""
        return Comparison("", why or "its log names no config", [], [])
    try:
        rows = compare(read_base(path), run.config)
    except UserError as error:
        if base is not None:
            raise
        return Comparison("", str(error).replace(str(config_root()), "configs"), [], [])
    changed = [row for row in rows if row.base is not None and row.run is not None]
    only_one = [row for row in rows if row.base is None or row.run is None]
    return Comparison(_config_name(path), "", changed, only_one)


def _config_name(path: Path) -> str:
    root = config_root()
    resolved = path.resolve()
    within = resolved.is_relative_to(root)
    return f"configs/{resolved.relative_to(root).as_posix()}" if within else path.name


def _facts(run: Run) -> list[tuple[str, str]]:
    """The tiles at the top: name and value."""
    facts = []
    if run.done is not None:
        planned = f" of {run.max_iter:,}" if run.max_iter else ""
        facts.append(("iterations", f"{run.done:,}{planned}"))
    for name in _losses(run)[:4]:
        facts.append((f"{name}, last", _number(run.scalars[name][-1][1])))
    for name in _HEADLINES:
        if name in run.results:
            facts.append((name, _number(run.results[name][-1][1])))
    trained = [start for start in run.starts if not start.arguments.get("eval_only")]
    if seconds := sum(start.seconds for start in trained or run.starts):
        # The log of a run that was moved may begin with a resume.
        first = trained[0].resumed_at if trained else None
        facts.append(
            (f"wall time{f' from iteration {first}' if first else ''}", _duration(seconds))
        )
    if last := next((start for start in reversed(trained) if start.model), None):
        facts.append(("images a step", f"{last.batch_size}"))
        facts.append(("device", f"{last.device}, {last.precision}"))
    facts.append(("started", run.date(run.starts[0]).rpartition(":")[0] if run.starts else _ABSENT))
    return facts


def _size(config: RunConfig | None) -> str:
    """Of the encoder."""
    net = "model.backbone.net"
    if config is None or not config.has(net):
        return ""
    width, depth = config.get(f"{net}.embed_dim"), config.get(f"{net}.depth")
    patch, side = config.get(f"{net}.patch_size"), config.get(f"{net}.img_size")
    if not all(isinstance(value, int) for value in (width, depth, patch)):
        return ""
    image = f", images of {side} pixels" if isinstance(side, int) else ""
    return f"ViT of {depth} blocks, width {width}, patches of {patch} pixels{image}"


def _command(start: Start, safe: Redaction) -> str:
    """The command line of a start, put together from what its log has of it."""
    given = start.arguments
    if not given:
        return _ABSENT
    name = str(given.get("config_file", ""))
    base = find_base(name)
    parts = ["rmae-d2 train --config-file"]
    parts.append(_config_name(base) if base else _quoted(safe(name)))
    for flag in ("num_gpus", "num_machines"):
        if given.get(flag, 1) != 1:
            parts.append(f"--{flag.replace('_', '-')} {given[flag]}")
    parts += [
        f"--{f.replace('_', '-')}" for f in ("resume", "eval_only", "profile") if given.get(f)
    ]
    return " ".join([*parts, *(_quoted(safe(opt)) for opt in start.overrides)])


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w@%+=:,./…-]+", text) else shlex.quote(text)


def _losses(run: Run) -> list[str]:
    """Names of what is minimised, the sum first."""
    names = [n for n in run.scalars if "loss" in n and "/" not in n]
    return sorted(names, key=lambda name: (name != "total_loss", name))


def _loss_charts(run: Run) -> list[Any]:
    names = _losses(run)
    if not names:
        return []
    curves = [Curve(name, run.scalars[name]) for name in names[:_MAX_CURVES]]
    svg = draw_chart(curves, "losses", size=(11, 3.8), legend=True, may_be_log=True)
    single = [_chart(run.scalars, [name], "loss") for name in names[1:_MAX_CHARTS]]
    return [("", as_safe(svg)), *(single if len(names) > 2 else [])]


def _scalar_charts(run: Run) -> list[Any]:
    """Values of training steps that change."""
    left = [n for n in _plain_scalars(run) if len({y for _, y in run.scalars[n]}) > 1]
    order = [n for n in _MEANINGS if n in left] + sorted(n for n in left if n not in _MEANINGS)
    return [_chart(run.scalars, [name], "scalar") for name in order[:_MAX_CHARTS]]


def _constants(run: Run) -> list[tuple[str, str]]:
    alone = [n for n in _plain_scalars(run) if len({y for _, y in run.scalars[n]}) == 1]
    return [(name, _number(run.scalars[name][0][1])) for name in sorted(alone)]


def _plain_scalars(run: Run) -> list[str]:
    apart = {*_losses(run), *run.results, *_LEFT_OUT}
    return [name for name in run.scalars if name not in apart]


def _evaluation_charts(run: Run) -> list[Any]:
    """Results that were measured more than once; with those of a baseline, which have a name like theirs."""
    often = [n for n in sorted(run.results) if len(run.results[n]) > 1 and not is_of_one_class(n)]
    order = [n for n in _HEADLINES if n in often] + [n for n in often if n not in _HEADLINES]
    alone = [
        n for n in order if n.removesuffix(_BASELINE) == n or n.removesuffix(_BASELINE) not in often
    ]
    groups = [[n, *([n + _BASELINE] if n + _BASELINE in often else [])] for n in alone]
    return [_chart(run.results, names, "result") for names in groups[:_MAX_CHARTS]]


def _chart(scalars: dict[str, list[Point]], names: Sequence[str], group: str) -> tuple[str, Any]:
    """Caption and SVG; of several values with a legend."""
    meaning = f": {_MEANINGS[names[0]]}" if names[0] in _MEANINGS else ""
    last = ", ".join(_number(scalars[name][-1][1]) for name in names)
    label = re.sub(r"[^A-Za-z0-9]+", "-", f"{group}-{names[0]}")
    curves = [Curve(name.rpartition("/")[2], scalars[name]) for name in names]
    svg = draw_chart(curves, label, legend=len(names) > 1, may_be_log=names[0] == "grad_norm")
    return f"{' and '.join(names)}{meaning}; last {last}", as_safe(svg)


def _rows(run: Run, one_class: bool) -> list[dict[str, str]]:
    """A line a result: first, last, lowest, highest, and when the last was."""
    rows = []
    for name in sorted(run.results):
        if is_of_one_class(name) != one_class:
            continue
        points = run.results[name]
        values = [y for _, y in points if math.isfinite(y)]
        iteration = points[-1][0]
        rows.append(
            {
                "name": name,
                "last": _number(points[-1][1]),
                "after": "evaluation alone" if math.isnan(iteration) else f"{iteration:,.0f}",
                "times": str(len(points)),
                "lowest": _number(min(values)) if values else "",
                "highest": _number(max(values)) if values else "",
            }
        )
    return rows


def _transfers(run: Run, others: Iterable[Run]) -> list[dict[str, Any]]:
    """A table a task: its columns are results, its rows runs."""
    tables: dict[str, list[Run]] = {}
    for other in others:
        tables.setdefault(other.kind, []).append(other)
    shown = []
    for kind, runs in sorted(tables.items()):
        names = sorted({n for other in runs for n in other.results if not is_of_one_class(n)})
        names = [n for n in _HEADLINES if n in names] + [n for n in names if n not in _HEADLINES]
        rows = [_transfer_row(run, other, names[:8]) for other in runs]
        # One task's names all begin alike.
        tasks = {name.rpartition("/")[0] for name in names[:8]}
        metrics = [n.rpartition("/")[2] if len(tasks) == 1 else n for n in names[:8]]
        shown.append({"kind": kind, "metrics": metrics, "rows": rows})
    return shown


def _transfer_row(run: Run, other: Run, names: Sequence[str]) -> dict[str, Any]:
    named = [str(start.arguments.get("config_file", "")) for start in other.starts]
    init = Path(other.init_checkpoint.partition("?")[0]).name
    is_of_run = begins_with(other, run)
    return {
        "name": other.name,
        "config": Path(named[0]).name if named else _ABSENT,
        "is_of_run": is_of_run,
        "init": init if is_of_run else f"no: {init or 'random weights'}",
        "status": _redaction(other)(other.status),
        "iterations": "none" if other.done is None else f"{other.done:,}",
        "values": [_number(other.results[n][-1][1]) if n in other.results else "" for n in names],
    }


def _environment(run: Run) -> list[tuple[str, str]]:
    """Of the last start that tells."""
    last = next((start for start in reversed(run.starts) if start.environment), None)
    code = next((start.code for start in reversed(run.starts) if start.code), "")
    trained = next((start for start in reversed(run.starts) if start.model), None)
    return [
        ("rmae_d2", code.removeprefix("rmae_d2 ") or _ABSENT),
        *(last.environment.items() if last else [("PyTorch, Detectron2, ...", _ABSENT)]),
        ("device", f"{trained.device}, {trained.precision}" if trained else _ABSENT),
        ("processes", (last.launched if last else "") or _ABSENT),
        ("model", trained.model if trained else _ABSENT),
        ("began with", run.init_checkpoint or "random weights"),
        ("training images", f"{trained.num_images:,}" if trained else _ABSENT),
    ]


def _start_row(run: Run, start: Start, safe: Redaction) -> dict[str, str]:
    evaluation = bool(start.arguments.get("eval_only"))
    begun = "evaluation" if evaluation else "training"
    if start.resumed_at is not None:
        begun = f"resumed at iteration {start.resumed_at}"
    unsaid = "evaluated" if evaluation and start.results else "the log does not say how it ended"
    return {
        "date": run.date(start),
        "what": begun,
        "time": _duration(start.seconds),
        "outcome": safe(start.outcome) or unsaid,
        "command": _command(start, safe),
    }


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"
