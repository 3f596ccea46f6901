"""A run as its folder tells it: what it trained, how far it came, what was measured."""

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import UserError
from ..visualization.curves import read_metrics
from .charts import Point
from .run_config import RunConfig, read_config
from .run_log import Start, date_of, read_log

#: Evaluations among the values that have a "/" in their names; others come from the training step.
_TASKS = {
    "bbox",
    "segm",
    "sem_seg",
    "classification",
    "knn",
    "reconstruction",
    "keypoints",
    "panoptic_seg",
    "box_proposals",
}

_MAX_NAME = 100  # characters of a value's name

_DETECTORS = {"GeneralizedRCNN", "PanopticFPN", "RetinaNet"}
_OTHERS = {
    "SlidingSemanticSegmentor": "semantic segmentation",
    "SemanticSegmentor": "semantic segmentation",
    "Classifier": "image classification",
    "FeatureExtractor": "k-NN classification of frozen features",
}

#: Of runs without a config, by what was evaluated.
_KINDS = {
    "knn": "k-NN classification of frozen features",
    "classification": "image classification",
    "sem_seg": "semantic segmentation",
    "bbox": "object detection",
}


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        folder: resolved.
        config: None where there is none, or none that can be read.
        starts: from log.txt.
        records: of metrics.json, by iteration.
        epochs: when TensorBoard's files were begun, seconds.
        problems: what could not be read, in a line each.
    """

    folder: Path
    config: RunConfig | None
    starts: list[Start]
    records: list[dict[str, float]]
    epochs: list[int]
    problems: list[str]

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def max_iter(self) -> int | None:
        """As configured."""
        value = self.config.get("train.max_iter") if self.config else None
        return value if isinstance(value, int) else None

    @property
    def done(self) -> int | None:
        """How many iterations it trained, as far as it wrote values; None for an evaluation alone."""
        trained = [int(r["iteration"]) for r in self.records if "total_loss" in r or "lr" in r]
        trained += [s.last_iter for s in self.starts if s.last_iter is not None]
        return max(trained) + 1 if trained else None

    @property
    def init_checkpoint(self) -> str:
        """The weights that it began with; empty for random ones."""
        if self.config:
            return str(self.config.get("train.init_checkpoint") or "")
        given = [
            o.partition("=")[2] for s in self.starts for o in s.overrides if o.startswith(_INIT)
        ]
        return given[-1] if given else ""

    @property
    def output_dir(self) -> str:
        """Where it ran, as configured."""
        return str(self.config.get("train.output_dir") or "") if self.config else ""

    @cached_property
    def scalars(self) -> dict[str, list[Point]]:
        """Values of metrics.json over iterations, by name."""
        values: dict[str, list[Point]] = {}
        for record in self.records:
            for name, value in record.items():
                if name != "iteration":
                    values.setdefault(name, []).append((record["iteration"], value))
        return values

    @cached_property
    def results(self) -> dict[str, list[Point]]:
        """Evaluations over iterations; those that only the log has are at iteration NaN."""
        found = {k: v for k, v in self.scalars.items() if is_evaluation(k)}
        for start in self.starts:
            for task, values in start.results.items():
                for metric, value in values.items():
                    # metrics.json has more digits; an evaluation alone writes none.
                    if start.arguments.get("eval_only") or f"{task}/{metric}" not in self.scalars:
                        found[f"{task}/{metric}"] = [(math.nan, value)]
        return found

    @property
    def status(self) -> str:
        """How it stands, in a few words."""
        outcome = self.starts[-1].outcome if self.starts else ""
        done, planned = self.done, self.max_iter
        if done is None:
            return outcome or ("evaluated" if self.results else "nothing trained")
        if planned is not None and done >= planned:
            return outcome if outcome.startswith("failed") else "finished"
        if outcome == "finished" and planned is None:
            return outcome
        return outcome if outcome not in ("", "finished") else f"unfinished after {done} iterations"

    @property
    def kind(self) -> str:
        """What it trained: the method, or the task it was transferred to."""
        if self.config and self.config.has("model"):
            return _kind_by_config(self.config)
        tasks = {part for name in self.results for part in name.split("/")[:-1]}
        if known := [kind for task, kind in _KINDS.items() if task in tasks]:
            return known[0]
        return _kind_by_losses(self.scalars)

    def date(self, start: Start) -> str:
        """When a start was; see :func:`~.run_log.date_of`."""
        return date_of(start, self.epochs)


_INIT = "train.init_checkpoint="


def is_evaluation(name: str) -> bool:
    """Whether a value of metrics.json is a result, such as ``bbox/AP`` or ``coco_val/bbox/AP``."""
    return not _TASKS.isdisjoint(name.split("/")[:-1])


def is_of_one_class(name: str) -> bool:
    """Whether a result is that of one class, such as ``sem_seg/IoU-grass``."""
    return "-" in name.rpartition("/")[2]


def read_run(folder: str | Path) -> Run:
    """Reads what there is of a run.

    Args:
        folder: its ``train.output_dir``.

    Raises:
        UserError: there is nothing of a run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the train.output_dir of a run")
    problems = []
    config = None
    try:
        config = read_config(folder / "config.yaml")
    except UserError as error:
        problems.append(str(error).replace(f"{folder}{os.sep}", ""))
    starts = read_log(folder / "log.txt")
    records = []
    if (folder / "metrics.json").is_file():
        try:
            records = _numbers_only(read_metrics(folder / "metrics.json"))
        except (UnicodeDecodeError, TypeError) as error:
            problems.append(f"metrics.json: not Detectron2's ({error})")
    if not (config or starts or records):
        why = f" ({'; '.join(problems)})" if problems else ""
        raise UserError(
            f"{folder}: not a run, nothing was found in config.yaml, log.txt or metrics.json{why}; give the "
            "train.output_dir of a run"
        )
    return Run(folder.resolve(), config, starts, records, _epochs(folder), problems)


def find_transfers(run: Run) -> list[Path]:
    """Folders beside a run's that hold a run which began with weights of that run."""
    found = []
    for folder in sorted(run.folder.parent.iterdir()):
        if folder == run.folder or not folder.is_dir():
            continue
        try:
            other = read_run(folder)
        except (UserError, OSError):
            continue
        if begins_with(other, run):
            found.append(folder)
    return found


def begins_with(other: Run, run: Run) -> bool:
    """Whether a run's ``train.init_checkpoint`` lies in the folder of another, here or where that ran."""
    if not other.init_checkpoint:
        return False
    folder = os.path.dirname(other.init_checkpoint.partition("?")[0])
    homes = {str(run.folder)} | ({os.path.normpath(run.output_dir)} if run.output_dir else set())
    return not homes.isdisjoint({os.path.normpath(folder), os.path.abspath(folder)})


def _numbers_only(records: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """Values that are numbers, of records in order of their iteration."""
    kept = [
        {k[:_MAX_NAME]: float(v) for k, v in record.items() if _is_number(v)} for record in records
    ]
    kept = [record for record in kept if math.isfinite(record.get("iteration", math.nan))]
    return sorted(kept, key=lambda record: record["iteration"])


def _is_number(value: object) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 1 << 1000  # a larger one is no float
    return isinstance(value, float)


def _epochs(folder: Path) -> list[int]:
    names = sorted(path.name for path in folder.glob("events.out.tfevents.*"))
    matches = (re.match(r"events\.out\.tfevents\.(\d{9,11})\.", name) for name in names)
    return [int(match.group(1)) for match in matches if match]


def _kind_by_config(config: RunConfig) -> str:
    target = config.target("model")
    if target in _DETECTORS:
        cascade = "Cascade" in config.target("model.roi_heads")
        return f"object detection ({'Cascade ' if cascade else ''}Mask R-CNN)"
    if target != "RMAE":
        return _OTHERS.get(target, target or "not recorded")
    pixels, regions = config.has("model.pixel_decoder"), config.has("model.region_branch")
    name = {(True, True): "R-MAE", (True, False): "MAE", (False, True): "RAE"}.get(
        (pixels, regions), "RMAE without decoders"
    )
    variant = config.target("model.region_branch").removesuffix("RegionBranch").lower()
    masking = config.target("model.masking")
    if masking == "LearnedMasking":
        name = "AutoMAE" if name == "MAE" else f"{name} with AutoMAE's masks"
    elif masking and masking != "RandomMasking":
        name = f"{name} with {masking}"
    name = f"{name} ({variant} variant)" if regions and variant else name
    return f"{name} pre-training"


def _kind_by_losses(scalars: dict[str, list[Point]]) -> str:
    found = ("loss_pixel" in scalars, "loss_region" in scalars)
    names = {(True, True): "R-MAE", (True, False): "MAE", (False, True): "RAE"}
    return f"{names[found]} pre-training" if found in names else "not recorded"
