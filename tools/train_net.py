#!/usr/bin/env python
"""Trains or evaluates what a config describes.

    python tools/train_net.py --config-file configs/pretrain/rmae_vitb.py --num-gpus 8
    python tools/train_net.py --config-file configs/demo/rmae_tiny_scenes.py train.max_iter=100
    python tools/train_net.py --config-file FILE --resume
    python tools/train_net.py --config-file FILE --eval-only train.init_checkpoint=WEIGHTS

Flags come before overrides. Several machines: the same line on each, with --num-machines N
--machine-rank I --dist-url tcp://HOST0:PORT.
"""

import sys

from detectron2.engine import default_argument_parser

from rmae_d2.engine import launch_training, main

if __name__ == "__main__":
    args = default_argument_parser(epilog=__doc__).parse_args()
    if not args.config_file:
        sys.exit(
            "error: --config-file is missing, e.g. --config-file configs/demo/rmae_tiny_scenes.py"
        )
    launch_training(main, args)
