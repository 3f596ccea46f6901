#!/usr/bin/env python
r"""Draws what patches of a photo attend to, side by side for several models, and measures it on objects.

    python tools/visualize_attention.py --weights output/rmae/model_final.pth output/mae/model_final.pth \
        --names R-MAE MAE --input photo.jpg --query 320,240 --query cls --output attention
    python tools/visualize_attention.py --weights output/rmae/model_final.pth mocov3.pth.tar dino.pth \
        --evaluate coco_2017_val --output attention

A row a query (a patch by a pixel in it, or the cls token), a column a model; the last row has the features of
the last block as colours. --evaluate gives a number: over images with instance masks, the share of attention
that falls on the query's own instance, beside what uniform attention, the model's mean attention at each
displacement, and random weights give; a table, and OUTPUT/attention_share.json.

Weights: ours (pre-training or fine-tuned), MAE, MoCo v3, DINO, timm and Hugging Face ViTMAE, as files.
"""

import argparse
import logging
import sys
from pathlib import Path

from rmae_d2.errors import UserError
from rmae_d2.inference.attention import (
    NORMALIZATIONS,
    draw_attention_pictures,
    load_models,
    measure_attention,
    parse_query,
    share_table,
)
from rmae_d2.inference.device import pick_device


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--names", nargs="+", default=[], help="one a file, for titles")
    parser.add_argument("--input", nargs="+", default=[], help="photos, folders, lists, jsons")
    parser.add_argument(
        "--query", action="append", default=[], metavar="X,Y", help="pixel of the photo, or cls"
    )
    parser.add_argument("--layer", default="-1", help="number of a block, -1 (last) or rollout")
    parser.add_argument("--head", type=int, help="number of one (default: mean of all)")
    parser.add_argument(
        "--size", type=int, help="shorter side of what models see, pixels (default: each its own)"
    )
    parser.add_argument("--num-heads", type=int, help="of the ViTs, where no config.yaml tells")
    parser.add_argument(
        "--normalize", nargs="+", default=[], help=f"of the pixels: {', '.join(NORMALIZATIONS)}"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--output", type=Path, default=Path("attention"), help="folder")
    measured = parser.add_argument_group("the share of attention on objects")
    measured.add_argument("--evaluate", nargs="+", default=[], metavar="DATASET", help="registered")
    measured.add_argument("--json", help="own data in COCO's format instead")
    measured.add_argument("--root", help="folder of its images, where it is not found by itself")
    measured.add_argument("--max-images", type=int, default=0, help="the first so many")
    measured.add_argument("--seed", type=int, default=0, help="of random weights")
    args = parser.parse_args()
    if not (args.input or args.evaluate or args.json):
        parser.error("nothing to do: give --input, --evaluate or --json")
    return args


def run(args: argparse.Namespace) -> None:
    """Draws, measures, or both."""
    if args.size is not None and args.size < 1:
        raise UserError(f"--size {args.size}: pixels, more than 0")
    queries = [parse_query(text) for text in args.query]
    models = load_models(
        args.weights,
        args.names,
        num_heads=args.num_heads,
        normalizations=args.normalize,
        device=pick_device(args.device),
    )
    for model in models:
        print(f"{model.name}: {model.kind}, {model.size}")
    chosen = {"layer": args.layer, "head": args.head, "side": args.size}
    if args.input:
        for path in draw_attention_pictures(
            models, args.input, args.output, queries=queries, **chosen
        ):
            print(f"drawn: {path.resolve()}")
    if args.evaluate or args.json:
        file = args.output / "attention_share.json"
        result = measure_attention(
            models,
            names=args.evaluate,
            json=args.json,
            root=args.root,
            max_images=args.max_images,
            seed=args.seed,
            output=file,
            **chosen,
        )
        print(share_table(result))
        print(f"written: {file.resolve()}")


def main() -> None:
    """Runs, and says in one line what users can set right."""
    args = parse()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("rmae_d2.engine").setLevel(logging.INFO)
    try:
        run(args)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
