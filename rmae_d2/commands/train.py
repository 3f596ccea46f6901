r"""Trains or evaluates as described by a config.

    rmae-d2 train --config-file pretrain/rmae_vitb.py --num-gpus 8
    rmae-d2 train --config-file demo/rmae_tiny_scenes.py train.max_iter=100
    rmae-d2 train --config-file FILE --resume
    rmae-d2 train --config-file FILE --eval-only train.init_checkpoint=WEIGHTS

`python tools/train_net.py` in the repository does the same. For several machines, run on each:

    rmae-d2 train --num-gpus 8 --num-machines M --machine-rank I --dist-url tcp://HOST0:PORT ...
    torchrun --nnodes M --nproc-per-node 8 --node-rank I --master-addr HOST0 -m rmae_d2 train ...

or once for all of them, in a Slurm allocation (rmae-d2 submit creates one):

    srun --nodes M --ntasks-per-node 8 --gpus-per-node 8 --distribution=block --kill-on-bad-exit=1 \
        rmae-d2 train ...

The first line of the log says how the run was started. MASTER_ADDR and MASTER_PORT, if set,
replace srun's defaults: the first host, and a port derived from the job's id. All machines share
the run's output folder.

Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 save a checkpoint and end the run on all machines, a second ctrl-C ends
it immediately; --resume continues it, on any number of processes. torchrun forwards SIGTERM and kills
what is left after 30 s; it forwards other signals if told so: --signals-to-handle SIGTERM,SIGINT,SIGUSR1 (in
older releases by the variable TORCHELASTIC_SIGNALS_TO_HANDLE). With its --max-restarts, use --resume from the
start.

A rank that fails or is lost ends all ranks within a minute, and the first error is shown.
"""

import argparse

from ..config.ranges import COUNT, NOT_NEGATIVE
from ..files import check_output
from . import options


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds those of Detectron2's ``default_argument_parser``, which is slow to import, and ``--profile``."""
    run_arguments(parser)
    add = parser.add_argument
    add("--profile", action="store_true", help="write a trace of a few steps")
    add(
        "--num-gpus",
        type=options.integer(NOT_NEGATIVE),
        default=1,
        help="on this machine, one process each",
    )
    add("--num-machines", type=options.integer(COUNT), default=1)
    add(
        "--machine-rank",
        type=options.integer(NOT_NEGATIVE),
        default=0,
        help="this machine's number, from 0",
    )
    add("--dist-url", default="auto", help="tcp://HOST:PORT of machine 0; auto on one machine")


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that define a run; also used for Slurm jobs."""
    options.config_file(parser, required=True)
    add = parser.add_argument
    add("--resume", action="store_true", help="continue the run in its folder")
    add("--eval-only", action="store_true", help="evaluate train.init_checkpoint")
    options.overrides(parser, "opts")


def run(args: argparse.Namespace) -> None:
    from ..config import apply_overrides, load_config

    # Reported here, before the rest is imported and processes are started.
    cfg = apply_overrides(load_config(args.config_file), args.opts)
    check_output(cfg.train.output_dir, folder=True, name="train.output_dir")
    from ..engine import launch_training, main

    launch_training(main, args)
