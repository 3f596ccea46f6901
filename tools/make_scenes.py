#!/usr/bin/env python3
"""Renders the embedded "scenes" dataset (COCO format) for demos and tests."""

import argparse
import logging
import sys

from rmae_d2.data.datasets.scenes import write_scenes


def main() -> None:
    """Parses the command line and renders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="datasets/scenes", help="folder to make")
    parser.add_argument("--num-train", type=int, default=900)
    parser.add_argument("--num-val", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        write_scenes(args.output, args.num_train, args.num_val, args.seed, args.workers)
    except (ValueError, OSError) as error:
        sys.exit(f"make_scenes: {error}")


if __name__ == "__main__":
    main()
