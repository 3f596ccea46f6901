"""Make and verify a region store: what `rmae-d2 regions` runs.

Existing shards are left alone, so the same command continues after any interruption, and any number of
processes may work on one folder at once. This process, a process pool and a Ray cluster run the same
function: the stores are equal byte for byte.
"""

import inspect
import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ...errors import UserError
from ...extras import needed
from ...files import is_being_written
from ...packed import shard_files, shard_name
from ..sources.spec import SourceSpec
from ..store.shards import has_shard
from ..store.store import write_index
from .generate import (
    Failure,
    Problem,
    ReadImage,
    failures_name,
    generate_shard,
    read_failures,
    verify_shard,
)
from .manifest import IMAGES_PER_SHARD, Manifest, describe_trouble, save_manifest

logger = logging.getLogger(__name__)

MAX_FAILURES = 0.1
_DRAFT_SECONDS = 3600.0

#: `generate_shard` or `verify_shard` with everything but manifest, number and report bound; picklable.
Work = Callable[..., Any]
#: Called with the images, bytes and failures that this run has counted so far.
Show = Callable[[Sequence[int]], None]
#: Shard numbers and the results of their work, each as soon as it ends.
Results = Iterator[tuple[int, Any]]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_SHOW_SECONDS = 0.2
_LOG_SECONDS = 30.0
_STOP_SECONDS = 10.0
RAY_RETRIES = 3
_RAY_STORE_BYTES = 100_000_000  # results are a few hundred bytes each
_AGAIN = "start the same command again, it goes on with what is missing"


@dataclass(frozen=True)
class Engine:
    """Where shards are made.

    Attributes:
        name: "local" or "ray".
        workers: number of processes; 0 to use only this one, where a debugger can reach the source; None
            for one per core, or one per GPU if the source uses one. With Ray, the largest number of
            concurrent tasks, and the number of processes of a cluster started here.
        ray_address: "auto" for the cluster running on this machine, "local" to start one for
            this run, or the address of one. All its nodes need rmae_d2, and images and store at
            the same paths.
    """

    name: str = "local"
    workers: int | None = None
    ray_address: str = "auto"

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise UserError(f"--workers {self.workers} must not be negative")

    def num_workers(self, gpus: Sequence[str | None] = ()) -> int:
        """Number of concurrent workers, as far as this machine can tell; ``gpus``: see `gpus_of`."""
        if self.workers is not None:
            return max(self.workers, 1)
        # This process may have fewer cores than the machine; not every system tells.
        affinity = getattr(os, "sched_getaffinity", None)
        return len(gpus) or (len(affinity(0)) if affinity else os.cpu_count() or 1)


@dataclass(frozen=True)
class Summary:
    """The state of a store after a run."""

    failures: Sequence[Failure]  # of all shards in the run's share, whenever they were made
    suspicious: Mapping[int, int]  # shards with too many failures to be chance: how many
    num_there: int  # existing shards of the whole store
    complete: bool  # whether the whole store exists


def make_regions(
    manifest: Manifest,
    folder: str,
    engine: Engine,
    read_image: ReadImage,
    *,
    share: tuple[int, int] = (0, 1),
    retry_failures: bool = False,
    max_failures: float = MAX_FAILURES,
) -> Summary:
    """Make what is missing of a store, and its merged index once everything exists.

    Args:
        manifest: of the store.
        folder: of the store; created if missing.
        engine: where shards are made.
        read_image: picklable.
        share: (i, n) makes the shards s with s % n == i.
        retry_failures: whether shards with failures are made again.
        max_failures: fraction of a full shard's images whose failure counts as chance; of all images if
            there are no more than in a shard of the usual size.

    Raises:
        UserError: the folder cannot be used or holds another store, or machine or source have a problem.
    """
    save_manifest(manifest, folder)
    sweep_drafts(folder)
    numbers = _share(manifest, share)
    if retry_failures:
        for number in numbers:
            if Path(folder, failures_name(number)).exists():
                Path(folder, shard_files(number)[1]).unlink(missing_ok=True)  # no longer complete
    pending = [n for n in numbers if not has_shard(folder, n, manifest.header)]
    total = sum(map(manifest.shard_size, numbers))
    done = total - sum(map(manifest.shard_size, pending))
    logger.info(
        "%s: %d images in %d shards, %d to be made", folder, total, len(numbers), len(pending)
    )
    work = partial(generate_shard, folder=os.path.abspath(folder), read_image=read_image)
    if pending:
        with progress(total, done) as show:
            gpus = gpus_of(manifest.source)
            for number, _ in run_shards(work, manifest, pending, engine, show, gpus):
                if not has_shard(folder, number, manifest.header):
                    raise UserError(
                        f"{shard_name(number)} was made but is not in {folder}: the folder must be "
                        "on a file system that all machines share"
                    )
    num_there = sum(has_shard(folder, n, manifest.header) for n in range(manifest.num_shards))
    complete = num_there == manifest.num_shards
    if complete:
        try:
            write_index(folder)
        except OSError as error:
            raise UserError(f"cannot write {folder}: {describe_trouble(error)}") from error
    failures = {number: read_failures(folder, number) for number in numbers}
    limit = max_failures * max(map(manifest.shard_size, range(manifest.num_shards)))
    suspicious = {
        number: len(found)
        for number, found in failures.items()
        if len(found) > limit or len(found) == manifest.shard_size(number)
    }
    # Shards of a small data set are small, one per worker: it is judged as a whole.
    if total <= IMAGES_PER_SHARD and sum(map(len, failures.values())) <= max_failures * total:
        suspicious = {}
    return Summary(sum(failures.values(), ()), suspicious, num_there, complete)


def verify_regions(
    manifest: Manifest,
    folder: str,
    engine: Engine,
    read_image: ReadImage,
    *,
    share: tuple[int, int] = (0, 1),
) -> list[Problem]:
    """Check every record of a store against its digest and its image; arguments as in `make_regions`."""
    numbers = _share(manifest, share)
    work = partial(verify_shard, folder=os.path.abspath(folder), read_image=read_image)
    with progress(sum(map(manifest.shard_size, numbers))) as show:
        problems = dict(run_shards(work, manifest, numbers, engine, show))
    return [problem for number in sorted(problems) for problem in problems[number]]


def gpus_of(spec: SourceSpec) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES for each worker if the source has an argument `device`; [] for sources on CPUs.

    If omitted or "cuda", the argument means the one GPU that each worker sees; "cuda:1" is used as it is.
    """
    if "device" not in inspect.signature(spec.load()).parameters:
        return []
    device = spec.arguments.get("device")
    if device not in (None, "cuda"):
        return [None] if str(device).startswith("cuda") else []
    return list(visible_gpus())


def visible_gpus() -> list[str]:
    """This process's GPUs, by their names in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else list(map(str, range(count)))


def sweep_drafts(folder: str) -> None:
    """Remove drafts untouched for an hour: a running job writes to its draft after each image."""
    for draft in filter(Path.is_file, Path(folder).glob("*.tmp")):
        with suppress(FileNotFoundError):  # another run was faster
            old = time.time() - draft.stat().st_mtime > _DRAFT_SECONDS
            if old and not is_being_written(draft):
                draft.unlink()
                logger.info("removed %s, left by a run that was killed", draft)


def _share(manifest: Manifest, share: tuple[int, int]) -> list[int]:
    index, count = share
    if not 0 <= index < count:
        raise UserError(f"--shard-index {index} must be in 0 ... {count - 1} (--num-shards - 1)")
    return list(range(index, manifest.num_shards, count))


class _LogLines(io.StringIO):
    """Turns the output of a progress bar into log lines."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.info("%s", text.strip())
        return len(text)


@contextmanager
def progress(total: int, done: int = 0) -> Iterator[Show]:
    """Show progress out of `total` images, `done` of them earlier: a bar on a terminal, else log lines."""
    options: dict[str, Any] = {"total": total, "initial": done, "unit": "img", "smoothing": 0.05}
    if sys.stderr.isatty():
        options |= {"dynamic_ncols": True}
    else:
        text = "{n_fmt} of {total_fmt} images, {rate_fmt}, {remaining} left{postfix}"
        options |= {"mininterval": _LOG_SECONDS, "file": _LogLines(), "bar_format": text}
    with logging_redirect_tqdm(), tqdm(**options) as bar:

        def show(counts: Sequence[int]) -> None:
            bar.set_postfix_str(_details(*counts), refresh=False)
            bar.update(done + counts[0] - bar.n)

        yield show


def _details(images: int, num_bytes: int, failures: int) -> str:
    return f"{num_bytes / max(1, images - failures):,.0f} B/img, {failures} failed"


# ------------------------------------------------------------------------------------ engines


def run_shards(
    work: Work,
    manifest: Manifest,
    numbers: Sequence[int],
    engine: Engine,
    show: Show,
    gpus: Sequence[str | None] = (),
) -> Results:
    """Process one or more shards, wherever the engine says; `gpus`: see `gpus_of`.

    Raises:
        UserError: the work raised one, a worker died, or there is no such cluster.
    """
    if engine.name == "ray":
        yield from _run_ray(work, manifest, numbers, engine, show, bool(gpus))
    elif engine.workers == 0:
        counts = np.zeros(3, np.int64)

        def report(num_bytes: int) -> None:
            _count(counts, num_bytes)
            show(counts.tolist())

        for number in numbers:
            yield number, work(manifest, number, report=report)
    else:
        workers = min(engine.num_workers(gpus), len(numbers))
        yield from _run_pool(work, manifest, numbers, workers, show, gpus or [None])


def _run_pool(
    work: Work,
    manifest: Manifest,
    numbers: Sequence[int],
    workers: int,
    show: Show,
    gpus: Sequence[str | None],
) -> Results:
    """Process shards in single-threaded worker processes, which end when this one does, however it ends.

    They are forked from a server that has everything imported but inherits nothing, so CUDA works in them.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    counts = context.RawArray("q", 3 * len(numbers))  # per shard; written only by its worker
    places = context.SimpleQueue()
    for i in range(workers):
        places.put(gpus[i % len(gpus)])
    theirs, lifeline = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _begin_worker, (theirs, places, counts))
    try:
        futures = {}
        with _single_threaded():
            for row, number in enumerate(numbers):
                part = manifest.part(number)
                futures[pool.submit(_do_shard, work, part, number, row)] = number
        while futures:
            ended, _ = wait(futures, _SHOW_SECONDS, FIRST_COMPLETED)
            show(_table(counts).sum(axis=0).tolist())
            for future in ended:
                yield futures.pop(future), future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, as when the system kills it because memory runs out: "
            f"{_AGAIN}; use fewer --workers if this happens again"
        ) from error
    finally:
        lifeline.close()
        pool.shutdown()


def _begin_worker(lifeline: Connection, places: Any, counts: Any) -> None:
    """Initialize a worker process, which lives until the other end of the lifeline closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the parent, which then stops us
    signal.signal(signal.SIGTERM, _stop)
    gpu = places.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    global _counts
    _counts = _table(counts)

    def watch() -> None:
        lifeline.poll(None)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(_STOP_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _stop(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the pool sends it too
    sys.exit(1)  # through `finally` and `with`, so that drafts are removed


_counts: NDArray[np.int64]  # in a worker: those of all shards of the run


def _do_shard(work: Work, part: Manifest, number: int, row: int) -> Any:
    try:
        return work(part, number, report=partial(_count, _counts[row]))
    except SystemExit:
        os._exit(1)  # otherwise the pool would take it for an error of the task


def _count(counts: NDArray[np.int64], num_bytes: int) -> None:
    """Add an image to the counts of images, bytes and failures."""
    counts += (1, num_bytes, num_bytes == 0)


def _table(counts: Any) -> NDArray[np.int64]:
    return np.frombuffer(counts, np.int64).reshape(-1, 3)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started inside use one thread each, because there is one process per core already."""
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name in _THREADS:
            del os.environ[name]
        os.environ.update(before)


def _run_ray(
    work: Work, manifest: Manifest, numbers: Sequence[int], engine: Engine, show: Show, gpu: bool
) -> Results:
    """Process shards as tasks on a Ray cluster, retrying after the loss of a worker or node."""
    ray = connect(engine)
    try:
        if gpu and not ray.cluster_resources().get("GPU"):
            raise UserError("the Ray cluster has no GPU: give device=cpu, or start one that has")
        task = ray.remote(_ray_task).options(
            num_cpus=1, num_gpus=int(gpu), max_retries=RAY_RETRIES, retry_exceptions=False
        )
        counts = np.zeros(3, np.int64)

        def arguments(number: int) -> tuple[Any, ...]:
            return work, manifest.part(number), number, os.getcwd()

        for number, result in ray_calls(ray, task, numbers, arguments, engine):
            if isinstance(result, ray.exceptions.RayError):
                raise UserError(
                    f"Ray gave {shard_name(number)} up after {RAY_RETRIES} retries: {_AGAIN}. "
                    f"Its reason: {' '.join(str(result).split())[:300]}"
                ) from result
            counts += result[1]
            show(counts.tolist())
            yield number, result[0]
    finally:
        ray.shutdown()  # on a cluster started by others, this ends only this run's tasks


def ray_calls(
    ray: Any,
    task: Any,
    numbers: Sequence[int],
    arguments: Callable[[int], tuple[Any, ...]],
    engine: Engine,
) -> Iterator[tuple[int, Any]]:
    """Call a Ray task for each number, limiting concurrency as the engine says.

    Args:
        ray: the result of `connect`.
        task: a remote function.
        arguments: gives the arguments of the call for a number.

    Yields:
        number and the result of its call, or the RayError after which Ray gave it up, as soon as it ends.
    """
    waiting = list(reversed(numbers))
    running: dict[Any, int] = {}
    while waiting or running:
        # Twice the number of cores, so that none waits for the next task; the cluster may grow.
        room = engine.workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while waiting and len(running) < room:
            number = waiting.pop()
            running[task.remote(*arguments(number))] = number
        for reference in ray.wait(list(running), num_returns=1, timeout=5)[0]:
            number = running.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                result = error
            yield number, result


def connect(engine: Engine) -> Any:
    """Ray, connected to the engine's cluster; UserError if there is none."""
    ray = needed("ray", "ray", "the engine ray, on every node,")
    options: dict[str, Any] = {"address": engine.ray_address, "logging_level": logging.WARNING}
    if engine.ray_address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {
            "num_cpus": engine.workers or None,
            "include_dashboard": False,
            "object_store_memory": _RAY_STORE_BYTES,
        }
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # Ray's handler would exit at once
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"no Ray cluster at {engine.ray_address} ({error}): start one with `ray start --head`, "
            "add nodes with `ray start --address=HOST:6379`, or use --ray-address local"
        ) from error
    return ray


def _ray_task(
    work: Work, part: Manifest, number: int, folder: str
) -> tuple[Any, NDArray[np.int64]]:
    """Runs on a node; returns the work's result, and counts of images, bytes and failures."""
    if os.path.isdir(folder):
        os.chdir(folder)  # a source's arguments may be relative paths
    counts = np.zeros(3, np.int64)
    return work(part, number, report=partial(_count, counts)), counts
