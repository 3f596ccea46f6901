"""Shared by commands that run a list of trainings: their options, and running the list."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.ranges import COUNT
from . import options
from .submit import job_arguments

if TYPE_CHECKING:
    from ..engine.sweep import Run


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds options for where runs run, and how many at a time."""
    add = parser.add_argument
    add("--print", action="store_true", help="only print the commands, one line per run")
    add("--jobs", type=options.integer(COUNT), metavar="N", help="runs in parallel (default 1)")
    add("--num-gpus", type=options.integer(COUNT), default=1, help="per run; per node with Slurm")
    what = "here: processes on this machine; local: Slurm-like jobs on this machine"
    add("--cluster", choices=("here", "slurm", "local", "ray"), default="here", help=what)
    what = "auto: the running cluster; local: start one; HOST:PORT"
    add("--ray-address", default="auto", help=what)
    job_arguments(parser)


def run_all(
    left: "list[Run]",
    args: argparse.Namespace,
    name: "Callable[[Run], object]",
    ended: "Callable[[Run, str], str]",
) -> dict[Path, str]:
    """Runs them, and reports progress.

    Args:
        args: options from `arguments`.
        name: returns a run's name, shown when it begins.
        ended: returns a line about an ended run, given why it has not finished (empty if it has).

    Returns:
        By folder, why runs have not finished.
    """
    from ..engine import sweep_jobs

    causes: dict[Path, str] = {}

    def begin(run: "Run", screen: str) -> None:
        print(f"{name(run)}: running, see {screen}", flush=True)

    def end(run: "Run", cause: str) -> None:
        causes[run.folder] = cause
        said = ended(run, cause)
        print(f"[{len(causes)} of {len(left)}] {said}", flush=True)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        if not left:
            pass
        elif args.cluster == "here":
            sweep_jobs.run_here(left, args.jobs or 1, args.num_gpus, begin, end)
        elif args.cluster == "ray":
            sweep_jobs.run_on_ray(left, args.jobs, args.num_gpus, args.ray_address, end)
        else:
            sweep_jobs.submit_runs(left, args.num_gpus, args, end)
    except KeyboardInterrupt:
        print("the same command goes on from here", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    return causes
