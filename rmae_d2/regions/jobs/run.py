"""Making and verifying a region store from the command line: what `rmae-d2 regions` runs.

Shards that are there are left alone, so the same command goes on after anything that ended it. Any
number of these commands may work on one folder at once.
"""

import inspect
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...data import read_image
from ...errors import UserError
from ..sources.spec import SourceSpec
from ..store.shards import has_shard, shard_files, shard_name
from ..store.store import write_index
from .engines import Lost, Outcomes, Work, run_here, run_local, run_ray
from .generate import (
    Failure,
    Problem,
    failures_name,
    generate_shard,
    read_failures,
    verify_shard,
)
from .manifest import Manifest, describe_trouble, save_manifest
from .progress import Progress

logger = logging.getLogger(__name__)

MAX_FAILURES = 0.1
_DRAFT_SECONDS = 3600.0


@dataclass(frozen=True)
class Engine:
    """Where shards are made.

    Attributes:
        name: "local" or "ray".
        workers: processes; 0 for none but this one; None for one a core, or one a GPU where the
            source uses one.
        ray_address: see `run_ray`.
    """

    name: str = "local"
    workers: int | None = None
    ray_address: str = "auto"

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise UserError(f"--workers {self.workers} must not be negative")

    def run(
        self,
        work: Work,
        manifest: Manifest,
        numbers: Sequence[int],
        progress: Progress,
        gpus: Sequence[str | None] = (),
    ) -> Outcomes:
        """What `work` returns for each of these shards, as they end; `gpus`: see `gpus_of`."""
        if self.name == "ray":
            return run_ray(
                work, manifest, numbers, progress, self.ray_address, self.workers, bool(gpus)
            )
        if self.workers == 0:
            return run_here(work, manifest, numbers, progress)
        workers = self.workers or len(gpus) or _usable_cores()
        return run_local(work, manifest, numbers, progress, workers, gpus)


@dataclass(frozen=True)
class Summary:
    """How a store stands after a run, within the run's share of it.

    Attributes:
        num_shards: in the share.
        failures: of all its shards, whenever they were made.
        suspicious: shards with too many failures to be chance, with how many they have.
        lost: shards that could not be made, and why.
        complete: whether the whole store is there.
    """

    num_shards: int
    failures: Sequence[Failure]
    suspicious: Mapping[int, int]
    lost: Mapping[int, str]
    complete: bool

    @property
    def good(self) -> bool:
        """Whether there is nothing that somebody has to look at."""
        return not self.suspicious and not self.lost


def make_regions(
    manifest: Manifest,
    folder: str,
    engine: Engine | None = None,
    *,
    share: tuple[int, int] = (0, 1),
    retry_failures: bool = False,
    max_failures: float = MAX_FAILURES,
) -> Summary:
    """Make what is missing of a store, and its merged index once all of it is there.

    Args:
        manifest: of the store.
        folder: of the store; made where missing.
        engine: local processes by default.
        share: (i, n) makes the shards s with s % n == i.
        retry_failures: whether shards with failures are made again.
        max_failures: share of a full shard's images whose failure is taken for chance.

    Raises:
        UserError: the folder cannot be used, or trouble of the machine or the source.
        StoreError: the folder has shards of another store.
    """
    save_manifest(manifest, folder)
    sweep_drafts(folder)
    numbers = _share(manifest, share)
    if retry_failures:
        for number in numbers:
            if Path(folder, failures_name(number)).exists():
                Path(folder, shard_files(number)[1]).unlink(missing_ok=True)  # no longer complete
    pending = [n for n in numbers if not has_shard(folder, n, manifest.header)]
    done = sum(manifest.shard_size(number) for number in set(numbers) - set(pending))
    total = sum(manifest.shard_size(number) for number in numbers)
    logger.info(
        "%s: %d images in %d shards, %d of them to be made",
        folder, total, len(numbers), len(pending),
    )  # fmt: skip
    work = partial(generate_shard, folder=os.path.abspath(folder), read_image=read_image)
    lost = {}
    if pending:
        gpus = gpus_of(manifest.source)
        with (
            Progress(total, done) as progress,
            closing((engine or Engine()).run(work, manifest, pending, progress, gpus)) as outcomes,
        ):
            for number, outcome in outcomes:
                if isinstance(outcome, Lost):
                    lost[number] = outcome.reason
                elif not has_shard(folder, number, manifest.header):
                    raise UserError(
                        f"{shard_name(number)} was made but is not in {folder}: the folder must be "
                        "on a file system that all machines share"
                    )
    complete = all(has_shard(folder, n, manifest.header) for n in range(manifest.num_shards))
    if complete:
        try:
            write_index(folder)
        except OSError as error:
            raise UserError(f"cannot write {folder}: {describe_trouble(error)}") from error
    failures = {n: read_failures(folder, n) for n in numbers if n not in lost}
    return Summary(
        len(numbers),
        [failure for number in failures for failure in failures[number]],
        _suspicious(manifest, {n: len(f) for n, f in failures.items()}, max_failures),
        lost,
        complete,
    )


def verify_regions(
    manifest: Manifest,
    folder: str,
    engine: Engine | None = None,
    *,
    share: tuple[int, int] = (0, 1),
) -> list[Problem]:
    """Check every record of a store against its digest and its image; arguments as above.

    Raises:
        UserError: trouble of the machine.
    """
    numbers = _share(manifest, share)
    work = partial(verify_shard, folder=os.path.abspath(folder), read_image=read_image)
    problems: list[Problem] = []
    with (
        Progress(sum(manifest.shard_size(n) for n in numbers), 0) as progress,
        closing((engine or Engine()).run(work, manifest, numbers, progress)) as outcomes,
    ):
        for number, outcome in outcomes:
            if isinstance(outcome, Lost):
                raise UserError(f"{shard_name(number)} was not checked: {outcome.reason}")
            problems += outcome
    return sorted(problems, key=lambda problem: problem.shard)


def gpus_of(spec: SourceSpec) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of the workers that a source needs, [] where it computes on CPUs.

    A source computes on a GPU if its class takes an argument `device`. Left out, or "cuda", it
    means the one GPU that each worker sees; "cuda:1" is taken as it is, for one worker.
    """
    import torch

    if "device" not in inspect.signature(spec.load()).parameters:
        return []
    device = spec.arguments.get("device")
    if device not in (None, "cuda"):
        return [None] if str(device).startswith("cuda") else []
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return list(named[:count] if named else map(str, range(count)))


def sweep_drafts(folder: str) -> None:
    """Remove drafts of dead runs: those that nobody has written to for an hour.

    A living run may be on another machine, so no process table tells; but it writes to its draft
    after each image. The clock is that of the file system, which all machines see.
    """
    drafts = list(Path(folder).glob("*.tmp"))
    if not drafts:
        return
    try:
        # A name of its own: tasks in containers on several machines may have one process id.
        with tempfile.NamedTemporaryFile(dir=folder, prefix="clock.", suffix=".tmp") as probe:
            now = os.stat(probe.name).st_mtime
    except OSError as error:
        raise UserError(f"cannot write {folder}: {describe_trouble(error)}") from error
    for draft in drafts:
        try:
            if now - draft.stat().st_mtime > _DRAFT_SECONDS:
                draft.unlink()
                logger.info("removed %s, left by a run that was killed", draft)
        except FileNotFoundError:  # another run was faster
            continue


def _share(manifest: Manifest, share: tuple[int, int]) -> list[int]:
    index, count = share
    if not 0 <= index < count:
        raise UserError(f"--shard-index {index} must be in 0 ... {count - 1} (--num-shards - 1)")
    return list(range(index, manifest.num_shards, count))


def _suspicious(
    manifest: Manifest, failures: Mapping[int, int], max_failures: float
) -> dict[int, int]:
    """Shards with more failures than a full shard may have, or with nothing else."""
    limit = max_failures * min(manifest.images_per_shard, manifest.num_images)
    return {
        number: count
        for number, count in failures.items()
        if count > limit or count == manifest.shard_size(number)
    }


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
