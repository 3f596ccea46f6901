r"""Exports a trained model to one file that runs without this package, and checks that file.

    rmae-d2 export output/x --format onnx --output detector.onnx
    rmae-d2 export output/x/model_final.pth --output segmentor.onnx --images photos/ model.inference=slide
    rmae-d2 export rmae-d2://rmae_scenes --format pt2 --output encoder.pt2

MODEL is a run's folder, or its model_final.pth with the config.yaml next to it: a detector, segmentor or
classifier; or any weight file with a plain ViT, of which the encoder is exported, as for pre-training runs.
The graph takes uint8 pixels and normalises them itself, in batches; a detector takes one image, and pads it.
Everything else needed to use it (classes, resize, size ...) is in the file's metadata.

The file is run by onnxruntime (.pt2: by torch) on photos and compared with PyTorch. The largest differences
are printed; if they are too large, nothing is written and the exit status is 1.
"""

import argparse
from pathlib import Path

from ..config.ranges import COUNT
from . import options


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="run folder or weight file")
    add("--format", choices=("onnx", "pt2"), default="onnx", help="default %(default)s")
    what = "the .onnx or .pt2 to write"
    options.output(parser, folder=False, required=True, type=Path, metavar="FILE", help=what)
    options.config_file(parser)
    what = "photos, folders, lists or jsons for the check (default: scikit-image's photographs)"
    add("--images", nargs="+", default=[], help=what)
    add("--max-images", type=options.integer(COUNT), default=8, help="maximum number of photos")
    options.overrides(parser)


def run(args: argparse.Namespace) -> None:
    from ..export import export_model

    misplaced = [word for word in args.images if "=" in word and not Path(word).exists()]
    print(
        export_model(
            args.model,
            args.output,
            args.format,
            config_file=args.config_file,
            overrides=[*args.overrides, *misplaced],
            images=[word for word in args.images if word not in misplaced],
            max_images=args.max_images,
        )
    )
