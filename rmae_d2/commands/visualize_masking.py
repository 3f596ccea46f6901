r"""Draws the masks that a pre-training model chooses for photos, and what it predicts in the hidden patches.

    rmae-d2 visualize masking --weights output/automae_vitb_coco/model_final.pth --input PHOTOS

One row per photo: the image; for a learned policy, the probability with which each patch is marked for hiding
(white is the image's own highest, black 0); what stays visible, the predicted pixels, and some regions if
the model has them.
"""

import argparse
import logging

from . import options


def arguments(parser: argparse.ArgumentParser) -> None:
    options.trained(parser)
    options.photos(parser, 8)
    options.output(parser, "masks.png", "weights", folder=False)


def run(args: argparse.Namespace) -> None:
    # Its warnings about regions that are not stored concern training.
    logging.getLogger("rmae_d2.regions.sources.stored").setLevel(logging.ERROR)
    from ..inference.reconstruction_pictures import draw_masking

    given = dict(vars(args))
    print(f"drawn: {draw_masking(inputs=given.pop('input'), **given).resolve()}")
