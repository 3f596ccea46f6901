"""The plan of ``rmae-d2 sweep``: a grid of overrides times seeds, one folder each, and what remains to do."""

import hashlib
import itertools
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import apply_overrides, find_config, load_config
from ..config.overrides import join_spaced, split_override
from ..errors import UserError
from ..events import Event, last_iteration, outcome, read_run, split_starts
from .checkpointer import FINAL, holds_run
from .run_events import is_evaluation

#: Keys that the sweep itself sets.
_OWN = ("train.seed", "train.output_dir", "train.init_checkpoint")

#: Keys that change where and how fast a run computes, but not what; they may differ when it is continued.
_MACHINE = re.compile(
    r"train\.(device|log_period|vis_period|checkpointer\..*|activation_checkpointing|compile)"
    r"|.*\.(num_workers|prefetch_factor)"
)


@dataclass(frozen=True)
class Stage:
    """One training of a run: the first, or the one given by ``--then``.

    Attributes:
        config_file: of its command.
        overrides: of its command, except for the next two.
        folder: ``train.output_dir``.
        weights: ``train.init_checkpoint``, if another stage produces them.
    """

    config_file: str
    overrides: tuple[str, ...]
    folder: Path
    weights: Path | None = None

    @property
    def opts(self) -> list[str]:
        """All ``KEY=VALUE`` arguments of its command."""
        begin = [f"train.init_checkpoint={self.weights}"] if self.weights else []
        return [*self.overrides, *begin, f"train.output_dir={self.folder}"]

    @property
    def begun(self) -> bool:
        """Whether it needs ``--resume``."""
        return holds_run(self.folder)

    def words(self, num_gpus: int) -> list[str]:
        """The command that starts or continues it, after ``rmae-d2``."""
        many = ["--num-gpus", str(num_gpus)] if num_gpus != 1 else []
        resume = ["--resume"] if self.begun else []
        return ["train", "--config-file", self.config_file, *many, *resume, *self.opts]

    def ended(self) -> str:
        """How its last start ended, as in `outcome`; empty if no end was recorded."""
        start = _last_training(read_run(self.folder)[0])
        return outcome(start) if start else ""

    @property
    def finished(self) -> bool:
        return self.ended() == "finished"

    def check_same(self) -> None:
        """Raise UserError if the folder was trained in with another config or other overrides."""
        events, _ = read_run(self.folder)
        start = _last_training(events)
        if start is None or last_iteration(events) is None:
            return
        arguments = start[0].get("arguments")
        found = arguments if isinstance(arguments, dict) else {}
        own = {"train.output_dir"} | ({"train.init_checkpoint"} if self.weights else set())
        old, new = (_task(opts, own) for opts in (found.get("opts") or [], self.overrides))
        other = {k: (old.get(k), new.get(k)) for k in {*old, *new} if old.get(k) != new.get(k)}
        if not _same_config(str(found.get("config_file")), self.config_file):
            other["--config-file"] = (found.get("config_file"), self.config_file)
        if other:
            key, (was, now) = min(other.items())
            raise UserError(
                f"{self.folder}: was trained with {key} {'unset' if was is None else was}, and is now to "
                f"have {'it unset' if now is None else now}. Choose another --output, or remove that folder"
            )


def _last_training(events: list[Event]) -> list[Event] | None:
    """The events of a folder's last start of a training."""
    starts = reversed(split_starts(events))
    return next((start for start in starts if not is_evaluation(start[0])), None)


@dataclass(frozen=True)
class Run:
    """A point of the grid with one seed.

    Attributes:
        values: values of the swept keys, as text.
        stages: its consecutive trainings.
    """

    values: Mapping[str, str]
    seed: int
    stages: tuple[Stage, ...]

    @property
    def folder(self) -> Path:
        """The folder of the last stage, whose metrics count."""
        return self.stages[-1].folder

    @property
    def finished(self) -> bool:
        return self.stages[-1].finished

    @property
    def left(self) -> list[Stage]:
        """Its unfinished stages, in order."""
        return [] if self.finished else [stage for stage in self.stages if not stage.finished]

    def line(self, num_gpus: int) -> str:
        """The shell command that finishes it."""
        commands = (["rmae-d2", *stage.words(num_gpus)] for stage in self.left)
        return " && ".join(map(shlex.join, commands))


def plan(
    config_file: str,
    words: Sequence[str],
    output: Path,
    seeds: int,
    then: str | None = None,
    then_words: Sequence[str] = (),
) -> list[Run]:
    """Plan and check all runs of a sweep.

    Args:
        words: overrides of the config, ``key=v1,v2`` for a swept key.
        output: folder of the sweep.
        seeds: runs per point, with ``train.seed`` counted from the config's value.
        then: config of a second stage, which starts from the weights of the first.
        then_words: its overrides.

    Raises:
        UserError: a config rejects the values of a point, a folder was trained in with other values, or a
            key belongs to the sweep itself.
    """
    given: dict[str, list[str]] = {}
    for text in join_spaced(words):
        key, raw = split_override(text)
        given.pop(key, None)  # the last one counts, at its own position
        given[key] = split_values(raw)
    first, second = _checked_configs(config_file, then, given, then_words)
    runs: list[Run] = []
    errors: list[str] = []
    for values in _points(given):
        opts = [f"{key}={values.get(key, texts[0])}" for key, texts in given.items()]
        try:
            base = apply_overrides(first, opts).train.seed
        except UserError as error:
            errors += str(error).splitlines()
            continue
        fixed = [opt for opt in opts if not opt.startswith("train.seed=")]
        # Side by side, because runs keep computed regions in their parent folder.
        point = folder_name(values)
        for seed in range(base, base + seeds):
            own = (f"train.seed={seed}",)
            name = f"{point}-seed{seed}" if point else f"seed{seed}"
            stages = [Stage(config_file, (*fixed, *own), output / name)]
            if then is not None:
                begin = stages[0].folder / f"{FINAL}.pth"
                stages.append(Stage(then, (*then_words, *own), output / f"{name}-then", begin))
            runs.append(Run(values, seed, tuple(stages)))
    if second is not None:
        try:
            apply_overrides(second, then_words)
        except UserError as error:
            errors += [f"--then-set {line}" for line in str(error).splitlines()]
    if errors:
        raise UserError("\n".join(dict.fromkeys(errors)))
    places: dict[str, Run] = {}
    for run in runs:
        other = places.setdefault(str(run.folder).casefold(), run)  # for such file systems
        if other is not run:
            raise UserError(
                f"{dict(other.values)} and {dict(run.values)} would share the folder {run.folder}: sweep one "
                "of them with another --output"
            )
    for run in runs:
        for stage in run.stages:
            stage.check_same()
    return runs


def _points(given: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """The grid over the keys with several values, the last one varying fastest."""
    swept = {key: texts for key, texts in given.items() if len(texts) > 1}
    for key, texts in swept.items():
        if twice := {text for text in texts if texts.count(text) > 1}:
            raise UserError(f"{key}: {min(twice)} is given twice")
    return [dict(zip(swept, texts, strict=True)) for texts in itertools.product(*swept.values())]


def _checked_configs(
    config_file: str, then: str | None, given: Mapping[str, list[str]], then_words: Sequence[str]
) -> tuple[Any, Any]:
    if "train.output_dir" in given:
        raise UserError("train.output_dir: runs of a sweep lie below its --output")
    if len(given.get("train.seed", ())) > 1:
        raise UserError("train.seed: --seeds N runs each point N times, from train.seed on")
    if then_words and then is None:
        raise UserError("--then-set is of --then CONFIG")
    for text in then_words:
        if split_override(text)[0] in _OWN:
            raise UserError(
                f"--then-set {text}: seed, weights and folder of the second stage follow from the first"
            )
    return load_config(config_file), None if then is None else load_config(then)


def split_values(text: str) -> list[str]:
    """Split values at commas, except for those in brackets, braces or quotes."""
    values, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and values[-1].rstrip()[-1:] in ("", *"[{,:"):
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth = max(depth - 1, 0)
        elif character == "," and depth == 0:
            values.append("")
            continue
        values[-1] += character
    return [value.strip() for value in values]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Shorten dotted keys to the shortest endings that differ; a ``_target_`` is named after its part."""
    whole = {key: key.removesuffix("._target_") for key in keys}
    if len(set(whole.values())) < len(keys):
        whole = {key: key for key in keys}
    names = {}
    for key, text in whole.items():
        parts = text.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts)))
        others = [f".{other}" for other in whole.values() if other != text]
        names[key] = next((e for e in ends if not any(o.endswith(f".{e}") for o in others)), text)
    return names


def folder_name(values: Mapping[str, str]) -> str:
    """A point's folder name, such as ``mask_ratio_0.5``; with a checksum if values do not fit into a name."""
    names = short_names(list(values))
    text = "-".join(f"{names[key]}_{value}" for key, value in values.items())
    plain = re.sub(r"[^\w.+-]+", "_", text)[:100]
    if plain == text:
        return plain
    return f"{plain.strip('_')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _task(opts: Any, own: set[str]) -> dict[str, str]:
    """The overrides that define the task, by key, without those of the sweep itself."""
    pairs = (split_override(text) for text in join_spaced(list(map(str, opts))))
    return {k: v for k, v in pairs if k not in own and not _MACHINE.fullmatch(k)}


def _same_config(one: str, other: str) -> bool:
    def place(name: str) -> str:
        try:
            return os.path.realpath(find_config(name))
        except UserError:
            return name

    return place(one) == place(other)
