#!/usr/bin/env python
r"""Draws the masks that a pre-training model chooses for photos, and what it predicts behind them.

    python tools/visualize_masking.py --weights output/automae_vitb_coco/model_final.pth --input PHOTOS \
        --output masks.png

A row a photo: the image, for a learned policy the probability with which each patch is marked for hiding
(white is the image's own highest, black 0), what stays visible, the pixels predicted, and some regions where
the model has them.
"""

import argparse
import logging
import sys
from pathlib import Path

from rmae_d2.errors import UserError
from rmae_d2.inference.mask_pictures import draw_masking


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", help="of the run (default: config.yaml beside the weights)"
    )
    parser.add_argument("--weights", required=True, help="the run's checkpoint")
    parser.add_argument("--input", nargs="+", required=True, help="photos, folders, lists, jsons")
    parser.add_argument("--output", type=Path, default=Path("masks.png"), help="PNG to write")
    parser.add_argument("--max-images", type=int, default=8, help="rows")
    parser.add_argument("--seed", type=int, default=0, help="of crops and masks")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        picture = draw_masking(
            args.config_file,
            args.weights,
            args.input,
            args.output,
            overrides=args.overrides,
            max_images=args.max_images,
            seed=args.seed,
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"drawn: {picture.resolve()}")


if __name__ == "__main__":
    main()
