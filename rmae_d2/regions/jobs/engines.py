"""Where shards of regions are made: in this process, in worker processes, on a Ray cluster.

All engines run the same function on the same shards, so their stores are equal byte for byte. An
engine yields what the function returned for each shard, or `Lost` where its process died twice.
"""

import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection as mp_connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from ...errors import UserError
from .manifest import Manifest

logger = logging.getLogger(__name__)

#: `generate_shard` or `verify_shard` with all but manifest, number and report given.
Work = Callable[..., Any]
#: Numbers of shards as they end, each with what its work returned, or `Lost`.
Outcomes = Generator[tuple[int, Any], None, None]

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_REPORT_SECONDS = 0.2
_STOP_SECONDS = 10.0
_RAY_RETRIES = 3
_RAY_STORE_BYTES = 100_000_000  # results are a few hundred bytes each


@dataclass(frozen=True)
class Lost:
    """A shard whose process died, and again when it was tried once more."""

    reason: str


class Progress(Protocol):
    """What engines tell of their progress."""

    def shard(self, number: int, images: int, num_bytes: int, failures: int) -> None:
        """So much of a shard is done; again from 0 when it is tried once more."""


@dataclass
class _Count:
    """Counts a shard's images and passes the counts on, a few times a second."""

    send: Callable[[int, int, int], None]
    images: int = 0
    num_bytes: int = 0
    failures: int = 0
    _sent: float = field(default_factory=time.monotonic)

    def __call__(self, num_bytes: int) -> None:
        self.images += 1
        self.num_bytes += num_bytes
        self.failures += num_bytes == 0
        if time.monotonic() - self._sent > _REPORT_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._sent = time.monotonic()
        self.send(self.images, self.num_bytes, self.failures)


# ------------------------------------------------------------------------------- this process


def run_here(
    work: Work, manifest: Manifest, numbers: Sequence[int], progress: Progress
) -> Outcomes:
    """Shards one after the other in this process, where a debugger reaches the source."""
    for number in numbers:
        count = _Count(lambda *counts, number=number: progress.shard(number, *counts))
        result = work(manifest, number, report=count)
        count.flush()
        yield number, result


# --------------------------------------------------------------------------- worker processes


def run_local(
    work: Work,
    manifest: Manifest,
    numbers: Sequence[int],
    progress: Progress,
    workers: int,
    gpus: Sequence[str | None] = (),
) -> Outcomes:
    """Shards in worker processes, each with one thread.

    A worker that dies, as when the system runs out of memory, is replaced and its shard tried once
    more, after the others. Workers end when this process does, however it ends.

    Args:
        work: picklable.
        manifest: of all shards.
        numbers: of the shards to run.
        progress: told a few times a second.
        workers: processes, at least 1.
        gpus: CUDA_VISIBLE_DEVICES of the workers in turn; empty or None leaves it as it is.

    Raises:
        UserError: one that a worker raised, or workers die without finishing anything.
    """
    waiting = deque(numbers)
    deaths: Counter[int] = Counter()
    in_a_row = 0
    slots: list[_Worker] = []
    try:
        with _single_threaded():
            context = _context()
            slots = [_Worker(context, work, gpus, i) for i in range(min(workers, len(waiting)))]
        while True:
            for slot in slots:
                if slot.number is None and waiting:
                    slot.give(manifest, waiting.popleft())
            busy = {slot.connection: slot for slot in slots if slot.number is not None}
            if not busy:
                return
            for ready in mp_connection.wait(list(busy)):
                slot = busy[ready]  # type: ignore[index]
                number = slot.number
                assert number is not None
                kind, value = slot.receive()
                if kind == "progress":
                    progress.shard(number, *value)
                elif kind == "error":
                    raise UserError(value)
                elif kind == "done":
                    counts, result = value
                    progress.shard(number, *counts)
                    in_a_row = 0
                    slot.number = None
                    yield number, result
                else:
                    progress.shard(number, 0, 0, 0)
                    deaths[number] += 1
                    in_a_row += 1
                    if in_a_row > 2 * len(slots) + 1:
                        raise UserError(f"workers keep dying, the last one {value}")
                    with _single_threaded():
                        slots[slots.index(slot)] = _Worker(context, work, gpus, slot.place)
                    if deaths[number] > 1:
                        yield number, Lost(f"its process {value}")
                    else:
                        logger.warning(
                            "Shard %d: its process %s. It is tried again.", number, value
                        )
                        waiting.append(number)
    finally:
        _stop(slots)


class _Worker:
    """A worker process, the connection to it, and the shard it is at (None: it waits)."""

    def __init__(
        self,
        context: ForkServerContext | SpawnContext,
        work: Work,
        gpus: Sequence[str | None],
        place: int,
    ) -> None:
        self.place = place
        self.number: int | None = None
        gpu = gpus[place % len(gpus)] if gpus else None
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, work, gpu), daemon=True
        )
        self.process.start()
        theirs.close()

    def give(self, manifest: Manifest, number: int) -> None:
        self.number = number
        with suppress(OSError):  # where it is dead, as `receive` will find
            self.connection.send((manifest.part(number), number))

    def receive(self) -> tuple[str, Any]:
        """A message, or ("died", how)."""
        try:
            return self.connection.recv()  # type: ignore[no-any-return]
        except (EOFError, OSError):
            self.process.join()
            self.connection.close()
        code = self.process.exitcode or 0
        if code == -signal.SIGKILL:
            return "died", "was killed, as systems do when memory runs out (use fewer workers)"
        if code < 0:
            return "died", f"crashed ({signal.Signals(-code).name})"
        return "died", f"ended with exit code {code}"


def _stop(slots: Sequence[_Worker]) -> None:
    for slot in slots:
        slot.process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    for slot in slots:
        slot.process.join(max(0.0, deadline - time.monotonic()))
        if slot.process.is_alive():
            slot.process.kill()
            slot.process.join()
        slot.connection.close()


def _context() -> ForkServerContext | SpawnContext:
    """Processes that inherit nothing, so that CUDA works in them; imports are done once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started inside compute with one thread each: there is one a core already."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, work: Work, gpu: str | None) -> None:
    """A worker's life: shards come in, counts and results go out, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the parent, which then stops us
    signal.signal(signal.SIGTERM, _exit)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    _limit_threads()
    while True:
        try:
            part, number = connection.recv()
        except (EOFError, OSError):
            return
        count = _Count(lambda *counts: _send(connection, ("progress", counts)))
        try:
            result = work(part, number, report=count)
        except UserError as error:
            _send(connection, ("error", str(error)))
        except Exception:
            _send(connection, ("error", f"shard {number} failed\n{traceback.format_exc()}"))
        else:
            counts = (count.images, count.num_bytes, count.failures)
            _send(connection, ("done", (counts, result)))


def _send(connection: Connection, message: tuple[str, Any]) -> None:
    try:
        connection.send(message)
    except OSError:
        sys.exit(1)  # the parent is gone


def _exit(number: int, frame: object) -> None:
    sys.exit(1)  # through `finally` and `with`, so that drafts are removed


def _limit_threads() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


# ---------------------------------------------------------------------------------------- Ray


def run_ray(
    work: Work,
    manifest: Manifest,
    numbers: Sequence[int],
    progress: Progress,
    address: str = "auto",
    workers: int | None = None,
    gpu: bool = False,
) -> Outcomes:
    """Shards as tasks of a Ray cluster, tried again where a worker or a node is lost.

    rmae_d2 must be installed on all nodes; images and store must have the same paths on all.

    Args:
        work: as for `run_local`.
        manifest: of all shards.
        numbers: of the shards to run.
        progress: told when a shard is done.
        address: "auto" for the cluster that runs on this machine, "local" to start one here for
            this call, else the address of one.
        workers: with "local", processes; else the most tasks at a time. None for all cores.
        gpu: whether a task takes one GPU.

    Raises:
        UserError: Ray is not installed, there is no cluster, or an error that a task raised.
    """
    ray = _connect(address, workers)
    try:
        resources = ray.cluster_resources()
        if gpu and not resources.get("GPU"):
            raise UserError("the Ray cluster has no GPU: give device=cpu, or start one that has")
        task = ray.remote(_ray_task).options(
            num_cpus=1, num_gpus=int(gpu), max_retries=_RAY_RETRIES, retry_exceptions=False
        )
        waiting = deque(numbers)
        running: dict[Any, int] = {}
        while waiting or running:
            # Twice the cores, so that none waits for the next task; the cluster may grow.
            room = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while waiting and len(running) < room:
                number = waiting.popleft()
                running[task.remote(work, manifest.part(number), number, os.getcwd())] = number
            done, _ = ray.wait(list(running), num_returns=1, timeout=5)
            for reference in done:
                number = running.pop(reference)
                try:
                    kind, value = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise UserError(f"shard {number} failed\n{error}") from error
                except ray.exceptions.RayError as error:
                    reason = " ".join(str(error).split())[:300]
                    yield number, Lost(f"Ray gave it up after {_RAY_RETRIES} retries: {reason}")
                    continue
                if kind == "error":
                    raise UserError(value)
                counts, result = value
                progress.shard(number, *counts)
                yield number, result
    finally:
        ray.shutdown()  # of a cluster that others started, it ends this run's tasks only


def _connect(address: str, workers: int | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "the engine ray needs Ray: pip install 'rmae_d2[ray]', on every node"
        ) from error
    options: dict[str, Any] = {"address": address, "logging_level": logging.WARNING}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {
            "num_cpus": workers or None,
            "include_dashboard": False,
            "object_store_memory": _RAY_STORE_BYTES,
        }
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"no Ray cluster at {address} ({error}): start one with `ray start --head`, add nodes "
            "with `ray start --address=HOST:6379`, or use --ray-address local"
        ) from error
    return ray


def _ray_task(work: Work, part: Manifest, number: int, folder: str) -> tuple[str, Any]:
    """Runs on a node; ("done", (counts, result)) or ("error", message)."""
    if os.path.isdir(folder):
        os.chdir(folder)  # a source's arguments may be relative paths
    _limit_threads()
    count = _Count(lambda *counts: None)
    try:
        result = work(part, number, report=count)
    except UserError as error:
        return "error", str(error)
    return "done", ((count.images, count.num_bytes, count.failures), result)
