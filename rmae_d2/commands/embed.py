"""Features of photos as a Parquet table, for retrieval, clustering, k-NN and linear probes.

    rmae-d2 embed PHOTOS --output features.parquet
    rmae-d2 embed PHOTOS --output features.parquet --weights output/rmae --size 224 --patches

A row per image, in the photos' order: image_id, file_name, height, width, and features, the mean of the
encoder's patches without the cls token, float32. --patches adds these themselves, float16, in raster order:
as many times larger as an image has patches. How they were made stands in the table's metadata ("rmae_d2").

WEIGHTS is a run's folder or file, a name that comes with the package, org/name of the Hugging Face hub, or an
encoder's file. Images are stretched to one size. Photos that cannot be read are named and skipped. Stopped or
killed, the same command goes on from FILE.parts, which it leaves until then. Needs pyarrow
(the extra embed).
"""

import argparse
import logging
from pathlib import Path

from ..config.ranges import COUNT, NOT_NEGATIVE
from ..shipped import DEFAULT
from . import options
from .options import UsageError

NORMALIZATIONS = ("imagenet", "half")


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "image files, folders (with sub-folders), .txt lists, a COCO .json ... (docs/labels.md)"
    add("given", nargs="+", metavar="PHOTOS", help=what)
    what = "the .parquet to write"
    options.output(parser, folder=False, required=True, type=Path, metavar="FILE", help=what)
    what = f"as above (default: {DEFAULT}, the R-MAE that comes with the package)"
    add("--weights", default=DEFAULT, metavar="WEIGHTS", help=what)
    add("--patches", action="store_true", help="features of the patches, too")
    add(
        "--layer",
        type=options.integer(NOT_NEGATIVE),
        metavar="N",
        help="block, from 0 (default: the last)",
    )
    what = "H [W] pixels, multiples of the patch side (default: of pre-training)"
    add("--size", type=options.integer(COUNT), nargs="+", metavar="N", help=what)
    what = "of pixels (default: the model's own, of a bare encoder imagenet)"
    add("--normalize", dest="normalization", choices=NORMALIZATIONS, help=what)
    add("--batch-size", type=options.integer(COUNT), default=64, metavar="N", help="default 64")
    add("--image-root", help="folder of the json's images, where it does not find them by itself")
    options.device(parser)


def run(args: argparse.Namespace) -> None:
    if args.size and len(args.size) > 2:
        raise UsageError("--size takes one or two numbers")
    from ..inference.embedding_run import embed_files

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    embed_files(**{name: value for name, value in vars(args).items() if value is not None})
