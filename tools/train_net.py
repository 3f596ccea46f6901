#!/usr/bin/env python
r"""Trains or evaluates what a config describes.

    python tools/train_net.py --config-file configs/pretrain/rmae_vitb.py --num-gpus 8
    python tools/train_net.py --config-file configs/demo/rmae_tiny_scenes.py train.max_iter=100
    python tools/train_net.py --config-file FILE --resume
    python tools/train_net.py --config-file FILE --eval-only train.init_checkpoint=WEIGHTS

Flags come before overrides. Several machines, the same line on each:

    python tools/train_net.py --num-gpus 8 --num-machines M --machine-rank I --dist-url tcp://HOST0:PORT ...
    torchrun --nnodes M --nproc-per-node 8 --node-rank I --master-addr HOST0 tools/train_net.py ...

or once for all of them, in a Slurm allocation (tools/submit.py makes one):

    srun --nodes M --ntasks-per-node 8 --gpus-per-node 8 --distribution=block --kill-on-bad-exit=1 \
        python tools/train_net.py ...

The first line of the log says how the run was started. MASTER_ADDR and MASTER_PORT, where they are set,
replace what srun would have taken: the first host, and a port made from the job's id. All machines share
the run's output folder.

SIGTERM, SIGUSR1 and SIGUSR2 save a checkpoint and end the run on all machines; --resume continues it, on
as many processes as you like. The ranks agree on it every 10 steps. torchrun passes SIGTERM on, kills
what is left after 30 s (so the save must fit in), and reports a SignalException. Other signals it passes
on if told so: --signals-to-handle SIGTERM,SIGINT,SIGUSR1 (in older releases by the environment variable
TORCHELASTIC_SIGNALS_TO_HANDLE). With --max-restarts, add --resume from the start: it begins where there is
nothing to continue.

A rank that fails or is lost ends all ranks within a minute, with the first error shown.
"""

import sys

from detectron2.engine import default_argument_parser

from rmae_d2.engine import launch_training, main

if __name__ == "__main__":
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument("--profile", action="store_true", help="write a trace of a few steps")
    args = parser.parse_args()
    if not args.config_file:
        sys.exit(
            "error: --config-file is missing, e.g. --config-file configs/demo/rmae_tiny_scenes.py"
        )
    launch_training(main, args)
