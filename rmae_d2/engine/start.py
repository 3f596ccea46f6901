"""How this process was started: alone, by Detectron2's flags, or as one of several by torchrun or srun."""

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.utils import comm

from ..errors import UserError

#: What torchrun puts into the environment of every process, and others in its place.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Start:
    """A process that a launcher started as one of several.

    Args:
        launcher: its name, for people.
        rank: of this process, from 0 to ``world_size`` - 1; ranks of a machine follow each other.
        local_rank: among those of this machine, of which there are ``local_size``.
        address: host of rank 0.
        port: on that host, where the processes find each other.
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


def how_started(env: Mapping[str, str] = os.environ) -> Start | None:
    """Reads the environment that launchers leave.

    Returns:
        None where this process is alone, or is to start others itself. A shell of Slurm's counts as alone,
        and so does a step with one task: only ``srun`` with several tasks makes ranks of them.

    Raises:
        UserError: where the environment contradicts itself.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        return _torchrun(env)
    if int(env.get("SUBMITIT_LOCAL_NTASKS", 1)) > 1:
        return _submitit_local(env)
    if _slurm_tasks(env) > 1:
        return _srun(env)
    return None


def check_flags(start: Start | None, args: argparse.Namespace) -> None:
    """Compares the flags of Detectron2's launcher with how the process was started, and with the machine.

    Raises:
        UserError: where they contradict each other.
    """
    if start is not None and (args.num_gpus, args.num_machines, args.machine_rank) != (1, 1, 0):
        raise UserError(
            f"--num-gpus {args.num_gpus} --num-machines {args.num_machines} --machine-rank "
            f"{args.machine_rank} under {start.launcher}, which has started {start.world_size} processes "
            f"({start.local_size} a machine) already: leave these flags out"
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
    local_size, gpus = (
        start.local_size if start else args.num_gpus,
        torch.cuda.device_count(),
    )
    # Slurm may show each task its own GPU only.
    if local_size > gpus and not (start is not None and gpus == 1 and "SLURM_PROCID" in os.environ):
        what = f"{start.launcher}: {local_size} processes" if start else f"--num-gpus {local_size}"
        raise UserError(
            f"{what} on a machine with {gpus} GPU{'s' if gpus > 1 else ''}: one process a GPU, or "
            "train.device=cpu"
        )


def wants_cpu(opts: list[str]) -> bool:
    """Whether the overrides ask for the CPU."""
    devices = [opt.partition("=")[2] for opt in opts if opt.startswith("train.device=")]
    return bool(devices) and devices[-1] == "cpu"


def describe_start() -> str:
    """For the first line of the log; in a process that has joined its group."""
    start = how_started()
    world_size = comm.get_world_size()
    if world_size == 1:
        return "started alone" if start is None else f"started by {start.launcher}: rank 0 of 1"
    launcher = start.launcher if start else "--num-gpus and --num-machines"
    return (
        f"started by {launcher}: rank {comm.get_rank()} of {world_size}, "
        f"{comm.get_local_size()} a machine"
    )


def _torchrun(env: Mapping[str, str]) -> Start | None:
    missing = [name for name in _TORCHRUN if name not in env]
    if missing and int(env["WORLD_SIZE"]) == 1:
        return None
    if missing:
        raise UserError(
            f"the environment has RANK={env['RANK']} and WORLD_SIZE={env['WORLD_SIZE']}, but not "
            f"{', '.join(missing)}: start with torchrun, which sets them all, or unset RANK and WORLD_SIZE"
        )
    rank, world_size, local_rank, local_size, address, port = (env[name] for name in _TORCHRUN)
    return Start(
        "torchrun",
        int(rank),
        int(world_size),
        int(local_rank),
        int(local_size),
        address,
        int(port),
    )


def _submitit_local(env: Mapping[str, str]) -> Start:
    number = int(env["SUBMITIT_LOCAL_NTASKS"])
    rank = int(env["SUBMITIT_LOCAL_GLOBALID"])
    port = _port(int(env["SUBMITIT_LOCAL_JOB_ID"]))
    return Start("submitit on this machine", rank, number, rank, number, "127.0.0.1", port)


def _slurm_tasks(env: Mapping[str, str]) -> int:
    """Tasks of this ``srun`` step; 1 outside of one.

    The shells of ``sbatch`` and ``salloc`` have SLURM_PROCID and SLURM_NTASKS as well, of the whole job.
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
    step = int(env.get("SLURM_STEP_ID", 0))
    port = env.get("MASTER_PORT") or _port(int(env.get("SLURM_JOB_ID", 0)) + step)
    number = _slurm_tasks(env)
    return Start(
        "srun",
        int(env["SLURM_PROCID"]),
        number,
        int(env["SLURM_LOCALID"]),
        _tasks_per_node(env, number),
        address,
        int(port),
    )


def _tasks_per_node(env: Mapping[str, str], number: int) -> int:
    """From ``2(x3)``; where Slurm does not say, all tasks are on this machine."""
    text = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or str(number)
    match = re.fullmatch(r"(\d+)(\(x\d+\))?", text)
    if match is None:
        raise UserError(
            f"srun gives machines different numbers of tasks ({text}): use --ntasks-per-node=N"
        )
    return int(match.group(1))


def first_host(nodes: str) -> str:
    """The first host of Slurm's ``rack[1-2]n[07-09,12],other``."""
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes.strip())
    if match is None:
        raise UserError(f"SLURM_STEP_NODELIST={nodes!r} names no host: set MASTER_ADDR")
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", match.group())


def _port(number: int) -> int:
    """Below the ports that systems hand out themselves, another one for each job."""
    return 10_000 + number % 20_000
