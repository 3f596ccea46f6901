"""Run a sweep: in processes on this machine, as tasks on a Ray cluster, or as Slurm jobs."""

import argparse
import getpass
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import make_folder
from ..regions.jobs.run import RAY_RETRIES, Engine, connect, ray_calls, visible_gpus
from .launch import wants_cpu
from .submit import submit
from .sweep import Run, Stage

#: Called with a run and news about it; empty when the run has finished.
Tell = Callable[[Run, str], None]

_POLL = 0.1  # seconds
_LONGEST = 300  # characters of a cause
#: Prefixes of environment variables that runs on other machines receive too.
_OURS = ("DETECTRON2_", "RMAE_D2_")


def screen_of(stage: Stage) -> Path:
    """The file beside a stage's folder that captures the output of its last command."""
    return stage.folder.with_name(f"{stage.folder.name}.txt")


def run_here(runs: Sequence[Run], jobs: int, num_gpus: int, begin: Tell, end: Tell) -> None:
    """Run what is left of each run, ``jobs`` at a time, each with its own GPUs.

    Ctrl-C makes all save and end, then propagates to the caller; a second one ends them at once.

    Raises:
        UserError: this machine does not have that many GPUs.
    """
    places = _places(runs, jobs, num_gpus)
    waiting = list(reversed(runs))
    active: list[_Active] = []
    try:
        while waiting or active:
            while waiting and places:
                run, place = waiting.pop(), places.pop()
                begin(run, str(screen_of(run.left[0])))
                active.append(_Active(run, num_gpus, place))
            time.sleep(_POLL)
            for one in [one for one in active if one.ended()]:
                active.remove(one)
                places.append(one.environment)
                end(one.run, one.cause)
    except KeyboardInterrupt:
        print("saving what is under way; ctrl-C again ends it at once, unsaved", file=sys.stderr)
        try:
            for one in active:
                one.process.terminate()
            for one in active:
                one.process.wait()
        except KeyboardInterrupt:
            for one in active:
                one.process.kill()
        raise


class _Active:
    """A run in progress: the process of one stage after the other."""

    def __init__(self, run: Run, num_gpus: int, environment: Mapping[str, str]) -> None:
        self.run = run
        self.environment = environment
        self.num_gpus = num_gpus
        self.left = list(run.left)
        self.cause = ""
        self._start()

    def _start(self) -> None:
        self.process = start(self.left[0], self.num_gpus, self.environment)

    def ended(self) -> bool:
        """Whether nothing more is to come; starts the next stage if one has finished."""
        code = self.process.poll()
        if code is None:
            return False
        self.cause = why_unfinished(self.left[0], code)
        if not self.cause:
            self.left.pop(0)
        if self.cause or not self.left:
            return True
        self._start()
        return False


def start(stage: Stage, num_gpus: int, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a stage's command in the current folder, with these environment variables added."""
    screen = screen_of(stage)
    make_folder(screen.parent)
    with open(screen, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "rmae_d2", *stage.words(num_gpus)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )


def why_unfinished(stage: Stage, code: int) -> str:
    """Why a stage's process ended early, in one line; empty if it has finished."""
    if stage.finished:
        return ""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == 0:
        return stage.ended() or "ended, and has not trained"
    lines = screen_of(stage).read_text(errors="replace").strip().splitlines() or [
        f"exit code {code}"
    ]
    # A user error may have several lines; a traceback has its message in the last one.
    first = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=-1)
    return " ".join(" ".join(lines[first:]).split()).removeprefix("error: ")[:_LONGEST]


def _places(runs: Sequence[Run], jobs: int, num_gpus: int) -> list[Mapping[str, str]]:
    """The environment variables of each parallel process: its GPUs, or its share of the cores."""
    if jobs == 1:
        return [{}]
    gpus = [] if _on_cpu(runs) else visible_gpus()
    if not gpus:
        threads = str(max(Engine().num_workers() // jobs, 1))
        return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}] * jobs
    if jobs * num_gpus > len(gpus):
        raise UserError(
            f"--jobs {jobs} with --num-gpus {num_gpus} each, but this machine's GPUs are {len(gpus)}: at "
            f"most --jobs {max(len(gpus) // num_gpus, 1)}"
        )
    shares = (gpus[i * num_gpus : (i + 1) * num_gpus] for i in range(jobs))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def _on_cpu(runs: Sequence[Run]) -> bool:
    return all(wants_cpu(stage.opts) for run in runs for stage in run.stages)


def run_on_ray(
    runs: Sequence[Run], jobs: int | None, num_gpus: int, address: str, end: Tell
) -> None:
    """Run what is left of each run as a task on a Ray cluster, which retries after losing a node.

    All its nodes need rmae_d2, and the data and the sweep's folder at the same paths.

    Raises:
        UserError: there is no such cluster.
    """
    engine = Engine("ray", jobs, address)
    ray = connect(engine)
    try:
        gpus = 0 if _on_cpu(runs) or not ray.cluster_resources().get("GPU") else num_gpus
        task = ray.remote(_ray_task).options(
            num_cpus=1, num_gpus=gpus, max_retries=RAY_RETRIES, retry_exceptions=False
        )
        environment = {k: v for k, v in os.environ.items() if k.startswith(_OURS)}

        def arguments(number: int) -> tuple[Any, ...]:
            return runs[number], num_gpus, os.getcwd(), environment

        for number, cause in ray_calls(ray, task, range(len(runs)), arguments, engine):
            if isinstance(cause, ray.exceptions.RayError):
                cause = f"given up by Ray: {' '.join(str(cause).split())[:_LONGEST]}"
            end(runs[number], cause)
    finally:
        ray.shutdown()


def _ray_task(run: Run, num_gpus: int, folder: str, environment: Mapping[str, str]) -> str:
    """Runs on a node; returns why the run has not finished."""
    if os.path.isdir(folder):
        os.chdir(folder)  # paths may be relative
    for stage in run.left:
        process = start(stage, num_gpus, environment)
        try:
            code = process.wait()
        finally:
            process.terminate()
        if cause := why_unfinished(stage, code):
            return cause
    return ""


def submit_runs(runs: Sequence[Run], num_gpus: int, args: argparse.Namespace, end: Tell) -> None:
    """Submit what is left of each run and not yet in Slurm's queue; a second stage waits there for the first.

    Args:
        args: of a job, see `rmae_d2.commands.submit`; with ``cluster="local"`` each runs here, in turn.
    """
    queued = _queued()
    for run in runs:
        before, cause = "", ""
        for stage in run.left:
            jobs = stage.folder / "jobs"
            if found := queued.intersection(os.listdir(jobs)) if jobs.is_dir() else set():
                before = max(found, key=int)
                continue
            job = submit(_job(stage, num_gpus, args, before))
            before = str(job.job_id)
            if args.cluster == "local":
                job.wait()
                if not stage.finished:
                    cause = stage.ended() or f"see {jobs / before}"
                    break
        end(run, f"in the queue as job {before}" if args.cluster == "slurm" else cause)


def _job(stage: Stage, num_gpus: int, args: argparse.Namespace, before: str) -> argparse.Namespace:
    dependency = [f"dependency=afterok:{before}", "kill-on-invalid-dep=yes"] if before else []
    return argparse.Namespace(
        **{
            **vars(args),
            "config_file": stage.config_file,
            "opts": stage.opts,
            "resume": stage.begun,
            "eval_only": False,
            "gpus_per_node": num_gpus,
            "slurm": [*args.slurm, *dependency],
        }
    )


def _queued() -> set[str]:
    """The ids of this user's jobs in Slurm's queue; none without Slurm, which submitting will report."""
    command = ["squeue", "--noheader", "--format=%A", f"--user={getpass.getuser()}"]
    try:
        return set(subprocess.check_output(command, text=True).split())
    except (OSError, subprocess.CalledProcessError):
        return set()
