"""Results of a study's runs, in one json that outlives their folders.

    {"study": NAME, "records": [RECORD, ...], "cost": {METHOD: ...}}

A record has ``method``, ``seed``, ``views`` (images seen by the method's training), ``seconds`` (of
wall-clock time; other processes may have run in parallel), ``commands`` (of each stage), ``results`` (for
each stage, the last value of each metric from its run.jsonl, and ``attention``), ``curves`` of the method's
training, ``code`` and ``when`` it ended.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..engine.provenance import describe_code
from ..engine.sweep import Run, Stage
from ..errors import UserError
from ..events import Event, plain, read_run, results, split_starts
from ..files import atomic_file
from ..inference.attention import load_models, measure_attention
from ..inference.finished_run import pick_device
from ..inference.region_evaluation import measure_regions
from ..regions.sources.spec import SourceSpec
from .plan import PRETRAIN, Attention, Study, stages_by_name, weights_of

logger = logging.getLogger(__name__)

Record = dict[str, Any]

#: Prefixes of result names that records omit.
_LEFT_OUT = ("ACC-", "AP-")


class Records:
    """The json of a study, read once and written after each run.

    Args:
        path: of the json; it need not exist.
        study: the study it belongs to.

    Raises:
        UserError: if the file is no such json, or belongs to another study.
    """

    def __init__(self, path: Path, study: Study) -> None:
        self.path = path
        self.study = study
        self._content: dict[str, Any] = {"study": study.name, "records": []}
        if path.is_file():
            self._content = _read(path, study)

    @property
    def all(self) -> list[Record]:
        """Returns the records of the study's methods, in its order, then by seed."""
        order = [method.name for method in self.study.methods]
        known = (record for record in self._content["records"] if record["method"] in order)
        return sorted(known, key=lambda record: (order.index(record["method"]), record["seed"]))

    @property
    def cost(self) -> dict[str, Any]:
        """Costs by method name; empty if not measured."""
        found: dict[str, Any] = self._content.get("cost", {})
        return found

    def of(self, run: Run) -> Record | None:
        """Returns the record of a run, if there is one of exactly the same commands."""
        key = (run.values["method"], run.seed)
        found = (r for r in self._content["records"] if (r["method"], r["seed"]) == key)
        record = next(found, None)
        if record is None or record["commands"] == commands(run):
            return record
        logger.warning("%s: %s, seed %d is of other commands; it is to run again", self.path, *key)
        return None

    def add(self, record: Record) -> None:
        """Adds a record, replacing that of the same method and seed, and writes the file."""
        key = (record["method"], record["seed"])
        others = [r for r in self._content["records"] if (r["method"], r["seed"]) != key]
        others.append(record)
        self._content["records"] = sorted(others, key=lambda r: (r["method"], r["seed"]))
        self._write()

    @property
    def regions(self) -> dict[str, Any]:
        """What `measure_region_sources` gave; empty where it was not measured."""
        found: dict[str, Any] = self._content.get("regions", {})
        return found

    def set_regions(self, regions: Mapping[str, Any]) -> None:
        """Writes how good the regions of several sources are."""
        self._content["regions"] = dict(regions)
        self._write()

    def set_cost(self, cost: Mapping[str, Any]) -> None:
        """Writes the methods' costs."""
        self._content["cost"] = dict(cost)
        self._write()

    def _write(self) -> None:
        # One line per record, so that diffs show what is new.
        head = {key: value for key, value in self._content.items() if key != "records"}
        lines = ",\n".join(json.dumps(plain(record)) for record in self._content["records"])
        text = json.dumps(plain(head), indent=1)[:-2]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path) as file:
            file.write(f'{text},\n "records": [\n{lines}\n ]\n}}\n'.encode())


def _read(path: Path, study: Study) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {(record["method"], record["seed"]) for record in content["records"]}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not the json of a study: {error}") from error
    if content.get("study") != study.name:
        raise UserError(
            f"{path} is of the study {content.get('study')!r}, not of {study.name!r}: choose another "
            "--records"
        )
    if len(names) < len(content["records"]):
        raise UserError(f"{path} has two records of one method and seed: remove one")
    found: dict[str, Any] = content
    return found


def commands(run: Run) -> dict[str, str]:
    """Returns the command of each stage of a run, without location: folders and weights."""
    return {name: _command(stage) for name, stage in stages_by_name(run).items()}


def _command(stage: Stage) -> str:
    parent = f"{stage.folder.parent}/"
    words = ["--config-file", stage.config_file, *stage.overrides]
    return " ".join(["rmae-d2 train", *(word.replace(parent, "") for word in words)])


def record_of(run: Run, study: Study) -> Record:
    """Builds the record of a finished run; measures the attention on objects here.

    Raises:
        UserError: if one of its stages has not been evaluated.
    """
    stages = stages_by_name(run)
    events = {name: read_run(stage.folder)[0] for name, stage in stages.items()}
    curves = {name: results(of_stage) for name, of_stage in events.items()}
    setup = next(event for event in events[PRETRAIN] if event["event"] == "setup")
    config = next(event for event in events[PRETRAIN] if event["event"] == "config")
    measured = {
        name: {
            key: round(points[-1][1], 5)
            for key, points in of_stage.items()
            if not key.rpartition("/")[2].startswith(_LEFT_OUT)
        }
        for name, of_stage in curves.items()
    }
    if bare := [name for name, found in measured.items() if not found]:
        folder = stages[bare[0]].folder
        raise UserError(
            f"{folder} was trained but never evaluated: give this stage of the study train.eval_period"
        )
    learns = study.method(run.values["method"]).views > 0
    if study.attention is not None:
        measured["attention"] = _attention(weights_of(run), study.attention, Path(study.data))
    return {
        "method": run.values["method"],
        "seed": run.seed,
        "views": setup["images_a_step"] * config["config"]["train"]["max_iter"] if learns else 0,
        "seconds": round(_seconds(events[PRETRAIN])),
        "commands": commands(run),
        "results": measured,
        "curves": {
            key: [[int(at), round(value, 5)] for at, value in points]
            for key, points in curves[PRETRAIN].items()
            if key.startswith("reconstruction/")
        },
        "code": describe_code(),
        "when": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def measure_region_sources(study: Study) -> dict[str, Any]:
    """How well the regions of the study's sources agree with instances, see `measure_regions`.

    Raises:
        UserError: a study that compares none, or whose data are not there.
    """
    if study.regions is None:
        raise UserError(f"the study {study.name} compares no region sources: leave --regions out")
    where, data = study.regions, Path(study.data)
    sources = {s.label: SourceSpec.named(s.source, s.arguments).build() for s in where.sources}
    labels, root = str(data / where.json), str(data / where.root)
    found = measure_regions(sources, json=labels, root=root, max_images=where.max_images)
    rounded = {
        name: {key: round(value, 4) for key, value in figures.items()}
        for name, figures in found["sources"].items()
    }
    return {"data": where.json, "sources": rounded}


def _attention(weights: Path, where: Attention, data: Path) -> dict[str, float]:
    """Measures attention of the last block inside and outside objects, averaged over instances."""
    models = load_models([str(weights)], [], device=pick_device("auto"))
    # By file: names were registered before the study's own folder was known.
    labels, root = str(data / where.json), str(data / where.root)
    measured = measure_attention(models, json=labels, root=root, max_images=where.max_images)
    found = measured["models"][0]
    names = ("share", "area", "elsewhere", "position", "beyond_elsewhere", "beyond_position")
    return {name: round(found[name], 5) for name in names if found[name] is not None}


def _seconds(events: Iterable[Event]) -> float:
    """Sums wall-clock time over all starts of a training."""
    spans = []
    for start in split_starts(events):
        times = [datetime.fromisoformat(event["time"]) for event in (start[0], start[-1])]
        spans.append((times[1] - times[0]).total_seconds())
    return sum(spans)


def values(
    records: Sequence[Record], method: str, stage: str, names: Sequence[str]
) -> dict[int, float]:
    """Returns a method's metric by seed (the mean if several), without seeds that lack it."""
    found = {}
    for record in records:
        of_stage = record["results"].get(stage, {})
        if record["method"] == method and all(name in of_stage for name in names):
            found[record["seed"]] = sum(of_stage[name] for name in names) / len(names)
    return found
