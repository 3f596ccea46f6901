r"""Draws a pre-trained model's reconstruction of mostly hidden photos: the paper's figure 5.

    rmae-d2 visualize reconstruction --input PHOTOS
    rmae-d2 visualize reconstruction --weights output/rmae/model_final.pth --input PHOTOS
    rmae-d2 visualize reconstruction --weights output/rmae/model_final.pth \
        --input coco/val2017/000000000139.jpg --mask-ratio 0.5 0.75 0.9 \
        --regions json --json coco/annotations/instances_val2017.json
    rmae-d2 visualize reconstruction --weights output/{rmae,mae}/model_final.pth --names R-MAE MAE \
        --input PHOTOS

The default is the small R-MAE shipped with the package; several models are drawn below each
other, each with its own masks. Columns: masked image, predicted pixels, image; masked region, predicted
region, region, all regions. Without a region branch (MAE) or a pixel decoder (RAE), its pictures are
omitted. One PNG per photo with several regions, and contact_sheet.png with the first region of each photo.
"""

import argparse

from ..config.ranges import COUNT, PROPER_SHARE
from . import options

SOURCES = ("fh", "json", "sam")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.trained(parser, several=True)
    options.photos(parser, 8)
    options.output(parser, "reconstructions", "weights", folder=True)
    add = parser.add_argument
    add("--regions", choices=SOURCES, default="fh", help="source of the regions")
    add("--json", help="instance masks, for --regions json")
    what = "SAM's folder, or its name on the Hugging Face hub, for --regions sam"
    add("--sam-model", metavar="MODEL", help=what)
    add(
        "--mask-ratio",
        type=options.real(PROPER_SHARE),
        nargs="+",
        default=[],
        help="fraction hidden, one row each",
    )
    add("--max-regions", type=options.integer(COUNT), default=3, help="maximum per photo")
    what = "draw only this many photos, those with the largest loss"
    add("--worst", type=options.integer(COUNT), metavar="N", help=what)


def run(args: argparse.Namespace) -> None:
    from ..inference.reconstruction_pictures import draw_reconstruction_pictures, region_source

    given = dict(vars(args))
    names = ("regions", "json", "sam_model")
    source = region_source(*(given.pop(name) for name in names))
    for path in draw_reconstruction_pictures(
        inputs=given.pop("input"), source=source, mask_ratios=given.pop("mask_ratio"), **given
    ):
        print(f"drawn: {path.resolve()}")
