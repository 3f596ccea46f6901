"""Shows what a region store holds, with a contact sheet to look at, or what an annotation file does.

rmae-d2 inspect labels.json                      COCO or LVIS: counts, and what is left out and why
rmae-d2 inspect DIR                              evenly spread images
rmae-d2 inspect DIR 000000000009.jpg 42          these images, by id
rmae-d2 inspect DIR --images /new/place          where the images are now
"""

import argparse
import logging

from ..config.ranges import COUNT
from . import options


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("store", metavar="DIR", help="folder of a store, or a COCO or LVIS .json")
    add("keys", metavar="ID", nargs="*", help="image ids; default: spread evenly")
    add("--images", help="folder, list or json, where they have moved")
    options.output(parser, "regions.png", "store", folder=False)
    add("--rows", type=options.integer(COUNT), default=12, help="images on the sheet")
    add("--sample", type=options.integer(COUNT), default=1000, help="images that are measured")
    add("--num-regions", type=options.integer(COUNT), default=8, help="K of pre-training")


def run(args: argparse.Namespace) -> None:
    if args.store.lower().endswith(".json"):
        from ..annotations.summary import summary

        logging.getLogger("rmae_d2.annotations").setLevel(logging.ERROR)  # the summary says it too
        print(summary(args.store))
        return
    from ..visualization.store_sheet import inspect_store

    print(inspect_store(**vars(args)))
