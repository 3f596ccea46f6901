"""Times our components against straightforward implementations, side by side in one run, with ratios.

    rmae-d2 benchmark step                   R-MAE's step, MAE's and a plain one, ViT-B/16, batch 8
    rmae-d2 benchmark step --batch 256 --precision bf16 --compile
    rmae-d2 benchmark step --batch 256 --precision bf16 --data /photos --regions regions/photos
    rmae-d2 benchmark vitdet                 our ViT against Detectron2's, ViT-B at 1024 pixels
    rmae-d2 benchmark vitdet --batch 4 --precision bf16
    rmae-d2 benchmark regions                FH, its memory, records, and the cost for COCO and ImageNet
    rmae-d2 benchmark regions --images /photos
    rmae-d2 benchmark loader                 a data-loading worker, images per second and bytes per sample
    rmae-d2 benchmark index --images 10000 10000000     packed shards as the number of images grows
    rmae-d2 benchmark gpu --output output/gpu          all GPU tests and measurements, in ten minutes
    rmae-d2 benchmark sizes --output sizes.png         cost of a step at 224, 448 and 1024 pixels
    rmae-d2 benchmark startup                startup cost of commands, in CPU seconds

Variants take turns and the minimum over repetitions counts, because other work on the machine only ever adds
time. Ratios carry over to other machines better than seconds. Networks run on a GPU if there is one.
Without --images, the photographs in the scikit-image wheel are used, at 640x480.
"""

import argparse
from importlib import import_module
from pathlib import Path

from ..config.ranges import COUNT, NOT_NEGATIVE
from . import options

SIZES = ("tiny", "small", "base", "large", "huge")
PRECISIONS = ("fp32", "bf16", "fp16")
CLOCKS = ("wall", "cpu")
VARIANTS = ("MAE", "R-MAE", "R-MAE, neck depth 8", "RAE", "MAE, plain", "R-MAE, plain")


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="benchmark", required=True)
    step = commands.add_parser("step", help="a training step, against MAE's and a plain one")
    _network(step, "--arch", batch=8, repeat=5)
    add = step.add_argument
    add("--compile", action="store_true", help="compile ours with torch.compile")
    add("--checkpointing", action="store_true", help="activation checkpointing in ours")
    add("--variants", nargs="+", choices=VARIANTS)
    source = step.add_mutually_exclusive_group()
    source.add_argument("--synthetic", action="store_true", help="random images (the default)")
    source.add_argument("--data", help="photographs, for a row of R-MAE fed by the loader")
    add("--regions", help="region store of --data, from rmae-d2 regions")
    add("--workers", type=options.integer(NOT_NEGATIVE), default=8, help="workers for --data")
    add("--peak-tflops", type=options.real(NOT_NEGATIVE), default=0.0, help="default: measured")

    vitdet = commands.add_parser("vitdet", help="a training step of our ViT against Detectron2's")
    _network(vitdet, "--size", batch=1, repeat=3)
    add = vitdet.add_argument
    add(
        "--depth",
        type=options.integer(COUNT),
        help="only the first blocks; 3 are a quarter of ViT-B",
    )
    add("--image", type=options.integer(COUNT), default=1024, help="side of the images, pixels")
    what = "cpu: CPU seconds of this process, for machines busy with other work"
    add("--clock", choices=CLOCKS, default="wall", help=what)

    sizes = commands.add_parser("sizes", help="a step's cost against the side of the image")
    add = sizes.add_argument
    add("--arch", choices=SIZES, default="base", help="size of the ViT")
    add("--sides", nargs="+", type=options.integer(COUNT), default=[224, 448, 1024])
    what = "largest side that is timed (default %(default)s); multiply-adds and memory are of all"
    add("--timed-up-to", type=options.integer(NOT_NEGATIVE), default=448, help=what, metavar="N")
    add("--repeat", type=options.integer(COUNT), default=3)
    add("--clock", choices=CLOCKS, default="wall")
    add("--output", type=Path, metavar="PNG", help="chart to draw")

    regions = commands.add_parser("regions", help="FH's time and memory, records, whole datasets")
    loader = commands.add_parser("loader", help="a worker's images per second")
    for command in (regions, loader):
        add = command.add_argument
        add("--images", help="a folder, a .txt list or a COCO json of photographs")
        add(
            "--max-images", type=options.integer(COUNT), default=16, help="maximum number of images"
        )
        add("--repeat", type=options.integer(COUNT), default=3)
    add("--batch", type=options.integer(COUNT), default=32, help="a multiple of 4")
    add("--batches", type=options.integer(COUNT), default=8, help="batches timed per round")

    index = commands.add_parser("index", help="packed shards' indexes, for 10^4 images and more")
    add = index.add_argument
    what = "numbers of images; 10^7 take 2 GB of disk for a few minutes"
    add(
        "--images", nargs="+", type=options.integer(COUNT), default=[10**4, 10**5, 10**6], help=what
    )
    add("--folder", help="where they are written, then removed (default: temporary files)")

    gpu = commands.add_parser("gpu", help="tests that need a GPU, and a table of everything on it")
    add = gpu.add_argument
    add(
        "--output",
        required=True,
        help="folder of gpu.json, gpu.md and gpu.png; existing results are kept",
    )
    add("--minutes", type=options.real(NOT_NEGATIVE), default=10.0, help="start no row after these")
    add("--rows", nargs="+", metavar="WORD", help="only rows with one of these in their name")
    add("--toy", action="store_true", help="rehearse all rows on a CPU, at meaningless sizes")

    startup = commands.add_parser("startup", help="CPU seconds of commands that end at once")
    startup.add_argument("--repeat", type=options.integer(COUNT), default=3)


def _network(parser: argparse.ArgumentParser, size: str, batch: int, repeat: int) -> None:
    add = parser.add_argument
    add(size, choices=SIZES, default="base", help="size of the ViT")
    add("--batch", type=options.integer(COUNT), default=batch)
    add("--precision", choices=PRECISIONS, default="fp32")
    add("--repeat", type=options.integer(COUNT), default=repeat)


def run(args: argparse.Namespace) -> None:
    import_module(f".benchmarks.{args.benchmark}", __package__).run(args)
