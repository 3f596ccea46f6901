#!/usr/bin/env python
"""Turns weights of one project into another's.

    python tools/convert_weights.py --input output/model_final.pth --output backbone.pth --to detectron2
    python tools/convert_weights.py --input mae_pretrain_vit_base.pth --output rmae.pth --to rmae
    python tools/convert_weights.py --input model_final.pth --output model.safetensors --to huggingface

Reads MAE, R-MAE reference, timm, Hugging Face ViTMAE, Detectron2 (.pkl too) and our own files, told apart by
their keys; no code of a file is run. Prints what was copied, what the target has besides (new by design),
what it has no use for (not taken by design), and what is refused: then nothing is written and the exit
status is 1 (2 where the command line is wrong).

What the files are: detectron2, a backbone that any Detectron2 ViTDet loads, in a .pth; mae, the official
names; rmae, a checkpoint of this package; timm, a state dict of VisionTransformer with num_classes=0
(class_token=False where the input has no cls token); huggingface, of ViTMAEForPreTraining, or of ViTMAEModel
where the input has no decoder.
"""

import argparse
import sys

from rmae_d2.checkpoint import TARGETS, check_output, convert, save_conversion
from rmae_d2.errors import CheckpointError


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, help="a weight file")
    parser.add_argument(
        "--output", required=True, help="the .pth, .pt, .bin or .safetensors to write"
    )
    parser.add_argument("--to", required=True, choices=list(TARGETS), help="whose weights to write")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--grid",
        type=int,
        nargs="+",
        metavar="N",
        help="resize position embeddings to GH [GW] patches",
    )
    size.add_argument(
        "--img-size", type=int, nargs="+", metavar="N", help="the same for images of H [W] pixels"
    )
    parser.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out input tensors of this name (* and ? as in a shell), e.g. '*.rel_pos_?'; repeatable",
    )
    parser.add_argument(
        "--fill",
        action="store_true",
        help="make up a cls token and a final norm where the target has them and the input (a Detectron2 "
        "backbone) has not, so that pre-training can go on from the file",
    )
    parser.add_argument(
        "--transformers",
        type=int,
        choices=(4, 5),
        help="whose names --to huggingface writes: 4, as on the hub, read by from_pretrained of both; 5, as "
        "in a state_dict of version 5 (default: the version installed, else 4)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    args = parser.parse_args()
    for name in ("grid", "img_size"):
        values = getattr(args, name)
        if values is not None:
            if len(values) > 2 or min(values) < 1:
                parser.error(f"--{name.replace('_', '-')} takes one or two positive numbers")
            setattr(args, name, (values[0], values[-1]))
    return args


def main() -> None:
    """Converts, reports, writes."""
    args = parse_args()
    try:
        check_output(args.output, args.to, args.force)
        conversion = convert(
            args.input, args.to, args.grid, args.img_size, args.drop, args.fill, args.transformers
        )
        print(conversion)
        save_conversion(conversion, args.output, args.force)
    except CheckpointError as error:
        sys.exit(f"error: {error}")
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
