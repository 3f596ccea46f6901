#!/usr/bin/env python
r"""Draws what a pre-trained model makes of photos of which most is hidden: the paper's figure 5.

    python tools/visualize_reconstruction.py --weights output/rmae/model_final.pth --input PHOTOS \
        --output reconstructions
    python tools/visualize_reconstruction.py --weights output/rmae/model_final.pth \
        --input coco/val2017/000000000139.jpg --mask-ratio 0.5 0.75 0.9 \
        --regions json --json coco/annotations/instances_val2017.json

Columns: masked image, pixels predicted, image; masked region, region predicted, region, all regions. Without
a region branch (MAE) or a pixel decoder (RAE) its pictures are left out. One PNG a photo with several
regions, and contact_sheet.png with the first region of each photo.
"""

import argparse
import logging
import sys
from pathlib import Path

from rmae_d2.errors import UserError
from rmae_d2.inference.reconstruction_pictures import (
    SOURCES,
    draw_reconstruction_pictures,
    region_source,
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, help="the run's checkpoint")
    parser.add_argument(
        "--config-file", help="of the run (default: config.yaml beside the weights)"
    )
    parser.add_argument("--input", nargs="+", required=True, help="photos, folders, lists, jsons")
    parser.add_argument("--output", type=Path, default=Path("reconstructions"), help="folder")
    parser.add_argument("--regions", choices=SOURCES, default="fh", help="where regions come from")
    parser.add_argument("--json", help="instance masks, for --regions json")
    parser.add_argument("--sam-checkpoint", help="weights of SAM, for --regions sam")
    parser.add_argument("--sam-model", default="vit_h", help="vit_h, vit_l or vit_b")
    parser.add_argument(
        "--mask-ratio", type=float, nargs="+", default=[], help="hidden share, a row each"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument("--max-images", type=int, default=8, help="the first so many")
    parser.add_argument("--max-regions", type=int, default=3, help="of a photo")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        source = region_source(args.regions, args.json, args.sam_checkpoint, args.sam_model)
        pictures = draw_reconstruction_pictures(
            args.weights,
            args.input,
            args.output,
            source,
            config_file=args.config_file,
            overrides=args.overrides,
            mask_ratios=args.mask_ratio,
            seed=args.seed,
            max_images=args.max_images,
            max_regions=args.max_regions,
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    for path in pictures:
        print(f"drawn: {path.resolve()}")


if __name__ == "__main__":
    main()
