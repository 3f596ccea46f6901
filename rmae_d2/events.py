"""Run events, recorded once: ``run.jsonl`` in the run's folder, one JSON object per line.

Every event has ``event``, its type, and ``time``; docs/run_jsonl.md lists them all. ``--resume`` appends.
Non-finite numbers are the strings NaN, Infinity and -Infinity.
"""

import json
import logging
import math
import numbers
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .files import leads_out

logger = logging.getLogger(__name__)

#: File name in a run's folder.
FILE = "run.jsonl"

Event = dict[str, Any]

#: Iteration and value.
Point = tuple[float, float]

#: Name parts before a "/" that mark evaluation results among the values of 0.1's metrics.json.
_TASKS = {
    "bbox",
    "box_proposals",
    "classification",
    "keypoints",
    "knn",
    "panoptic_seg",
    "reconstruction",
    "segm",
    "sem_seg",
}

#: Results to name first, if a run has them.
HEADLINES = (
    "reconstruction/region_iou",
    "bbox/AP",
    "segm/AP",
    "sem_seg/mIoU",
    "classification/top1",
    "knn/top1",
)

_MAX_NAME = 100  # characters of a value's name


class EventWriter:
    """Appends events to a run's file, each by a single write of a whole line.

    A kill therefore loses no event already written, and other processes may append too. A full disk is
    reported once and does not end the run.

    Args:
        folder: the run's folder; None writes nowhere, for processes other than the main one.

    Attributes:
        listeners: called with every event after it is written.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.path = None if folder is None else Path(folder) / FILE
        self.listeners: list[Callable[[Event], None]] = []
        self._begun = self._failed = False

    def write(self, event: str, **fields: Any) -> None:
        """Writes one event immediately.

        Args:
            event: its type.
            fields: its other fields; values that JSON cannot represent become text.
        """
        if self.path is None:
            return
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        content = plain({"event": event, "time": time, **fields})
        line = json.dumps(content, ensure_ascii=False)
        try:
            _append(self.path, line.encode(errors="replace") + b"\n")
            self._begun = True
        except OSError as error:
            # The folder of a failed start may be gone.
            gone = self._begun and isinstance(error, FileNotFoundError)
            if not (self._failed or gone):
                self._failed = True  # before the warning, which is an event too
                logger.warning("events are lost: %s could not be written (%s)", self.path, error)
        for listener in self.listeners:
            listener(content)


def _append(path: Path, line: bytes) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and _last_byte(file) != b"\n"
        os.write(file, b"\n" + line if torn else line)
    finally:
        os.close(file)


def _last_byte(file: int) -> bytes:
    os.lseek(file, -1, os.SEEK_END)  # appends still go to the end
    return os.read(file, 1)


def plain(value: Any) -> Any:
    """Converts a value for JSON; anything JSON cannot represent becomes text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) or getattr(value, "ndim", None) == 0:
        number = float(value)
        if math.isfinite(number):
            return number
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    if hasattr(value, "__qualname__"):  # classes and functions, by their names
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Iterable):
        return [plain(v) for v in value]
    return str(value)


def read_events(path: str | Path) -> tuple[list[Event], list[str]]:
    """Reads the events of a ``run.jsonl``, in order.

    Returns:
        Events, each with a text ``event``; and a note on every line that is not one, such as a line cut off
        by a kill. Both are empty if the file does not exist.
    """
    events: list[Event] = []
    notes = []
    for number, record in _records(Path(path)):
        if isinstance(record, dict) and isinstance(record.get("event"), str):
            events.append(record)
        else:
            notes.append(f"{Path(path).name}: line {number} is not whole and is left out")
    return events, notes


def read_run(folder: str | Path) -> tuple[list[Event], list[str]]:
    """Reads the events of a run's folder; for runs of 0.1, steps and evaluations from metrics.json.

    Returns:
        As `read_events`; links leading out of the folder are noted, not followed.
    """
    run, old_run = Path(folder) / FILE, Path(folder) / "metrics.json"
    outside = [path for path in (run, old_run) if leads_out(path, folder)]
    events, notes = ([], []) if run in outside else read_events(run)
    notes += [f"{path.name}: not read, it is a link out of the run's folder" for path in outside]
    # Read metrics.json up to here. At this iteration both agree, or the later event counts.
    begun = min((_iteration(e) for e in events if e["event"] == "step"), default=math.inf)
    old, lines = [], 0
    for _, record in _records(old_run) if old_run not in outside else ():
        lines += 1
        if isinstance(record, dict) and _iteration(record) <= begun:
            old += _events_of(record)
    if lines and not (old or events):
        notes.append("metrics.json: not Detectron2's, it has no iterations")
    return old + events, notes


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields number and content of each line; None if it is not JSON."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


def _events_of(record: Mapping[str, Any]) -> list[Event]:
    values: dict[str, Any] = {k: v for k, v in record.items() if k != "iteration"}
    names = [k for k in values if not _TASKS.isdisjoint(k.split("/")[:-1])]
    # Every step has a learning rate; evaluations after the last step have none.
    results = {k: values.pop(k) for k in (names if "lr" in values else list(values))}
    at = record["iteration"]
    step = [{"event": "step", "iteration": at, "values": values}] if values else []
    evaluation = [{"event": "evaluation", "iteration": at, "results": results}] if results else []
    return [*step, *evaluation]


def step_values(events: Iterable[Event]) -> dict[str, list[Point]]:
    """Collects the values of training steps over iterations, by name; later events of an iteration win."""
    return _curves((e for e in events if e["event"] == "step"), "values")


def results(events: Iterable[Event]) -> dict[str, list[Point]]:
    """Collects evaluation results over iterations, like `step_values`; at NaN without training."""
    return _curves((e for e in events if e["event"] == "evaluation"), "results")


def _curves(events: Iterable[Event], key: str) -> dict[str, list[Point]]:
    curves: dict[str, dict[float | None, float]] = {}
    for event in events:
        at = _iteration(event)
        for name, value in event[key].items() if isinstance(event.get(key), dict) else ():
            if (number := as_number(value)) is not None:
                # NaN, of an evaluation without training, cannot be a key: it does not equal itself.
                curves.setdefault(str(name)[:_MAX_NAME], {})[None if math.isnan(at) else at] = (
                    number
                )
    return {
        name: [(math.nan if x is None else x, y) for x, y in sorted(points.items(), key=_place)]
        for name, points in curves.items()
    }


def _place(point: tuple[float | None, float]) -> float:
    return math.inf if point[0] is None else point[0]


def as_number(value: object) -> float | None:
    """Converts a number of an event, or the string for a non-finite one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        return None
    try:
        return float(value)
    except OverflowError:  # from an integer
        return None


def _iteration(event: Mapping[str, Any]) -> float:
    number = as_number(event.get("iteration"))
    return math.nan if number is None or math.isinf(number) else number


def split_starts(events: Iterable[Event]) -> list[list[Event]]:
    """Splits events by start, each list beginning with ``start``; anything before the first is dropped."""
    starts: list[list[Event]] = []
    for event in events:
        if event["event"] == "start":
            starts.append([])
        if starts:
            starts[-1].append(event)
    return starts


def last_iteration(events: Iterable[Event]) -> int | None:
    """Returns the last trained iteration, as recorded by steps and checkpoints."""
    done = [_iteration(e) for e in events if e["event"] in ("step", "checkpoint")]
    return max((int(i) for i in done if not math.isnan(i)), default=None)


def outcome(start: Iterable[Event]) -> str:
    """Describes how a start ended; empty if not recorded, i.e. it was killed or is still running."""
    error = ""
    for event in start:
        text = str(event.get("text", ""))
        if event["event"] == "error":
            # The last error is the one all ranks agree on, after those each rank met first.
            error = f"failed: {': '.join(filter(None, (str(event.get('type', '')), text)))}"
        elif event["event"] == "end" and event.get("outcome") != "failed":
            return text or str(event.get("outcome"))
        elif event["event"] in ("step", "checkpoint", "evaluation"):
            error = ""  # it continued
    return error
