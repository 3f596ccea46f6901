"""Every process of a run, however it was started; and one line that says what went wrong."""

import argparse
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ..errors import UserError
from .guardian import Meeting
from .hooks import SaveOnSignal
from .start import Start, check_flags, how_started, wants_cpu
from .watchdog import EndedBySignal, Watchdog

#: The environment's way to keep GPUs out of sight, of child processes too.
_VISIBLE = "CUDA_VISIBLE_DEVICES"

#: Of the watchdog's keys in the process group's store.
_PREFIX = "rmae_d2/watchdog"

Main = Callable[[argparse.Namespace], Any]


def launch_training(main: Main, args: argparse.Namespace) -> None:
    """Runs ``main`` in every process of a run, however that was started; see :func:`~.start.how_started`.

    Alone, it runs here; with ``--num-gpus`` or ``--num-machines``, in processes of Detectron2's launcher;
    under torchrun or srun, here again, as one of their ranks. Of several, a process that fails or is lost
    ends all, see :mod:`~.watchdog`. SIGTERM, SIGUSR1 and SIGUSR2 reach every process, which save and end.

    Args:
        main: run in every process.
        args: of Detectron2's ``default_argument_parser``.

    Raises:
        SystemExit: with the message of the error that ended the run, the first of all processes.
    """
    try:
        start = how_started()
        check_flags(start, args)
    except UserError as error:
        sys.exit(f"error: {error}")
    if wants_cpu(args.opts):
        os.environ[_VISIBLE] = ""  # the launchers would choose NCCL, which has nothing for a CPU
    args.num_gpus = max(args.num_gpus, 1)  # 0 is accepted on a CPU, which takes one process
    if start is None and args.num_gpus * args.num_machines > 1:
        _start_processes(main, args)
    elif start is not None and start.world_size > 1:
        _join(main, args, start)
    else:
        try:
            main(args)
        except UserError as error:
            sys.exit(f"error: {error}")


def _start_processes(main: Main, args: argparse.Namespace) -> None:
    """Detectron2's launcher, signals passed on to the processes it starts."""
    for number in SaveOnSignal.SIGNALS:
        signal.signal(number, _forward)
    url = f"tcp://127.0.0.1:{_free_port()}" if args.dist_url == "auto" else args.dist_url
    address = urlsplit(url)
    if args.num_machines > 1 and args.dist_url == "auto" or address.port is None:
        sys.exit(
            f"error: --dist-url {args.dist_url}: tcp://HOST:PORT, of the machine with --machine-rank 0; auto "
            "is for one machine"
        )
    meeting = Meeting(str(address.hostname), address.port, "rank 0", _PREFIX)
    messages = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        launch(
            _run_started,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=url,
            args=(main, args, meeting, messages),
        )
    except (ProcessExitedException, ProcessRaisedException) as error:
        if not messages.empty():
            sys.exit(f"error: {messages.get()}")
        if isinstance(error, ProcessRaisedException):
            raise
        rank = args.machine_rank * args.num_gpus + error.error_index
        sys.exit(f"error: rank {rank} ({socket.gethostname()}) was lost: {error}")


def _run_started(main: Main, args: argparse.Namespace, meeting: Meeting, messages: Any) -> None:
    """In a process of Detectron2's launcher, which shows what comes through ``messages``."""
    _run_watched(main, args, Watchdog(meeting, messages.put, UserError))


def _join(main: Main, args: argparse.Namespace, start: Start) -> None:
    """As Detectron2's launcher does in the processes that it starts."""
    use_cuda = torch.cuda.is_available() and not wants_cpu(args.opts)
    if use_cuda:
        torch.cuda.set_device(start.local_rank % torch.cuda.device_count())
    try:
        dist.init_process_group(
            "nccl" if use_cuda else "gloo",
            init_method=f"tcp://{start.address}:{start.port}",
            world_size=start.world_size,
            rank=start.rank,
            timeout=DEFAULT_TIMEOUT,
        )
    except dist.DistError as error:
        sys.exit(
            f"error: rank {start.rank} did not find the others at {start.address}:{start.port}: {error}"
        )
    comm.create_local_process_group(start.local_size)
    comm.synchronize()
    # Of torchrun, the agent keeps the store, and keeps it over restarts of its processes.
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    meeting = Meeting(
        start.address,
        start.port,
        "torchrun of the first machine" if agent else "rank 0",
        f"{_PREFIX}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}",
    )
    _run_watched(main, args, Watchdog(meeting, _show, UserError))


def _run_watched(main: Main, args: argparse.Namespace, watchdog: Watchdog) -> None:
    watchdog.start()
    before = signal.signal(signal.SIGTERM, _end)
    stopped: SystemExit | None = None
    try:
        main(args)
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            watchdog.fail(error)
        stopped = error
    watchdog.finish()
    signal.signal(signal.SIGTERM, before)
    dist.destroy_process_group()
    if stopped is not None:
        raise stopped


def _show(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    raise EndedBySignal(number)


def _forward(number: int, frame: FrameType | None) -> None:
    for child in multiprocessing.active_children():
        if child.pid is not None:
            os.kill(child.pid, number)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
