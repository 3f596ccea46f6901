#!/usr/bin/env python3
"""Renders the embedded "scenes" dataset (COCO format) for demos and tests.

python tools/make_scenes.py --output datasets/scenes
python tools/make_scenes.py --output datasets/scenes --crops datasets/scenes_crops
"""

import argparse
import logging
import sys

from rmae_d2.data.scenes.crops import write_crops
from rmae_d2.data.scenes.dataset import write_scenes


def main() -> None:
    """Parses the command line and renders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", default="datasets/scenes", help="folder to make")
    parser.add_argument("--num-train", type=int, default=900)
    parser.add_argument("--num-val", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")
    parser.add_argument(
        "--crops",
        metavar="DIR",
        help="also cut single objects out of the scenes, into DIR/{train,val}/<class>/",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        write_scenes(args.output, args.num_train, args.num_val, args.seed, args.workers)
        if args.crops is not None:
            write_crops(args.output, args.crops)
    except (ValueError, OSError) as error:
        sys.exit(f"make_scenes: {error}")


if __name__ == "__main__":
    main()
