#!/usr/bin/env python
r"""Measures interactive segmentation: mask IoU against the number of patches or clicks, with baselines.

    python tools/evaluate_interactive.py --weights output/rmae/model_final.pth \
        --dataset scenes_val --protocol clicks --output output/interactive

Writes interactive_PROTOCOL.json (mean IoU and standard error for each count, and every object's own) and a
plot, and prints a table. The model is pre-trained only; the random walker, Felzenszwalb segments and the
shown patches alone get what the model gets.
"""

import argparse
import logging
import sys
from pathlib import Path

from rmae_d2.errors import UserError
from rmae_d2.evaluation.interactive import PROTOCOLS
from rmae_d2.inference import RegionPromptPredictor
from rmae_d2.inference.interactive_evaluation import evaluate_interactive
from rmae_d2.inference.region_views import RESOLUTIONS


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, help="checkpoint of an R-MAE or RAE")
    parser.add_argument("--config-file", help="of the run; default config.yaml beside the weights")
    parser.add_argument("--dataset", help="registered name, such as coco_2017_val")
    parser.add_argument("--json", help="own annotations in COCO's format")
    parser.add_argument("--root", help="folder of the json's images; by default near the json")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="clicks")
    parser.add_argument("--max-objects", type=int, default=100, help="drawn at random")
    parser.add_argument("--resolution", choices=RESOLUTIONS, default="resize")
    parser.add_argument("--mask-ratio", type=float, default=0.0, help="hidden pixel patches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("interactive"), help="folder")
    args = parser.parse_args()
    if args.max_objects < 1:
        parser.error(f"--max-objects {args.max_objects}: one or more")
    logging.basicConfig(level=logging.WARNING)
    try:
        predictor = RegionPromptPredictor.from_files(
            args.weights,
            args.config_file,
            device=args.device,
            resolution=args.resolution,
            mask_ratio=args.mask_ratio,
            seed=args.seed,
        )
        print(
            evaluate_interactive(
                predictor,
                args.output,
                dataset=args.dataset,
                json_file=args.json,
                root=args.root,
                protocol=args.protocol,
                max_objects=args.max_objects,
                seed=args.seed,
                settings={"weights": args.weights},
            )
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"written: {args.output.resolve()}")


if __name__ == "__main__":
    main()
