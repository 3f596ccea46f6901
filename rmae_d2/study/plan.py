"""The plan of a study: its config, and the runs that follow from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from ..config import apply_overrides, find_config, load_config
from ..config.overrides import split_override
from ..engine.checkpointer import FINAL
from ..engine.sweep import Run, Stage
from ..errors import UserError, did_you_mean

#: Name of the stage in which a method trains, alongside the transfers.
PRETRAIN = "pretrain"


@dataclass(frozen=True)
class Method:
    """A way to obtain an encoder.

    Args:
        name: used in its folders and records.
        label: used in tables.
        config: of the training.
        views: number of images that it trains on, in batches of the config's size. 0 leaves the weights as
            initialised: one step, at a learning rate of 0.
        overrides: of the config. ``{NAME}`` stands for the weights of the method of that name with the same
            seed, which is then trained first.
        group: methods of one group are compared with each other, in one table per group.
        baselines: the methods relative to which differences are computed; the first is drawn.
        seeds: number of seeds; None for the study's.
        transfers: names of the transfers that evaluate it; None for all.
        line: in the curves over views, joins it to the methods of the same line, which differ in views
            alone; not drawn if empty.
    """

    name: str
    label: str
    config: str
    views: int
    overrides: Sequence[str] = ()
    group: str = ""
    baselines: Sequence[str] = ()
    seeds: int | None = None
    transfers: Sequence[str] | None = None
    line: str = ""


@dataclass(frozen=True)
class Transfer:
    """A transfer that evaluates an encoder: a training initialised with it."""

    name: str
    label: str
    config: str
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class Metric:
    """A metric shown in the tables.

    Args:
        stage: its source: ``pretrain``, a transfer's name, or ``attention``.
        name: in that stage's results, such as ``sem_seg/mIoU``; several are averaged.
        label: used in tables.
        scale: factor applied in tables.
        digits: decimal places.
    """

    stage: str
    name: str | Sequence[str]
    label: str
    scale: float = 1.0
    digits: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if isinstance(self.name, str) else tuple(self.name)


@dataclass(frozen=True)
class Scenes:
    """The rendered scenes that a study uses, see `write_scenes`."""

    num_train: int
    num_val: int
    seed: int


@dataclass(frozen=True)
class Attention:
    """Objects on which the attention of each encoder is measured.

    Args:
        json: COCO instances, below the study's data.
        root: of their images, below the study's data.
        max_images: use only this many, from the first.
    """

    json: str
    root: str
    max_images: int = 200


@dataclass(frozen=True)
class RegionSource:
    """One of the region sources that are compared.

    Args:
        label: in tables.
        source: as `rmae-d2 regions --source` takes it.
        arguments: its settings.
    """

    label: str
    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Regions:
    """Objects that the regions of several sources are compared with.

    Args:
        json: COCO's instances, below the study's data.
        root: of their images, below the study's data.
        sources: see `RegionSource`.
        max_images: the first so many are taken.
    """

    json: str
    root: str
    sources: Sequence[RegionSource]
    max_images: int = 200


@dataclass(frozen=True)
class Study:
    """A whole study.

    Args:
        name: name of the study.
        data: folder of its datasets (DETECTRON2_DATASETS of its commands).
        output: folder of its runs.
        seeds: runs per method, with ``train.seed`` 0, 1 ...
        methods, transfers, metrics: see these classes. The first metric is drawn.
        scenes: rendered into ``data`` if missing.
        overrides: for all methods' configs; a method's own take precedence.
        times: factor applied to all methods' views.
        attention: where the attention on objects is measured; None to skip it.
        regions: where region sources are compared; None to skip it.
    """

    name: str
    data: str
    output: str
    seeds: int
    methods: Sequence[Method]
    transfers: Sequence[Transfer]
    metrics: Sequence[Metric]
    scenes: Scenes | None = None
    overrides: Sequence[str] = ()
    times: float = 1.0
    attention: Attention | None = None
    regions: Regions | None = None

    def __post_init__(self) -> None:
        for what, parts in (("methods", self.methods), ("transfers", self.transfers)):
            names = [part.name for part in parts]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise UserError(f"study {self.name}: {what} has {twice[0]!r} twice")
        known = {method.name for method in self.methods}
        transfers = {transfer.name for transfer in self.transfers}
        for method in self.methods:
            for name in method.transfers or ():
                if name not in transfers:
                    raise UserError(
                        f"study {self.name}: {method.name} names the transfer {name!r}, which does not exist"
                        f"{did_you_mean(name, transfers)}"
                    )
            for name in (*method.baselines, *_needed(method)):
                if name not in known:
                    raise UserError(
                        f"study {self.name}: {method.name} names the method {name!r}, which does not exist"
                        f"{did_you_mean(name, known)}"
                    )

    def seeds_of(self, method: Method) -> int:
        """Returns the number of a method's runs."""
        return self.seeds if method.seeds is None else method.seeds

    def method(self, name: str) -> Method:
        """Returns the method of a name; UserError if there is none."""
        found = next((method for method in self.methods if method.name == name), None)
        if found is None:
            names = [method.name for method in self.methods]
            raise UserError(
                f"the study {self.name} has no method {name!r}{did_you_mean(name, names)}"
            )
        return found


def load_study(name: str) -> Study:
    """Loads a study from ``study`` in a config.

    Raises:
        UserError: if there is no such config, or it has no study.
    """
    path = find_config(name)
    content = LazyConfig.load(path)
    if "study" not in content:
        raise UserError(f"{path} has no study in it: give one such as study/scenes.py")
    given: Any = OmegaConf.to_container(content.study, resolve=True)
    try:
        parts = {"methods": Method, "transfers": Transfer, "metrics": Metric}
        made: dict[str, Any] = {
            name: [_made(part, each) for each in given[name]] for name, part in parts.items()
        }
        for name, part in {"scenes": Scenes, "attention": Attention}.items():
            made[name] = _made(part, given[name]) if given.get(name) else None
        if regions := given.get("regions"):
            sources = [_made(RegionSource, each) for each in regions["sources"]]
            made["regions"] = _made(Regions, {**regions, "sources": sources})
        return _made(Study, {**given, **made})
    except KeyError as error:
        raise UserError(f"{path}: the study has no {error}") from error
    except TypeError as error:  # such as "Method.__init__() got an unexpected keyword argument"
        raise UserError(f"{path}: {error}") from error


def _made(part: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Makes a part of a study; TypeError if it has no such fields, or a text stands for a list of texts."""
    made = part(**given)
    for each in fields(made):
        value = getattr(made, each.name)
        if isinstance(value, str) and each.type in (Sequence[str], Sequence[str] | None):
            raise TypeError(f"{each.name} is the text {value!r} where a list belongs: [{value!r}]")
    return made


def runs_of(study: Study, methods: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """Returns the runs of a study, seed by seed, so that every method gets its first seed early.

    Args:
        methods: names of those to run; all if empty.
        seeds: seeds to run; all if empty.

    Raises:
        UserError: if a config rejects its overrides, or a folder was trained with different ones.
    """
    chosen = [study.method(name) for name in methods] or list(study.methods)
    for transfer in study.transfers:
        apply_overrides(load_config(transfer.config), list(transfer.overrides))
    most = max(study.seeds_of(method) for method in chosen)
    wanted = list(seeds) or list(range(most))
    runs = [
        _run(study, method, seed)
        for seed in wanted
        for method in chosen
        if seed < study.seeds_of(method)
    ]
    for run in runs:
        for stage in run.stages:
            stage.check_same()
    return runs


def weights_of(run: Run) -> Path:
    """Path of the encoder that a run's method produces."""
    stage = next(stage for stage in run.stages if stage.folder.name == _folder(run))
    return stage.folder / f"{FINAL}.pth"


def stages_by_name(run: Run) -> Mapping[str, Stage]:
    """Returns ``pretrain`` and the transfers, without a run's dependencies on other methods."""
    own = _folder(run)
    named = {}
    for stage in run.stages:
        if stage.folder.name == own:
            named[PRETRAIN] = stage
        elif stage.folder.name.startswith(f"{own}-"):
            named[stage.folder.name.removeprefix(f"{own}-")] = stage
    return named


def _folder(run: Run) -> str:
    return f"{run.values['method']}-seed{run.seed}"


def _run(study: Study, method: Method, seed: int) -> Run:
    first = _training(study, method, seed)
    before = [_training(study, study.method(name), seed) for name in _needed(method)]
    weights = first.folder / f"{FINAL}.pth"
    transfers = [
        Stage(
            transfer.config,
            (*transfer.overrides, f"train.seed={seed}"),
            first.folder.with_name(f"{first.folder.name}-{transfer.name}"),
            weights,
        )
        for transfer in study.transfers
        if method.transfers is None or transfer.name in method.transfers
    ]
    return Run({"method": method.name}, seed, (*before, first, *transfers))


def _training(study: Study, method: Method, seed: int) -> Stage:
    def folder(name: str) -> Path:
        return Path(study.output) / f"{name}-seed{seed}"

    overrides = [*study.overrides, *method.overrides]
    for name in _needed(method):
        given = str(folder(name) / f"{FINAL}.pth")
        overrides = [text.replace(f"{{{name}}}", given) for text in overrides]
    steps = _steps(study, method)
    overrides += [f"train.max_iter={steps}", f"train.eval_period={steps}"]
    if not method.views:
        overrides.append("optimizer.base_lr=0")
    return Stage(method.config, (*overrides, f"train.seed={seed}"), folder(method.name))


def _steps(study: Study, method: Method) -> int:
    """Returns a method's number of steps; UserError if its config rejects the overrides."""
    words = [*study.overrides, *method.overrides]
    batch = apply_overrides(load_config(method.config), words).dataloader.train.total_batch_size
    return max(round(study.times * method.views / batch), 1)


def _needed(method: Method) -> list[str]:
    """Returns the methods whose weights a method starts from: ``{NAME}`` in its overrides."""
    found = []
    for text in method.overrides:
        value = split_override(text)[1]
        if value.startswith("{") and value.endswith("}") and value[1:-1].isidentifier():
            found.append(value[1:-1])
    return found
