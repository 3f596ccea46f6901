"""A run's own events, around those of its parts: how it was started, what it logs, how it ended."""

import argparse
import logging
import platform
import signal
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..config import config_root
from ..events import EventWriter, last_iteration, outcome, read_run, split_starts
from .hooks import StoppedBySignal
from .provenance import describe_code

logger = logging.getLogger(__name__)

_FILE_ONLY = {"off_screen": True}
_WORDS: dict[type[BaseException], str] = {KeyboardInterrupt: "interrupted from the keyboard"}
_LOGGERS = ("fvcore", "detectron2", "rmae_d2")
_PACKAGES = ("torch", "torchvision", "detectron2", "numpy", "Pillow", "timm")


class RunEvents:
    """Writes ``start`` and ``versions`` on entry, warnings and errors while inside, ``end`` on exit.

    Args:
        folder: ``train.output_dir``; only the main process writes there.
        args: of the command.
        launched: how this process was started, human-readable.
    """

    def __init__(self, folder: str, args: argparse.Namespace, launched: str) -> None:
        self.writer = EventWriter(folder if comm.is_main_process() else None)
        self.args = args
        self.launched = launched
        self._handler = _Handler(self.writer)

    def __enter__(self) -> EventWriter:
        self.writer.write(
            "start",
            arguments=vars(self.args),
            launched=self.launched,
            processes=comm.get_world_size(),
        )
        if comm.is_main_process():
            self.writer.write("versions", versions=versions())
            _listen(self._handler)
        return self.writer

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, StoppedBySignal):
            text = (
                f"stopped by {signal.Signals(error.number).name} after iteration {error.iteration}"
            )
            self.writer.write("end", outcome="stopped", text=text)
        elif error is not None:
            text = str(error) or _WORDS.get(type(error), "")
            # log.txt has an error in training with its traceback; this says that it ended the run.
            logger.error("the run ended", exc_info=(type(error), error, None), extra=_FILE_ONLY)
            self.writer.write("error", type=type(error).__name__, text=text)
            self.writer.write("end", outcome="failed")
            return  # what ended the other ranks is yet to be logged
        else:
            outcome = "evaluated" if self.args.eval_only else "finished"
            self.writer.write("end", outcome=outcome)
        stop_listening()


class _Handler(logging.Handler):
    """Turns warnings and errors into events; exceptions are written when they end the run."""

    def __init__(self, writer: EventWriter) -> None:
        super().__init__(logging.WARNING)
        self.writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is None:
            event = "error" if record.levelno >= logging.ERROR else "warning"
            self.writer.write(event, text=record.getMessage(), logger=record.name)


def stop_listening() -> None:
    """Stop turning log records into events."""
    _listen(None)


def _listen(handler: _Handler | None) -> None:
    """Make this the only run that receives log records."""
    for name in _LOGGERS:
        handlers = logging.getLogger(name).handlers
        handlers[:] = [h for h in handlers if not isinstance(h, _Handler)]
        handlers += [handler] if handler else []


def write_config(writer: EventWriter, cfg: DictConfig, base: DictConfig, file: str) -> None:
    """Write the event ``config``.

    Args:
        writer: of the run.
        cfg: the config that is run.
        base: the config before overrides.
        file: the file that it was loaded from.
    """
    path, root = Path(file).resolve(), config_root()
    name = f"configs/{path.relative_to(root).as_posix()}" if path.is_relative_to(root) else file
    try:
        config = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException:  # a dangling reference, which building would have reported
        config = OmegaConf.to_container(cfg)
    changed = _differences(OmegaConf.to_container(base), OmegaConf.to_container(cfg))
    writer.write("config", config=config, base=name, changed=changed)


def _differences(base: Any, run: Any, key: str = "") -> dict[str, dict[str, Any]]:
    """Map dotted keys to the values of ``base`` and ``run``, leaving out the side that lacks the key."""
    if str(base) == str(run):  # copies of a functools.partial are not equal
        return {}
    sides = {n: v for n, v in {"base": base, "run": run}.items() if v is not _ABSENT}
    children = [_children(value) for value in sides.values()]
    if not all(children):
        return {key: sides}
    found: dict[str, dict[str, Any]] = {}
    for name in sorted({name for values in children for name in values}):
        old, new = (_children(v).get(name, _ABSENT) for v in (base, run))
        found |= _differences(old, new, f"{key}.{name}" if key else name)
    return found


_ABSENT = object()


def _children(value: Any) -> dict[str, Any]:
    """Children by name; a list of plain values counts as one value."""
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        value = dict(enumerate(value))
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def describe_before(folder: Path, iteration: int) -> str:
    """How the training that a start continues came to its end, human-readable.

    Args:
        folder: the run's folder, in which this start has already been recorded.
        iteration: the first iteration of this start.
    """
    events, _ = read_run(folder)
    trained = [s for s in split_starts(events)[:-1] if not is_evaluation(s[0])]
    ended = outcome(trained[-1]) or "did not say how it ended (it was killed)" if trained else ""
    last = last_iteration(events)
    again = 0 if last is None else max(last + 1 - iteration, 0)
    lost = f"; {again} iterations are trained again" if again else ""
    return f"the last start {ended or 'was one of 0.1, which kept no events'}{lost}"


def is_evaluation(start: dict[str, Any]) -> bool:
    """Whether a start, given its event, was one with ``--eval-only``."""
    arguments = start.get("arguments")
    return isinstance(arguments, dict) and bool(arguments.get("eval_only"))


def versions() -> dict[str, Any]:
    """Software and hardware: this package with its commit, Python, the relevant packages, the GPUs."""
    found = {
        "rmae_d2": describe_code().removeprefix("rmae_d2 "),
        "Python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # importable without being installed
            found[package] = "without a version"
    found["torch"] = torch.__version__  # with the kind of build
    for i in range(torch.cuda.device_count()):
        found[f"GPU {i}"] = torch.cuda.get_device_name(i)
    return found
