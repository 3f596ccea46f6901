"""Renders the embedded "scenes" dataset (COCO format) for demos and tests.

rmae-d2 scenes
rmae-d2 scenes --crops datasets/scenes_crops
"""

import argparse
import logging
from pathlib import Path

from ..config.ranges import COUNT, NOT_NEGATIVE
from ..files import check_output
from . import options


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "folder to make (default: %(default)s)"
    options.output(parser, folder=True, type=str, default="datasets/scenes", help=what)
    add("--num-train", type=options.integer(COUNT), default=900)
    add("--num-val", type=options.integer(COUNT), default=100)
    add("--seed", type=options.integer(NOT_NEGATIVE), default=0)
    add("--workers", type=options.integer(COUNT), help="processes (default: all cores)")
    what = "also cut single objects out of the scenes, into DIR/{train,val}/<class>/"
    add("--crops", metavar="DIR", help=what)


def run(args: argparse.Namespace) -> None:
    if args.crops is not None:
        check_output(args.crops, folder=True, name="--crops")
    from ..data.scenes.crops import write_crops
    from ..data.scenes.dataset import write_scenes

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_scenes(args.output, args.num_train, args.num_val, args.seed, args.workers)
    print(f"written: {Path(args.output).resolve()}")
    if args.crops is not None:
        write_crops(args.output, args.crops)
        print(f"written: {Path(args.crops).resolve()}")
