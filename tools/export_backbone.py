#!/usr/bin/env python
"""Writes the pixel encoder of any known weights for a plain Detectron2 ViTDet.

    python tools/export_backbone.py output/rmae_vitb/model_0099999.pth backbone.pth

Reads MAE, R-MAE reference, timm, Hugging Face ViTMAE, Detectron2 and our own files.
"""

import argparse
import sys

from rmae_d2.checkpoint import CheckpointError, export_backbone

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", help="a weight file")
    parser.add_argument("output", help="the file to write")
    args = parser.parse_args()
    try:
        names = export_backbone(args.weights, args.output)
    except CheckpointError as error:
        sys.exit(f"error: {error}")
    print(f"{args.output}: {len(names)} tensors of the pixel encoder")
