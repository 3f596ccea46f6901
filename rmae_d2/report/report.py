"""A single HTML file about a run that opens from disk and needs nothing else: ``rmae-d2 report``.

All of it comes from the run's folder, and nothing in it is executed. The same files give the same bytes.
"""

import json
import math
import re
import shlex
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from ..errors import UserError
from ..events import HEADLINES, Event, Point
from ..files import NotAFileError, check_file, leads_out
from ..visualization.samples import MAX_SAMPLES, MAX_WIDTH, kept_samples
from .charts import MAX_POINTS, draw_chart
from .html import jpeg_uri, write_page
from .run_record import Run, Start, begins_with, find_transfers, read_folder

#: Meaning of the values of a training step, in page order; the others follow, sorted by name.
_MEANINGS = {
    "lr": "learning rate",
    "grad_norm": "norm of the gradient",
    "mask_entropy": "entropy of the learned masks, share of the largest",
    "discriminator_accuracy": "share of the mask discriminator's verdicts that are right",
    "chosen_foreground": "share of the mask generator's probability on objects",
    "hidden_foreground": "share of hidden patches on objects",
    "all_foreground": "share of all patches on objects",
    "images_per_second": "images per second",
    "data_wait": "waiting for images, share of the time",
    "mfu": "model FLOPs utilisation, share of the device's peak",
    "memory_mib": "peak memory in MiB",
    "time": "seconds per iteration",
}

#: Values that the page shows elsewhere or that are of no use after the run.
_LEFT_OUT = {"eta_seconds", "data_time", "rank_data_time", "total_loss"}

#: Suffix of evaluation results that need no model.
_BASELINE = "_nearest"

_MAX_PIXELS = 50_000_000  # of a picture to be opened
_MAX_CHARTS = 24
_MAX_CURVES = 12  # per chart
_MAX_LINES = 50  # of warnings, and of images that could not be read
_ABSENT = "not recorded"

#: A path; in quotes, it may contain spaces.
_PATH = re.compile(
    r"""(['"])(?:/|[A-Za-z]:\\)[^'"\n]+\1"""
    r"""|(?:file://|(?<![\w/.:~<…-]))(?:/[^\s'"`,;()<>|/]|[A-Za-z]:\\)[^\s'"`,;()<>|]*"""
)


def write_report(
    folder: str | Path, transfers: Sequence[str | Path] = (), output: str | Path | None = None
) -> Path:
    """Write a run's page.

    Args:
        folder: the run's ``train.output_dir``.
        transfers: folders of runs initialized from its weights; sibling folders are found automatically.
        output: file to write; by default ``report.html`` in the run's folder.

    Raises:
        UserError: one of the folders is not a run, or the page cannot be written.
    """
    run = read_folder(folder)
    others = [read_folder(other) for other in transfers]
    given = {other.folder for other in others}
    others += [read_folder(path) for path in find_transfers(run) if path not in given]
    path = Path(output) if output is not None else Path(folder) / "report.html"
    try:
        check_file(path)
    except NotAFileError as error:
        raise UserError(f"{path}: {error.strerror}: give another --output") from error
    write_page(path, Path(__file__).with_name("page.html"), _content(run, others))
    return path


def _content(run: Run, others: Sequence[Run]) -> dict[str, Any]:
    """The values shown by the template."""
    pictures, broken = embed_pictures(run.folder)
    warned = list(_warnings(run).items())[:_MAX_LINES]
    skipped = {str(e.get("file")): str(e.get("reason")) for e in _all(run, "skipped")}
    config = _last_said(run.starts, "config")
    return {
        "title": f"{run.name}: {run.kind}",
        "name": run.name,
        "kind": run.kind,
        "size": _size(run),
        "status": shorten_paths(run.status),
        "finished": run.status in ("finished", "evaluated"),
        "facts": _facts(run),
        "command": [_command(start) for start in run.starts[-1:]],
        "problems": [*run.problems, *broken],
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
        "config": run.config_text,
        "base": shorten_paths(str(config.get("base", ""))),
        "changed": _changed(config),
        "unsaid": "run.jsonl does not tell; runs of 0.1 have that in log.txt alone",
        "environment": _environment(run),
        "starts": [_start_row(start) for start in run.starts],
        "warnings": [(shorten_paths(w), n) for w, n in warned],
        "skipped": [
            (Path(f).name, shorten_paths(r)) for f, r in list(skipped.items())[:_MAX_LINES]
        ],
    }


def shorten_paths(text: str) -> str:
    """Remove a machine's folders from a text: absolute paths become their last part, e.g. ``…/x.jpg``."""

    def last(match: re.Match[str]) -> str:
        quote = match[1] or ""
        parts = [part for part in re.split(r"[/\\]", match[0].strip(quote or " ")) if part]
        return f"{quote}…/{parts[-1]}{quote}"

    return _PATH.sub(last, text)


def _all(run: Run, kind: str) -> list[Event]:
    return [event for event in run.events if event["event"] == kind]


def _last_said(starts: Sequence[Start], kind: str) -> Event:
    """The last event of a kind; empty if no start has one."""
    return next((said for start in reversed(starts) if (said := start.said(kind))), {})


def _warnings(run: Run) -> Counter[str]:
    """Count each warning; texts that differ only in numbers count as the same one."""
    texts = [str(event.get("text", "")).partition("\n")[0] for event in _all(run, "warning")]
    first: dict[str, str] = {}
    return Counter(first.setdefault(re.sub(r"\d+", "0", text), text) for text in texts)


def _changed(config: Event) -> list[tuple[str, str | None, str | None]]:
    """Key and values of every difference from the base config; None on the side that lacks the key."""
    rows = config.get("changed")
    found = rows.items() if isinstance(rows, dict) else ()
    return [(key, _shown(values, "base"), _shown(values, "run")) for key, values in found]


def _shown(values: Any, side: str) -> str | None:
    if not isinstance(values, dict) or side not in values:
        return None
    value = values[side]
    return value if isinstance(value, str) and value else json.dumps(value)


def _facts(run: Run) -> list[tuple[str, str]]:
    """The tiles at the top: name and value."""
    facts = []
    if run.done is not None:
        planned = f" of {run.max_iter:,}" if run.max_iter else ""
        facts.append(("iterations", f"{run.done:,}{planned}"))
    facts += [(f"{n}, last", _number(run.scalars[n][-1][1])) for n in _losses(run)[:4]]
    facts += [(n, _beside_baseline(run, n)) for n in HEADLINES if n in run.results]
    if seconds := sum(start.seconds for start in run.trained or run.starts):
        # The events of a run begun with version 0.1 start with a resume.
        first = run.trained[0].said("resume").get("iteration") if run.trained else None
        name = f"wall time from iteration {first}" if first else "wall time"
        facts.append((name, _duration(seconds)))
    if setup := _last_said(run.trained, "setup"):
        facts.append(("images per step", str(setup.get("images_a_step"))))
        facts.append(("device", f"{setup.get('device')}, {setup.get('precision')}"))
    facts.append(("started", run.starts[0].date if run.starts else _ABSENT))
    return facts


def _beside_baseline(run: Run, name: str) -> str:
    value, baseline = (run.results.get(n, []) for n in (name, name + _BASELINE))
    text = _number(value[-1][1])
    return f"{text} (nearest patch {_number(baseline[-1][1])})" if baseline else text


def _size(run: Run) -> str:
    """Describe the encoder's size."""
    names = ("embed_dim", "depth", "patch_size", "img_size")
    width, depth, patch, side = (run.get(f"model.backbone.net.{name}") for name in names)
    if not all(isinstance(value, int) for value in (width, depth, patch)):
        return ""
    image = f", images of {side} pixels" if isinstance(side, int) else ""
    return f"ViT of {depth} blocks, width {width}, patches of {patch} pixels{image}"


def _command(start: Start) -> str:
    """Reconstruct the command line of a start from its arguments."""
    given = start.arguments
    if not given:
        return _ABSENT
    base = start.said("config").get("base") or given.get("config_file", "")
    parts = ["rmae-d2 train --config-file", _quoted(shorten_paths(str(base)))]
    for flag in ("num_gpus", "num_machines"):
        if given.get(flag, 1) != 1:
            parts.append(f"--{flag.replace('_', '-')} {given[flag]}")
    parts += [
        f"--{f.replace('_', '-')}" for f in ("resume", "eval_only", "profile") if given.get(f)
    ]
    return " ".join([*parts, *map(_quoted, start.overrides)])


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w@%+=:,./…-]+", text) else shlex.quote(text)


def _losses(run: Run) -> list[str]:
    """Names of the losses, the total first."""
    names = [n for n in run.scalars if "loss" in n and "/" not in n]
    return sorted(names, key=lambda name: (name != "total_loss", name))


def _loss_charts(run: Run) -> list[Any]:
    names = _losses(run)
    if not names:
        return []
    curves = [(name, run.scalars[name]) for name in names[:_MAX_CURVES]]
    svg = draw_chart(curves, "losses", size=(11, 3.8), legend=True, may_be_log=True)
    single = [_chart(run.scalars, [name], "loss") for name in names[1:_MAX_CHARTS]]
    return [("", Markup(svg)), *(single if len(names) > 2 else [])]


def _scalar_charts(run: Run) -> list[Any]:
    """Charts of training-step values that vary."""
    left = [n for n in _plain_scalars(run) if len({y for _, y in run.scalars[n]}) > 1]
    order = [n for n in _MEANINGS if n in left] + sorted(n for n in left if n not in _MEANINGS)
    return [_chart(run.scalars, [name], "scalar") for name in order[:_MAX_CHARTS]]


def _constants(run: Run) -> list[tuple[str, str]]:
    alone = [n for n in _plain_scalars(run) if len({y for _, y in run.scalars[n]}) == 1]
    return [(name, _number(run.scalars[name][0][1])) for name in sorted(alone)]


def _plain_scalars(run: Run) -> list[str]:
    apart = {*_losses(run), *_LEFT_OUT}
    return [name for name in run.scalars if name not in apart]


def _is_of_one_class(name: str) -> bool:
    """Whether a result belongs to a single class, such as ``sem_seg/IoU-grass``."""
    return "-" in name.rpartition("/")[2]


def _headlines_first(names: Iterable[str]) -> list[str]:
    found = sorted(name for name in names if not _is_of_one_class(name))
    return [n for n in HEADLINES if n in found] + [n for n in found if n not in HEADLINES]


def _evaluation_charts(run: Run) -> list[Any]:
    """Charts of results measured more than once, together with the baseline of the same name, if any."""
    often = _headlines_first(n for n, points in run.results.items() if len(points) > 1)
    beside = {n + _BASELINE for n in often}
    groups = [[n, *({n + _BASELINE} & {*often})] for n in often if n not in beside]
    return [_chart(run.results, names, "result") for names in groups[:_MAX_CHARTS]]


def _chart(scalars: dict[str, list[Point]], names: Sequence[str], group: str) -> tuple[str, Any]:
    """Caption and SVG, which escapes its own text; several values get a legend."""
    meaning = f": {_MEANINGS[names[0]]}" if names[0] in _MEANINGS else ""
    last = ", ".join(_number(scalars[name][-1][1]) for name in names)
    label = re.sub(r"[^A-Za-z0-9]+", "-", f"{group}-{names[0]}")
    curves = [(name.rpartition("/")[2], scalars[name]) for name in names]
    svg = draw_chart(curves, label, legend=len(names) > 1, may_be_log=names[0] == "grad_norm")
    return f"{' and '.join(names)}{meaning}; last {last}", Markup(svg)


def _rows(run: Run, one_class: bool) -> list[dict[str, str]]:
    """One row per result: first, last, lowest, highest, and the iteration of the last."""
    rows = []
    for name in sorted(n for n in run.results if _is_of_one_class(n) == one_class):
        points = run.results[name]
        values = [y for _, y in points if math.isfinite(y)]
        iteration, last = points[-1]
        row = {
            "name": name,
            "last": _number(last),
            "after": "evaluation alone" if math.isnan(iteration) else f"{iteration:,.0f}",
            "times": str(len(points)),
            "data": shorten_paths(", ".join(run.measured_on.get(name, ()))) or _ABSENT,
            "lowest": _number(min(values)) if values else "",
            "highest": _number(max(values)) if values else "",
        }
        rows.append(row)
    return rows


def _transfers(run: Run, others: Iterable[Run]) -> list[dict[str, Any]]:
    """One table per task, with results as columns and runs as rows."""
    tables: dict[str, list[Run]] = defaultdict(list)
    for other in others:
        tables[other.kind].append(other)
    shown = []
    for kind, runs in sorted(tables.items()):
        names = _headlines_first({name for other in runs for name in other.results})[:8]
        rows = [_transfer_row(run, other, names) for other in runs]
        # All result names of a task share a prefix.
        tasks = {name.rpartition("/")[0] for name in names}
        metrics = [n.rpartition("/")[2] if len(tasks) == 1 else n for n in names]
        shown.append({"kind": kind, "metrics": metrics, "rows": rows})
    return shown


def _transfer_row(run: Run, other: Run, names: Sequence[str]) -> dict[str, Any]:
    init = Path(other.init_checkpoint.partition("?")[0]).name
    is_of_run = begins_with(other, run)
    named = str(other.starts[0].arguments.get("config_file", "")) if other.starts else _ABSENT
    return {
        "name": other.name,
        "config": Path(named).name,
        "is_of_run": is_of_run,
        "init": init if is_of_run else f"no: {init or 'random weights'}",
        "status": shorten_paths(other.status),
        "iterations": "none" if other.done is None else f"{other.done:,}",
        "values": [_number(other.results[n][-1][1]) if n in other.results else "" for n in names],
    }


def _environment(run: Run) -> list[tuple[str, str]]:
    """The environment of the last start that recorded it."""
    found = _last_said(run.starts, "versions").get("versions")
    setup = _last_said(run.trained, "setup")
    rows = found.items() if isinstance(found, dict) else [("versions", _ABSENT)]
    launched = run.starts[-1].events[0].get("launched") if run.starts else None
    count = setup.get("parameters")
    size = f"{count / 1e6:.1f} M" if isinstance(count, int) else count
    model = f"{setup.get('model')}: {size} trainable parameters" if setup else _ABSENT
    return [
        *((str(name), str(version)) for name, version in rows),
        ("device", f"{setup.get('device')}, {setup.get('precision')}" if setup else _ABSENT),
        ("processes", str(launched or _ABSENT)),
        ("model", model),
        ("began with", run.init_checkpoint or "random weights"),
        ("training images", str(setup.get("images", _ABSENT))),
    ]


def _start_row(start: Start) -> dict[str, str]:
    begun = "evaluation" if start.is_evaluation else "training"
    if (iteration := start.said("resume").get("iteration")) is not None:
        begun = f"resumed at iteration {iteration}"
    return {
        "date": start.date,
        "what": begun,
        "time": _duration(start.seconds),
        "outcome": shorten_paths(start.outcome) or "it was killed, or goes on",
        "command": _command(start),
    }


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


def embed_pictures(run: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The run's stored and last pictures, as ``caption`` and ``uri``; and a line for each unreadable one."""
    kept = kept_samples(run)
    # The hook keeps fewer; if someone added more, they are thinned evenly, keeping the last.
    step = -(-len(kept) // (MAX_SAMPLES + 2)) or 1
    chosen = [(f"after {n:,} iterations", kept[n]) for n in list(kept)[::-1][::step][::-1]]
    final = run / "reconstruction.png"
    if final.exists():
        chosen.append(("the run's last picture, of more samples", final))
    shown, broken = [], []
    for caption, path in chosen:
        if leads_out(path, run):
            broken.append(f"{path.name}: not read, it is a link out of the run's folder")
            continue
        try:
            check_file(path)
            shown.append({"caption": caption, "uri": _data_uri(path)})
        except NotAFileError as error:
            broken.append(f"{path.name}: {error.strerror}")
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
            broken.append(f"{path.name}: not a picture that can be read ({type(error).__name__})")
    return shown, broken


def _data_uri(path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=("PNG",)) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise UserError(f"over {_MAX_PIXELS} pixels")
            image = opened.convert("RGB")
    if image.width > MAX_WIDTH:
        height = max(round(image.height * MAX_WIDTH / image.width), 1)
        image = image.resize((MAX_WIDTH, height), Image.Resampling.LANCZOS)
    return jpeg_uri(image)
