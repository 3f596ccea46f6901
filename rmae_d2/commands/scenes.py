"""Renders the embedded "scenes" dataset (COCO format) for demos and tests.

rmae-d2 scenes
rmae-d2 scenes --crops datasets/scenes_crops
"""

import argparse
import logging


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", default="datasets/scenes", help="folder to make (default: %(default)s)")
    add("--num-train", type=int, default=900)
    add("--num-val", type=int, default=100)
    add("--seed", type=int, default=0)
    add("--workers", type=int, help="processes (default: all cores)")
    what = "also cut single objects out of the scenes, into DIR/{train,val}/<class>/"
    add("--crops", metavar="DIR", help=what)


def run(args: argparse.Namespace) -> None:
    from ..data.scenes.crops import write_crops
    from ..data.scenes.dataset import write_scenes

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_scenes(args.output, args.num_train, args.num_val, args.seed, args.workers)
    if args.crops is not None:
        write_crops(args.output, args.crops)
