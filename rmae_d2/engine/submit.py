"""What ``tools/submit.py`` does: hands a training run to Slurm, and back to it when its time is up."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ..config import apply_overrides, load_config
from ..errors import UserError
from .hooks import StoppedBySignal
from .launch import launch_training
from .train import main

#: Of the requeues that submitit counts, those for time; a run of weeks needs more than its 3.
MAX_TIMEOUTS = 1000


class TrainingJob:
    """Runs in every task of a job; submitit pickles it, and calls ``checkpoint`` to requeue the job.

    Args:
        args: what ``tools/train_net.py`` would have got.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def __call__(self) -> None:
        # Slurm itself starts a job again whose machine has failed, and from its first submission.
        again = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
        args = argparse.Namespace(**vars(self.args))
        args.resume = args.resume or again
        try:
            launch_training(main, args)
        except StoppedBySignal as stopped:
            # Training has kept the signal from submitit until it had saved. Of SIGTERM (scancel) submitit
            # takes no notice; after its own it has the first task requeue the job, and end.
            signal.raise_signal(stopped.number)
            sys.exit(0)

    def checkpoint(self) -> Any:
        """What is to run when the job starts again: the same with ``--resume``."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(
            TrainingJob(argparse.Namespace(**vars(self.args) | {"resume": True}))
        )


def make_parser(description: str) -> argparse.ArgumentParser:
    """What training takes, and what a job does."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="as for train_net.py")
    parser.add_argument("--resume", action="store_true", help="continue the run in its folder")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint")
    job = parser.add_argument_group("the job")
    job.add_argument("--nodes", type=int, default=1, help="machines")
    job.add_argument("--gpus-per-node", type=int, default=1, help="and as many processes")
    job.add_argument("--cpus-per-gpu", type=int, default=8, help="for the loader's workers")
    job.add_argument("--partition", help="of the cluster; its default where not given")
    job.add_argument("--time", type=int, default=24 * 60, metavar="MINUTES", help="until a requeue")
    job.add_argument("--job-name", default="rmae_d2")
    job.add_argument(
        "--save-before", type=int, default=180, metavar="SECONDS", help="save and requeue so early"
    )
    job.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other option of sbatch, e.g. account=vision; may be repeated",
    )
    job.add_argument("--cluster", choices=("slurm", "local"), default="slurm", help="local: here")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="overrides: path.key=value")
    return parser


def submit(args: argparse.Namespace) -> Any:
    """Submits one job and prints its id and where it logs.

    Args:
        args: of :func:`make_parser`.

    Returns:
        submitit's job.

    Raises:
        UserError: for a configuration that would only fail in the queue.
    """
    cfg = apply_overrides(load_config(args.config_file), args.opts)
    folder = Path(cfg.train.output_dir).resolve() / "jobs"
    if not args.resume and (folder.parent / "last_checkpoint").exists():
        raise UserError(
            f"{folder.parent} already holds a run: add --resume (before the overrides) to continue it, or "
            "choose another train.output_dir=..."
        )
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
    try:
        import submitit
    except ImportError as error:
        raise UserError("submitting jobs needs submitit: pip install 'rmae_d2[slurm]'") from error
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
        # Ranks of a machine follow each other; where one fails, one that hangs is killed; and a node that
        # fails brings the job back.
        slurm_srun_args=["--distribution=block", "--kill-on-bad-exit=1"],
        slurm_additional_parameters={"requeue": True, **extra},
    )
    return executor


def _key_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key:
        raise UserError(f"--slurm {text!r}: KEY=VALUE, or KEY for a switch")
    return key.lstrip("-").replace("-", "_"), value if equals else True
