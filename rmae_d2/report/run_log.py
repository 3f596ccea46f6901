"""What a run's log.txt says: when and how it was started, where it ran, how it ended.

The log is text for people. What a line does not say stays None or empty; nothing here fails on a cut or
foreign line, and nothing of the log is ever executed.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

#: Lines of Detectron2's file logger; what follows without such a beginning belongs to the line above.
_LINE = re.compile(r"\[(\d\d/\d\d \d\d:\d\d:\d\d)\] (\S+) ([A-Z]+): (.*)")

#: Of Detectron2's table of the environment, in the order of the page.
_PACKAGES = (
    ("Python", "Python"),
    ("PyTorch", "PyTorch"),
    ("torchvision", "torchvision"),
    ("detectron2", "Detectron2"),
    ("numpy", "numpy"),
    ("Pillow", "Pillow"),
    ("GPU available", "GPU available"),
    ("Driver version", "driver"),
)

_MAX_LINE = 20_000  # characters; a longer one is cut
_MAX_LINES = 200  # of one message
_MAX_WARNINGS = 20  # different ones


@dataclass
class Start:
    """One start of a run: the first, or one with ``--resume``.

    Attributes:
        began, ended: times of its first and last line as the log writes them, month/day, no year.
        arguments: of ``rmae-d2 train``.
        launched: "started alone", or by which launcher.
        environment: names and versions, without the folders the log has beside them.
        code: version and commit of rmae_d2, where the log has them.
        model: "RMAE: 3.5 M trainable parameters".
        num_images, batch_size, precision, device: of the training.
        resumed_at: the first iteration after a resume.
        last_iter: the last that it printed.
        outcome: how it ended; empty where the log does not say.
        results: the last evaluation, by task.
        warnings: how often each was given.
    """

    began: str
    ended: str
    arguments: dict[str, Any] = field(default_factory=dict)
    launched: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    code: str = ""
    model: str = ""
    num_images: int | None = None
    batch_size: int | None = None
    precision: str = ""
    device: str = ""
    resumed_at: int | None = None
    last_iter: int | None = None
    outcome: str = ""
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From its first line to its last; New Year may lie between."""
        # A leap year, for the log may be of one.
        first, last = (_moment(text, 2000) for text in (self.began, self.ended))
        if first is None or last is None:
            return 0.0
        if last < first:
            last += timedelta(days=366)
        return (last - first).total_seconds()

    @property
    def overrides(self) -> list[str]:
        """``KEY=VALUE`` of its command."""
        opts = self.arguments.get("opts")
        return [str(opt) for opt in opts] if isinstance(opts, list) else []


def read_log(path: Path) -> list[Start]:
    """The starts that a log.txt tells of, in its order.

    Args:
        path: of the log; where there is none, nothing was started.
    """
    if not path.is_file():
        return []
    starts: list[Start] = []
    task: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for moment, name, level, text in _messages(lines):
            if not starts or _begins(starts[-1], name, text):
                starts.append(Start(moment, moment))
            start = starts[-1]
            start.ended = moment
            _note(start, name, level, text)
            task = _note_result(start, text, task)
    return starts


def date_of(start: Start, epochs: Iterable[int]) -> str:
    """The date and time of a start: with its year where a TensorBoard file of about that day tells it.

    Args:
        start: what to date.
        epochs: seconds in the names of TensorBoard's files.
    """
    for epoch in epochs:
        near = datetime(1970, 1, 1) + timedelta(seconds=epoch)
        for year in (near.year - 1, near.year, near.year + 1):
            moment = _moment(start.began, year)
            # The log's clock is local time: up to 14 hours from UTC.
            if moment is not None and abs((moment - near).total_seconds()) < 2 * 86400:
                return moment.strftime("%Y-%m-%d %H:%M:%S")
    return start.began


def _moment(text: str, year: int) -> datetime | None:
    try:
        return datetime.strptime(f"{year}/{text}", "%Y/%m/%d %H:%M:%S")
    except ValueError:
        return None


def _messages(lines: Iterable[str]) -> Iterator[tuple[str, str, str, str]]:
    """Time, logger, level and text of each message; lines without a beginning go with the one before."""
    head: tuple[str, str, str] | None = None
    body: list[str] = []
    for line in lines:
        line = line.rstrip("\n")[:_MAX_LINE]
        if match := _LINE.match(line):
            if head:
                yield (*head, "\n".join(body))
            head, body = (match.group(1), match.group(2), match.group(3)), [match.group(4)]
        elif len(body) < _MAX_LINES:
            body.append(line)
    if head:
        yield (*head, "\n".join(body))


def _begins(current: Start, name: str, text: str) -> bool:
    """Whether a message is the first of another start."""
    if name != "rmae_d2.engine.train":
        return False
    return text.startswith("environment:") or (
        "; command line: {" in text and bool(current.arguments)
    )


def _note(start: Start, name: str, level: str, text: str) -> None:
    if name == "rmae_d2.engine.train":
        _note_beginning(start, text)
    if name == "rmae_d2.engine.checkpointer" and (
        m := re.match(r"resumed at iteration (\d+)", text)
    ):
        start.resumed_at = int(m.group(1))
    if match := re.search(r"(?:^|  )iter: (\d+)", text[:200]):
        start.last_iter = int(match.group(1))
    if match := re.match(r"stopped by (\w+) after iteration (\d+)", text):
        start.outcome = f"stopped by {match.group(1)} after iteration {match.group(2)}"
    elif level == "WARNING":
        _note_warning(start, text.partition("\n")[0])
    if level == "ERROR" and text.startswith("Exception during training"):
        last = [line for line in text.splitlines() if line.strip()][-1]
        start.outcome = f"failed: {last}"


def _note_warning(start: Start, text: str) -> None:
    """Counts a warning; those that differ in numbers only are one."""
    alike = (w for w in start.warnings if _without_numbers(w) == _without_numbers(text))
    known = next(alike, text)
    if known in start.warnings or len(start.warnings) < _MAX_WARNINGS:
        start.warnings[known] = start.warnings.get(known, 0) + 1


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "0", text)


def _note_beginning(start: Start, text: str) -> None:
    """What ``engine/train.py`` logs."""
    if text.startswith("environment:"):
        start.environment = _environment(text)
    elif "; command line: {" in text:
        said, _, arguments = text.partition("; command line: ")
        start.arguments = _literal(arguments)
        code, _, launched = said.rpartition("; ")
        start.code, start.launched = code, launched
    elif text.startswith("done:"):
        start.outcome = "finished"
    elif match := re.match(
        r"(\w+: [\d.]+ M trainable parameters); (\d+) images; (\d+) images a step; (\S+) on (\S+)",
        text,
    ):
        start.model, start.precision, start.device = match.group(1, 4, 5)
        start.num_images, start.batch_size = int(match.group(2)), int(match.group(3))


def _note_result(start: Start, text: str, task: list[str]) -> list[str]:
    """Detectron2 writes a result in three messages: the task, the names, the values."""
    said, _, rest = text.partition("copypaste: ")
    if said or not rest:
        return task
    if rest.startswith("Task: "):
        return [rest.removeprefix("Task: ")]
    if len(task) == 1:
        return [*task, *rest.split(",")]
    values = rest.split(",")
    if len(task) == len(values) + 1:
        pairs = zip(task[1:], map(_number, values), strict=True)
        start.results[task[0]] = {name: value for name, value in pairs if value is not None}
    return []


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _environment(text: str) -> dict[str, str]:
    """Versions; folders, which Detectron2 writes after an ``@``, are left out."""
    table = {}
    for line in text.splitlines():
        if match := re.match(r"(\S(?: ?\S)*) {2,}(\S.*)", line):
            table[match.group(1)] = match.group(2).partition(" @")[0].strip()
    found = {shown: table[name].partition(" (")[0] for name, shown in _PACKAGES if name in table}
    gpus = {k: v for k, v in table.items() if re.fullmatch(r"GPU [\d,]+", k)}
    return found | {k: v for k, v in sorted(gpus.items())}


def _literal(text: str) -> dict[str, Any]:
    """The dict that ``vars(args)`` was printed as; literals only."""
    try:
        value = ast.literal_eval(text.splitlines()[0])
    except (ValueError, SyntaxError, MemoryError, RecursionError, IndexError):
        return {}
    return value if isinstance(value, dict) else {}
