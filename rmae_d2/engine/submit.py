"""Implementation of ``rmae-d2 submit``: submit a training run to Slurm, requeue it when its time is up."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ..config import apply_overrides, load_config
from ..errors import UserError
from ..extras import needed
from ..files import check_output
from .hooks import StoppedBySignal
from .launch import launch_training
from .train import main, refuse_to_overwrite

#: Limit on the requeues for time that submitit counts; a run of weeks needs more than its default of 3.
MAX_TIMEOUTS = 1000


class TrainingJob:
    """Runs in every task of a job; submitit pickles it, and calls ``checkpoint`` to requeue the job.

    Args:
        args: the arguments that ``rmae-d2 train`` would have received.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def __call__(self) -> None:
        # After a node failure, Slurm itself restarts the job as it was first submitted.
        again = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
        args = argparse.Namespace(**vars(self.args))
        args.resume = args.resume or again
        try:
            launch_training(main, args)
        except StoppedBySignal as stopped:
            # Training kept the signal from submitit until it had saved. submitit ignores SIGTERM (scancel);
            # on its own signal it has the first task requeue the job, and ends.
            if stopped.number != signal.SIGINT:
                signal.raise_signal(stopped.number)
            sys.exit(0)

    def checkpoint(self) -> Any:
        """What runs when the job starts again: the same with ``--resume``."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(
            TrainingJob(argparse.Namespace(**vars(self.args) | {"resume": True}))
        )


def submit(args: argparse.Namespace) -> Any:
    """Submit one job and print its id and where it logs.

    Args:
        args: of `rmae_d2.commands.submit`.

    Returns:
        submitit's job.

    Raises:
        UserError: a configuration that would only fail after waiting in the queue.
    """
    cfg = apply_overrides(load_config(args.config_file), args.opts)
    check_output(cfg.train.output_dir, folder=True, name="train.output_dir")
    folder = Path(cfg.train.output_dir).resolve() / "jobs"
    if not args.resume:
        refuse_to_overwrite(str(folder.parent))
    executor = _executor(args, folder)
    training = argparse.Namespace(
        config_file=args.config_file,
        opts=args.opts,
        resume=args.resume,
        eval_only=args.eval_only,
        num_gpus=1,
        num_machines=1,
        machine_rank=0,
        dist_url="auto",
    )
    job = executor.submit(TrainingJob(training))
    print(
        f"job {job.job_id}, logging to {job.paths.stdout} (errors: {job.paths.stderr})", flush=True
    )
    return job


def _executor(args: argparse.Namespace, folder: Path) -> Any:
    submitit = needed("submitit", "slurm", "submitting jobs")
    extra = dict(_key_value(text) for text in args.slurm)
    try:
        executor = submitit.AutoExecutor(
            folder / "%j", cluster=args.cluster, slurm_max_num_timeout=MAX_TIMEOUTS
        )
    except RuntimeError as error:  # no srun here
        raise UserError(f"{error}: submit from a machine that has Slurm's commands") from error
    executor.update_parameters(
        name=args.job_name,
        nodes=args.nodes,
        tasks_per_node=max(args.gpus_per_node, 1),
        gpus_per_node=args.gpus_per_node,
        cpus_per_task=args.cpus_per_gpu,
        timeout_min=args.time,
        slurm_partition=args.partition,
        slurm_signal_delay_s=args.save_before,
        # Ranks of a machine are consecutive; if one fails, those that hang are killed; and a failing node
        # requeues the job.
        slurm_srun_args=["--distribution=block", "--kill-on-bad-exit=1"],
        slurm_additional_parameters={"requeue": True, **extra},
    )
    return executor


def _key_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key:
        raise UserError(f"--slurm {text!r}: KEY=VALUE, or KEY for a switch")
    return key.lstrip("-").replace("-", "_"), value if equals else True
