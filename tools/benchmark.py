#!/usr/bin/env python
"""Times our parts against the straightforward ones, side by side in one run, and prints the ratios.

    python tools/benchmark.py step                   R-MAE's step, MAE's and a plain one, ViT-B/16, batch 8
    python tools/benchmark.py step --batch 256 --precision bf16 --compile
    python tools/benchmark.py step --batch 256 --precision bf16 --data /photos --regions regions/photos
    python tools/benchmark.py vitdet                 our ViT against Detectron2's, ViT-B at 1024 pixels
    python tools/benchmark.py vitdet --batch 4 --precision bf16
    python tools/benchmark.py regions                FH, its memory, records, and what COCO and ImageNet cost
    python tools/benchmark.py regions --images /photos
    python tools/benchmark.py loader                 a data-loading worker, images a second and bytes a sample

Variants take turns and the minimum of the repetitions counts, for other work on the machine only ever adds
time. Ratios carry over to other machines better than seconds. Networks run on a GPU where there is one.
Without --images the photographs that the scikit-image wheel carries are used, at 640x480.
"""

import argparse

from benchmarks import loader, regions, step, vitdet


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for module in (step, vitdet, regions, loader):
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=module.__doc__, description=module.run.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
