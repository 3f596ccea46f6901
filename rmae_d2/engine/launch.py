"""Set up every process of a run, however it was started, and report failures in one line."""

import argparse
import json
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import active_children
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    SignalException,
    start_processes,
)

from ..errors import UserError
from ..signals import SAVING
from .hooks import say_how_to_end_at_once
from .ring import EndedBySignal, Ring

#: The environment variables that torchrun sets in every process.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

#: Set in addition, in processes started by ``--num-gpus``: what started them.
_LAUNCHER = "RMAE_D2_LAUNCHER"

#: The file in which torchrun and ``--num-gpus`` look for the reason why a process failed.
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"

Main = Callable[[argparse.Namespace], Any]


@dataclass(frozen=True)
class Start:
    """A process started by a launcher as one of several.

    Args:
        launcher: its name, for messages.
        rank: rank of this process, from 0 to ``world_size`` - 1; ranks on one machine are consecutive.
        local_rank: rank among the ``local_size`` processes on this machine.
        address: host of rank 0.
        port: on that host, for the rendezvous of the processes.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_size: int
    address: str
    port: int

    def __post_init__(self) -> None:
        if self.world_size % self.local_size or self.local_rank != self.rank % self.local_size:
            raise UserError(
                f"{self.launcher} made this process rank {self.rank} of {self.world_size}, and number "
                f"{self.local_rank} of {self.local_size} on its machine: every machine must have equally "
                "many, with ranks that follow each other (srun: --ntasks-per-node=N --distribution=block)"
            )


def launch_training(main: Main, args: argparse.Namespace) -> None:
    """Run ``main`` in every process of a run, however it was started; see `how_started`.

    A single process runs here; with ``--num-gpus`` or ``--num-machines``, PyTorch's elastic launcher starts
    the processes; under torchrun, srun or submitit, this process is already one of the ranks. If one of
    several ranks fails or is lost, all of them end, see `ring`. SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 reach
    all ranks, which save and end.

    Args:
        main: run in every process.
        args: from Detectron2's ``default_argument_parser``.

    Raises:
        SystemExit: with the message of the error that ended the run, the first among all processes.
    """
    try:
        start = how_started()
        check_flags(start, args)
    except UserError as error:
        sys.exit(f"error: {error}")
    if wants_cpu(args.opts):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # also for child processes
    if start is None and max(args.num_gpus, 1) * args.num_machines > 1:
        _start_ranks(main, args)
    elif start is not None and start.world_size > 1:
        _run_rank(main, args)
    else:
        try:
            main(args)
        except UserError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            _exit_interrupted()


def _start_ranks(main: Main, args: argparse.Namespace) -> None:
    """Start this machine's ranks, which find each other as under torchrun, and forward signals to them."""
    if not hasattr(signal, "pthread_sigmask"):
        sys.exit(
            "error: several processes train together on Linux and macOS only; leave out --num-gpus"
        )
    url = f"tcp://127.0.0.1:{_free_port()}" if args.dist_url == "auto" else args.dist_url
    address = urlsplit(url)
    if args.num_machines > 1 and args.dist_url == "auto" or address.port is None:
        sys.exit(
            f"error: --dist-url {args.dist_url}: tcp://HOST:PORT, of the machine with --machine-rank 0; auto "
            "is for one machine"
        )
    size = max(args.num_gpus, 1)
    first = args.machine_rank * size
    # Warnings about processes that end would come after the processes' own messages.
    for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    envs = {}
    for i in range(size):
        values = (first + i, size * args.num_machines, i, size, address.hostname, address.port)
        envs[i] = dict(zip(_TORCHRUN, map(str, values), strict=True))
        envs[i][_LAUNCHER] = "--num-gpus and --num-machines"
    before = signal.getsignal(signal.SIGINT)
    with tempfile.TemporaryDirectory(prefix="rmae_d2_") as folder:
        # Ctrl-C reaches the whole group; the ranks inherit the block until they can handle it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        ranks = start_processes(
            "rank",
            _run_rank,
            dict.fromkeys(range(size), (main, args)),
            envs,
            DefaultLogsSpecs(folder),
            start_method="spawn",
        )
        for number in SAVING:
            signal.signal(number, _forward)  # elastic's own handler allows only 30 s for saving
        signal.signal(signal.SIGINT, before if before is signal.SIG_IGN else _interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        try:
            result = ranks.wait(period=0.2)
        except SignalException as stopped:
            ranks.close(signal.SIGTERM)
            sys.exit(f"error: ended by {stopped.sigval.name}")
        for local_rank, failure in (result.failures if result else {}).items():
            if "timestamp" in failure.error_file_data:
                sys.exit(f"error: {failure.message}")
            if signal.getsignal(signal.SIGINT) is _kill:
                _exit_interrupted()
            how = failure.message if failure.exitcode < 0 else f"exit code {failure.exitcode}"
            who = f"rank {first + local_rank} ({socket.gethostname()})"
            sys.exit(f"error: {who} was lost: its process is gone ({how})")


def _run_rank(main: Main, args: argparse.Namespace) -> None:
    """Run ``main`` in a process that is one of several, joined with the others."""
    start = how_started()
    assert start is not None
    use_cuda = torch.cuda.is_available() and not wants_cpu(args.opts)
    if use_cuda:
        torch.cuda.set_device(start.local_rank % torch.cuda.device_count())
    ring = Ring(start.address, start.port, _report)
    try:
        dist.init_process_group(
            "nccl" if use_cuda else "gloo",
            init_method=f"tcp://{start.address}:{start.port}",
            world_size=start.world_size,
            rank=start.rank,
            timeout=DEFAULT_TIMEOUT,
        )
        comm.create_local_process_group(start.local_size)
        ring.join()
    except (RuntimeError, OSError) as error:
        where = f"{start.address}:{start.port}"
        _report(f"rank {start.rank} did not find the others at {where}: {error}")
        sys.exit(1)
    before = signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    stopped: SystemExit | None = None
    try:
        try:
            main(args)
        except SystemExit as error:
            if error.code:
                raise
            stopped = error
        ring.leave()
    except BaseException as error:
        ring.fail(error)
    signal.signal(signal.SIGTERM, before)
    dist.destroy_process_group()
    if stopped is not None:
        raise stopped


def _report(message: str) -> None:
    """Show the message here, or let ``--num-gpus`` do so once all have ended; torchrun repeats it."""
    if _ERROR_FILE in os.environ:
        with open(os.environ[_ERROR_FILE], "w") as file:
            json.dump({"message": message, "timestamp": int(time.time())}, file)
    if _LAUNCHER not in os.environ:
        # Text and newline in one write: several ranks say it at once, and unbuffered they would mix.
        print(f"error: {message}\n", end="", file=sys.stderr, flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    for other in (signal.SIGTERM, signal.SIGINT):  # the launcher sends one, the terminal the other
        signal.signal(other, signal.SIG_IGN)
    name = signal.Signals(number).name
    raise EndedBySignal(f"ended by {name}; there was no training under way to save")


def _forward(number: int, frame: FrameType | None) -> None:
    for child in active_children():
        if child.pid is not None:
            os.kill(child.pid, number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """First Ctrl-C: let the ranks save and end."""
    signal.signal(signal.SIGINT, _kill)
    say_how_to_end_at_once()
    _forward(signal.SIGTERM, frame)


def _kill(number: int, frame: FrameType | None) -> None:
    """Second Ctrl-C."""
    for child in active_children():
        child.kill()
    _exit_interrupted()


def _exit_interrupted() -> NoReturn:
    print("error: interrupted from the keyboard", file=sys.stderr, flush=True)
    sys.exit(128 + signal.SIGINT)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def how_started(env: Mapping[str, str] = os.environ) -> Start | None:
    """Determine from the environment how a launcher started this process.

    Returns:
        None if this process is alone or will start the others itself. A Slurm shell counts as alone, and so
        does a step with one task: only ``srun`` with several tasks makes ranks of them.

    Raises:
        UserError: the environment is contradictory.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        return _torchrun(env)
    if int(env.get("SUBMITIT_LOCAL_NTASKS", 1)) > 1:
        number, rank = (int(env[f"SUBMITIT_LOCAL_{x}"]) for x in ("NTASKS", "GLOBALID"))
        port = _port(int(env["SUBMITIT_LOCAL_JOB_ID"]))
        return Start("submitit on this machine", rank, number, rank, number, "127.0.0.1", port)
    if _slurm_tasks(env) > 1:
        return _srun(env)
    return None


def check_flags(start: Start | None, args: argparse.Namespace) -> None:
    """Check the launch flags against how the process was started and against the machine.

    Raises:
        UserError: they are contradictory.
    """
    if start is not None and (args.num_gpus, args.num_machines, args.machine_rank) != (1, 1, 0):
        raise UserError(
            f"--num-gpus {args.num_gpus} --num-machines {args.num_machines} --machine-rank "
            f"{args.machine_rank} under {start.launcher}, which has started {start.world_size} processes "
            f"({start.local_size} per machine) already: leave these flags out"
        )
    on_cpu = wants_cpu(args.opts) or not torch.cuda.is_available()
    if args.num_gpus < (0 if on_cpu else 1) or args.num_machines < 1:
        raise UserError(
            f"--num-gpus {args.num_gpus} --num-machines {args.num_machines}: at least 1 each; "
            "train.device=cpu leaves the GPUs alone"
        )
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank {args.machine_rank}: from 0 to --num-machines - 1 = {args.num_machines - 1}"
        )
    if on_cpu:
        return
    local_size, gpus = start.local_size if start else args.num_gpus, torch.cuda.device_count()
    # Slurm may show each task only its own GPU.
    if local_size > gpus and not (start is not None and gpus == 1 and "SLURM_PROCID" in os.environ):
        what = f"{start.launcher}: {local_size} processes" if start else f"--num-gpus {local_size}"
        raise UserError(
            f"{what} on a machine with {gpus} GPU{'s' if gpus > 1 else ''}: one process per GPU, or "
            "train.device=cpu"
        )


def wants_cpu(opts: list[str]) -> bool:
    """Whether the overrides request the CPU."""
    devices = [opt.partition("=")[2] for opt in opts if opt.startswith("train.device=")]
    return bool(devices) and devices[-1] == "cpu"


def describe_start() -> str:
    """For the first line of the log; call it in a process that has joined its group."""
    start = how_started()
    if start is None:
        return "started alone"
    many = f", {start.local_size} per machine" if start.world_size > 1 else ""
    return f"started by {start.launcher}: rank {start.rank} of {start.world_size}{many}"


def _torchrun(env: Mapping[str, str]) -> Start | None:
    missing = [name for name in _TORCHRUN if name not in env]
    if missing and int(env["WORLD_SIZE"]) == 1:
        return None
    if missing:
        raise UserError(
            f"the environment has RANK={env['RANK']} and WORLD_SIZE={env['WORLD_SIZE']}, but not "
            f"{', '.join(missing)}: start with torchrun, which sets them all, or unset RANK and WORLD_SIZE"
        )
    rank, world_size, local_rank, local_size = (int(env[name]) for name in _TORCHRUN[:4])
    address, port = env["MASTER_ADDR"], int(env["MASTER_PORT"])
    launcher = env.get(_LAUNCHER, "torchrun")
    return Start(launcher, rank, world_size, local_rank, local_size, address, port)


def _slurm_tasks(env: Mapping[str, str]) -> int:
    """Number of tasks in this ``srun`` step; 1 outside of one.

    The shells of ``sbatch`` and ``salloc`` also have SLURM_PROCID and SLURM_NTASKS, for the whole job.
    """
    step = any(f"SLURM_STEP_{name}" in env for name in ("ID", "NODELIST", "NUM_TASKS"))
    if not step or "SLURM_PROCID" not in env:
        return 1
    return int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or 1)


def _srun(env: Mapping[str, str]) -> Start:
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    address = env.get("MASTER_ADDR") or (first_host(nodes) if nodes else None)
    if address is None:
        raise UserError(
            "srun left neither SLURM_STEP_NODELIST nor SLURM_JOB_NODELIST: set MASTER_ADDR"
        )
    job = int(env.get("SLURM_JOB_ID", 0)) + int(env.get("SLURM_STEP_ID", 0))
    port = int(env.get("MASTER_PORT") or _port(job))
    rank, local_rank = int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"])
    number = _slurm_tasks(env)
    # "2(x3)"; if Slurm does not say, all tasks are on this machine
    text = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or str(number)
    match = re.fullmatch(r"(\d+)(\(x\d+\))?", text)
    if match is None:
        raise UserError(
            f"srun gives machines different numbers of tasks ({text}): use --ntasks-per-node=N"
        )
    return Start("srun", rank, number, local_rank, int(match[1]), address, port)


def first_host(nodes: str) -> str:
    """The first host in Slurm's notation, ``rack[1-2]n[07-09,12],other``."""
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes.strip())
    if match is None:
        raise UserError(f"SLURM_STEP_NODELIST={nodes!r} names no host: set MASTER_ADDR")
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", match.group())


def _port(number: int) -> int:
    """A port below those that systems assign themselves, different for each job."""
    return 10_000 + number % 20_000
