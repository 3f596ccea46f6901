r"""Compares region sources with the instance masks of a data set: best overlap, average recall, time.

    rmae-d2 evaluate-regions --dataset scenes_val --source fh --source slic
    rmae-d2 evaluate-regions --dataset coco_2017_val --max-images 100 --source "fh scales=[1000]" \
        --source "features weights=output/rmae" --output output/regions

A source is written as for `rmae-d2 regions`: its name, then its settings as key=value, in one pair of quotes.
Classes play no part. Prints a table, writes regions.json and, with --pictures, regions.png.
"""

import argparse
import logging
import shlex

from ..config.ranges import NOT_NEGATIVE
from . import options
from .options import UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "name and settings of a region source; may be repeated"
    add("--source", action="append", required=True, metavar='"NAME KEY=VALUE ..."', help=what)
    add("--dataset", action="append", default=[], help="registered name; may be repeated")
    add("--json", help="your own annotations in COCO's format instead")
    add("--root", help="folder of the json's images; by default near the json")
    add(
        "--max-images",
        type=options.integer(NOT_NEGATIVE),
        default=0,
        help="only the first N images with instances (default: all)",
        metavar="N",
    )
    what = "draw the regions of the first N images"
    add("--pictures", type=options.integer(NOT_NEGATIVE), default=0, help=what, metavar="N")
    what = "folder to write to (default: %(default)s)"
    options.output(parser, folder=True, default="region_quality", help=what)


def run(args: argparse.Namespace) -> None:
    if not (args.dataset or args.json):
        raise UsageError("no data: give --dataset or --json")
    from ..inference.region_evaluation import measure_regions, regions_table
    from .regions import parse_source

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("rmae_d2.inference").setLevel(logging.INFO)
    sources = {}
    for text in args.source:
        name, *settings = shlex.split(text)
        sources[text] = parse_source(name, settings)
    built = {text: spec.build() for text, spec in sources.items()}
    data = {"names": args.dataset, "json": args.json, "root": args.root}
    limits = {"max_images": args.max_images, "pictures": args.pictures}
    result = measure_regions(built, output=args.output, **limits, **data)
    print(f"{regions_table(result['sources'])}\nwritten: {args.output.resolve()}")
