"""Read a run from its folder: what was trained, how far it got, what was measured."""

import os
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from .. import events as run_events
from ..errors import UserError
from ..events import Event, Point
from ..files import leads_out

_MAX_BYTES = 1 << 20  # size limit of a config

_DETECTORS = {"GeneralizedRCNN", "PanopticFPN", "RetinaNet"}
_OTHERS = {
    "SlidingSemanticSegmentor": "semantic segmentation",
    "SemanticSegmentor": "semantic segmentation",
    "Classifier": "image classification",
    "FeatureExtractor": "k-NN classification of frozen features",
}


@dataclass(frozen=True)
class Start:
    """One start of a run: the first one, a ``--resume``, or an evaluation."""

    events: list[Event]  # the first is ``start``

    def said(self, kind: str) -> Event:
        """The last event of a kind; empty if there is none."""
        return next((event for event in reversed(self.events) if event["event"] == kind), {})

    @property
    def arguments(self) -> dict[str, Any]:
        given = self.events[0].get("arguments")
        return given if isinstance(given, dict) else {}

    @property
    def is_evaluation(self) -> bool:
        return bool(self.arguments.get("eval_only"))

    @property
    def overrides(self) -> list[str]:
        """The ``KEY=VALUE`` arguments of its command."""
        opts = self.arguments.get("opts")
        return [str(opt) for opt in opts] if isinstance(opts, list) else []

    @property
    def seconds(self) -> float:
        first, last = (_moment(self.events[i]) for i in (0, -1))
        return (last - first).total_seconds() if first and last else 0.0

    @property
    def date(self) -> str:
        moment = _moment(self.events[0])
        return moment.strftime("%Y-%m-%d %H:%M UTC") if moment else "not recorded"

    @property
    def outcome(self) -> str:
        return run_events.outcome(self.events)


def _moment(event: Event) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(event.get("time")))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


@dataclass(frozen=True)
class Run:
    """The contents of a run's folder."""

    folder: Path  # resolved
    events: list[Event]
    config: dict[str, Any] | None  # plain values; None if unreadable
    config_text: str | None  # as YAML
    problems: list[str]  # what could not be read, one line each

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def starts(self) -> list[Start]:
        """All starts in order; none for a run of version 0.1."""
        return [Start(events) for events in run_events.split_starts(self.events)]

    @property
    def trained(self) -> list[Start]:
        return [start for start in self.starts if not start.is_evaluation]

    def get(self, key: str) -> Any:
        """A config value by its dotted key; None if absent."""
        node: Any = self.config
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return node

    def target(self, part: str) -> str:
        """The last component of a part's ``_target_``; empty if it has none."""
        return str(self.get(f"{part}._target_") or "").rpartition(".")[2]

    @property
    def max_iter(self) -> int | None:
        value = self.get("train.max_iter")
        return value if isinstance(value, int) else None

    @cached_property
    def done(self) -> int | None:
        """Number of iterations trained, as far as recorded; None for an evaluation alone."""
        last = run_events.last_iteration(self.events)
        return None if last is None else last + 1

    @property
    def init_checkpoint(self) -> str:
        """The weights it was initialized from; empty for random ones."""
        return str(self.get("train.init_checkpoint") or "")

    @cached_property
    def scalars(self) -> dict[str, list[Point]]:
        return run_events.step_values(self.events)

    @cached_property
    def results(self) -> dict[str, list[Point]]:
        """Evaluation results over iterations; without training, the iteration is NaN."""
        return run_events.results(self.events)

    @cached_property
    def measured_on(self) -> dict[str, list[str]]:
        """The data sets of each result, in the order of the evaluations; version 0.1 did not record them."""
        found: dict[str, list[str]] = {}
        for event in self.events:
            data, measured = event.get("data"), event.get("results")
            if (
                event["event"] == "evaluation"
                and isinstance(data, str)
                and isinstance(measured, dict)
            ):
                for name in measured:
                    if data and data not in found.setdefault(name, []):
                        found[name].append(data)
        return found

    @property
    def status(self) -> str:
        ended = self.starts[-1].outcome if self.starts else ""
        if self.done is None:
            return ended or ("evaluated" if self.results else "nothing trained")
        if self.max_iter is not None and self.done >= self.max_iter:
            return ended if ended.startswith("failed") else "finished"
        if ended in ("", "evaluated") or (ended == "finished" and self.max_iter is not None):
            return f"unfinished after {self.done} iterations"
        return ended

    @property
    def kind(self) -> str:
        """What was trained: the method, or the task it was transferred to."""
        target = self.target("model")
        if target in _DETECTORS:
            cascade = "Cascade " if "Cascade" in self.target("model.roi_heads") else ""
            return f"object detection ({cascade}Mask R-CNN)"
        if target == "RMAE":
            return self._pretraining()
        if target:
            return _OTHERS.get(target, target)
        names = {"loss_pixel", "loss_region"} & self.scalars.keys()
        known = {0: "not recorded", 1: "MAE pre-training", 2: "R-MAE pre-training"}
        return "RAE pre-training" if names == {"loss_region"} else known[len(names)]

    def _pretraining(self) -> str:
        pixels, regions = self.get("model.pixel_decoder"), self.get("model.region_branch")
        names = {(True, True): "R-MAE", (True, False): "MAE", (False, True): "RAE"}
        name = names.get((bool(pixels), bool(regions)), "RMAE without decoders")
        variant = self.target("model.region_branch").removesuffix("RegionBranch").lower()
        masking = self.target("model.masking")
        if masking == "LearnedMasking":
            name = "AutoMAE" if name == "MAE" else f"{name} with AutoMAE's masks"
        elif masking and masking != "RandomMasking":
            name = f"{name} with {masking}"
        return f"{name}{f' ({variant} variant)' if regions and variant else ''} pre-training"


def read_folder(folder: str | Path) -> Run:
    """Read whatever exists of a run in its ``train.output_dir``.

    Raises:
        UserError: the folder holds nothing of a run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the train.output_dir of a run")
    events, problems = run_events.read_run(folder)
    tamed = [_tamed(event) for event in events]
    if odd := sum(one != other for one, other in zip(events, tamed, strict=True)):
        problems.append(f"values in {odd} events are not shown: no run writes {_ODD}")
    events = tamed
    configs = [e["config"] for e in events if isinstance(e.get("config"), dict)]
    config = configs[-1] if configs else None
    text = None
    try:
        if config is None:
            config, text = read_config(folder / "config.yaml", folder)
        else:
            text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=9999)
    except UserError as error:
        problems.append(str(error).replace(f"{folder}{os.sep}", ""))
    if config is None and not events:
        why = f" ({'; '.join(problems)})" if problems else ""
        raise UserError(
            f"{folder}: not a run, nothing was found in run.jsonl, metrics.json or config.yaml{why}; give "
            "the train.output_dir of a run"
        )
    return Run(folder.resolve(), events, config, text, problems)


def find_transfers(run: Run) -> list[Path]:
    """Sibling folders that hold a run initialized from this run's weights."""
    found = []
    for folder in sorted(run.folder.parent.iterdir()):
        try:
            if folder != run.folder and folder.is_dir() and begins_with(read_folder(folder), run):
                found.append(folder)
        except (UserError, OSError):
            continue
    return found


def begins_with(other: Run, run: Run) -> bool:
    """Whether a run's ``train.init_checkpoint`` lies in another run's folder, here or where that run ran."""
    if not other.init_checkpoint:
        return False
    folder = os.path.dirname(other.init_checkpoint.partition("?")[0])
    ran = str(run.get("train.output_dir") or "")
    homes = {str(run.folder)} | ({os.path.normpath(ran)} if ran else set())
    return not homes.isdisjoint({os.path.normpath(folder), os.path.abspath(folder)})


class _PlainLoader(yaml.SafeLoader):
    """Reads ``!!python/...`` tags as text: LazyConfig's own reader would import and call what they name."""


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, tag, node: tag)


def read_config(path: Path, run: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Read values and text of a run's config.yaml without executing anything; two Nones if there is none.

    Raises:
        UserError: the file is not a config, is too large for one, or is a link out of the run's folder.
    """
    if not path.is_file():
        return None, None
    if leads_out(path, run):
        raise UserError(f"{path}: not read, it is a link out of the run's folder")
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path}: over {_MAX_BYTES >> 20} MiB, no run's config is that large")
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_PlainLoader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a config, it has no keys")
    return _tamed(content), text


_MAX_DEPTH = 50
_MAX_BITS = (
    1024  # limit for integers; longer ones do not fit a float, and very long ones not even a string
)
_ODD = f"integers of more than {_MAX_BITS} bits or nests of more than {_MAX_DEPTH} levels"


def _tamed(value: Any, depth: int = 0, known: dict[int, Any] | None = None) -> Any:
    """Replace unusable values with a description; parts shared through YAML aliases stay shared."""
    known = {} if known is None else known
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return f"an integer of {value.bit_length()} bits"
    if not isinstance(value, dict | list):
        return value
    if depth > _MAX_DEPTH:
        return f"a nest of more than {_MAX_DEPTH} levels"
    if id(value) not in known:
        known[id(value)] = "a part of itself"  # until the result is known
        if isinstance(value, dict):
            result: Any = {key: _tamed(inner, depth + 1, known) for key, inner in value.items()}
        else:
            result = [_tamed(inner, depth + 1, known) for inner in value]
        known[id(value)] = result
    return known[id(value)]
