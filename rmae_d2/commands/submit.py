r"""Submits a training run to Slurm, which requeues it to continue when its time is up.

    rmae-d2 submit --nodes 4 --gpus-per-node 8 --partition gpu --time 1440 --job-name rmae_b \
        --config-file pretrain/rmae_vitb.py train.output_dir=/shared/runs/rmae_b
    rmae-d2 submit --slurm account=vision --slurm qos=low --config-file FILE --resume
    rmae-d2 submit --cluster local --config-file demo/rmae_tiny_scenes.py

Needs submitit (the extra slurm) and folders shared by all machines: the run's output folder
and this installation. The configuration is checked before anything is queued.

--save-before seconds before time is up, and when the cluster preempts with a warning signal, the run
saves, is requeued, and continues with --resume. scancel also saves, but ends the run. After a machine
fails, the job restarts from its newest checkpoint. Logs: OUTPUT_DIR/jobs/JOB_ID/JOB_ID_RANK_log.{out,err}.
"""

import argparse

from ..config.ranges import COUNT, NOT_NEGATIVE
from . import options
from .train import run_arguments


def arguments(parser: argparse.ArgumentParser) -> None:
    run_arguments(parser)
    add = job_arguments(parser).add_argument
    add(
        "--gpus-per-node",
        type=options.integer(NOT_NEGATIVE),
        default=1,
        help="also the number of processes",
    )
    add("--cluster", choices=("slurm", "local"), default="slurm", help="local: this machine")


def job_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds what to request from Slurm, except for GPUs."""
    group = parser.add_argument_group("the job")
    add = group.add_argument
    add("--nodes", type=options.integer(COUNT), default=1, help="machines")
    add("--cpus-per-gpu", type=options.integer(COUNT), default=8, help="for the loader's workers")
    add("--partition", help="partition (default: the cluster's)")
    add(
        "--time",
        type=options.integer(COUNT),
        default=24 * 60,
        metavar="MINUTES",
        help="time until a requeue",
    )
    add("--job-name", default="rmae_d2")
    add(
        "--save-before",
        type=options.integer(NOT_NEGATIVE),
        default=180,
        metavar="SECONDS",
        help="save and requeue this early",
    )
    what = "any other option of sbatch, e.g. account=vision; may be repeated"
    add("--slurm", action="append", default=[], metavar="KEY=VALUE", help=what)
    return group


def run(args: argparse.Namespace) -> None:
    from ..engine.submit import submit

    submit(args)
