"""Checks a dataset before training on it, or shows the content of a region store.

rmae-d2 inspect /data/set                        a folder of photos, COCO json, YOLO ...
rmae-d2 inspect '/data/set#val' --statistics     one split, with its pixels' mean and standard deviation
rmae-d2 inspect coco_2017_val                    a registered dataset
rmae-d2 inspect REGIONS                          a region store: statistics and a contact sheet
rmae-d2 inspect REGIONS 000000000009.jpg 42      these images of it, by id

For a dataset, every image is decoded and every label read. Prints counts, sizes and classes, and what
training would stop at or skip: unreadable files, labels that do not fit their photo, boxes
outside it, masks without area. Writes a page with examples. The exit code is 1 if anything is wrong.
"""

import argparse
import logging
import os
from pathlib import Path

from ..config.ranges import COUNT
from . import options


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("what", metavar="SET", help="[FORMAT:]PATH[#SPLIT], a registered name, or a store's folder")
    add("keys", metavar="ID", nargs="*", help="for a store: image ids; default: spread evenly")
    add("--images", help="folder of a json's images; for a store: where its images have moved")
    what = "page to write (default: inspection.html here; for a store, regions.png in it)"
    add("--output", type=Path, help=what)
    add("--rows", type=options.integer(COUNT), default=12, help="images to show")
    add("--sample", type=options.integer(COUNT), default=1000, help="number of images measured")
    add("--statistics", action="store_true", help="mean and standard deviation of the channels")
    add("--workers", type=options.integer(COUNT), help="threads (default: one per core)")
    add("--num-regions", type=options.integer(COUNT), default=8, help="for a store: K")


def run(args: argparse.Namespace) -> int:
    from ..errors import UserError
    from ..files import check_output

    store = any(os.path.exists(os.path.join(args.what, n)) for n in _OF_STORES)
    output = args.output or (Path(args.what, "regions.png") if store else Path("inspection.html"))
    check_output(output, folder=False)
    if store:
        from ..visualization.store_sheet import inspect_store

        print(
            inspect_store(
                args.what,
                args.keys,
                output,
                images=args.images,
                rows=args.rows,
                sample=args.sample,
                num_regions=args.num_regions,
            )
        )
        return 0
    if args.keys:
        raise UserError(
            f"{' '.join(args.keys)}: image ids are of a region store, which {args.what} is not"
        )
    from ..inspection.dataset import inspect_dataset
    from ..inspection.page import write_inspection

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    reader = logging.getLogger("rmae_d2.annotations")
    reader.setLevel(logging.ERROR)  # the findings report the same
    try:
        found = inspect_dataset(
            args.what,
            args.images,
            statistics=args.statistics,
            sample=args.sample,
            workers=args.workers,
        )
    finally:
        reader.setLevel(logging.NOTSET)
    write_inspection(found, output, args.rows)
    print(f"{found}\n\npage: {output.resolve()}")
    return 1 if found.wrong else 0


#: Files found only in region stores.
_OF_STORES = ("manifest.json", "regions-00000.idx.npz")
