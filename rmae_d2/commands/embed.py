"""Features of photos as a Parquet table, for retrieval, clustering, k-NN and linear probes.

    rmae-d2 embed PHOTOS --output features.parquet
    rmae-d2 embed PHOTOS --output features.parquet --weights output/rmae --size 224 --patches

One row per image, in input order: image_id, file_name, height, width, and features, the mean of the
encoder's patches without the cls token, float32. --patches adds the patches, float16, in raster order:
larger by a factor of the number of patches. The table's metadata ("rmae_d2") records how they were made.

WEIGHTS is a run's folder or file, a name shipped with the package, org/name on the Hugging Face hub, or an
encoder's file. Images are stretched to one size. Unreadable photos are named and skipped. If stopped or
killed, the same command resumes from FILE.parts, which exists until then. Needs pyarrow
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
    what = f"as above (default: {DEFAULT}, the R-MAE shipped with the package)"
    add("--weights", default=DEFAULT, metavar="WEIGHTS", help=what)
    add("--patches", action="store_true", help="also write the patches' features")
    add(
        "--layer",
        type=options.integer(NOT_NEGATIVE),
        metavar="N",
        help="block index, from 0 (default: the last)",
    )
    what = "H [W] pixels, multiples of the patch size (default: as in pre-training)"
    add("--size", type=options.integer(COUNT), nargs="+", metavar="N", help=what)
    what = "pixel normalization (default: the model's own; imagenet for a bare encoder)"
    add("--normalize", dest="normalization", choices=NORMALIZATIONS, help=what)
    add("--batch-size", type=options.integer(COUNT), default=64, metavar="N", help="default 64")
    add("--image-root", help="folder of the json's images, if they are not found otherwise")
    options.device(parser)


def run(args: argparse.Namespace) -> None:
    if args.size and len(args.size) > 2:
        raise UsageError("--size takes one or two numbers")
    from ..inference.embedding_run import embed_files

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    embed_files(**{name: value for name, value in vars(args).items() if value is not None})
