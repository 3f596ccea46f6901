r"""Draws what patches of a photo attend to, side by side for several models, and measures it on objects.

    rmae-d2 visualize attention --input photo.jpg --query 320,240
    rmae-d2 visualize attention --weights output/rmae/model_final.pth output/mae/model_final.pth \
        --names R-MAE MAE --input photo.jpg --query 320,240 --query cls --output attention
    rmae-d2 visualize attention --weights output/rmae/model_final.pth mocov3.pth.tar dino.pth \
        --evaluate coco_2017_val --output attention

A row per query (a patch by a pixel in it, or the cls token), a column per model; the last row has the
features of the last block as colours. --evaluate gives a number: over images with instance masks, the share
of attention that falls on the query's own instance, beside what uniform attention, the model's mean attention
at each displacement, and random weights give; a table, and OUTPUT/attention_share.json.

Weights: ours (pre-training or fine-tuned), MAE, MoCo v3, DINO, DINOv2 and the other ViTs of docs/weights.md;
where none are named, the small R-MAE that comes with the package.
"""

import argparse
import logging

from ..config.ranges import COUNT, NOT_NEGATIVE
from . import options
from .options import UsageError

NORMALIZATIONS = ("imagenet", "half")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.weights(parser, several=True)
    add = parser.add_argument
    add("--input", nargs="+", default=[], help="photos, folders, lists, jsons")
    add("--query", action="append", default=[], metavar="X,Y", help="pixel of the photo, or cls")
    add("--layer", default="-1", help="number of a block, -1 (last) or rollout")
    add("--head", type=options.integer(NOT_NEGATIVE), help="number of one (default: mean of all)")
    add(
        "--size",
        type=options.integer(COUNT),
        help="shorter side of what models see, pixels (default: each its own)",
    )
    add("--num-heads", type=options.integer(COUNT), help="of the ViTs, where no config.yaml tells")
    add("--normalize", nargs="+", default=[], help=f"of the pixels: {', '.join(NORMALIZATIONS)}")
    options.device(parser)
    options.output(parser, "attention", "weights", folder=True)
    add = parser.add_argument_group("the share of attention on objects").add_argument
    add("--evaluate", nargs="+", default=[], metavar="DATASET", help="registered")
    add("--json", help="own data in COCO's format instead")
    add("--root", help="folder of its images, where it is not found by itself")
    add(
        "--max-images",
        type=options.integer(NOT_NEGATIVE),
        default=0,
        help="the first so many; 0: all",
    )
    add("--seed", type=options.integer(NOT_NEGATIVE), default=0, help="of random weights")


def run(args: argparse.Namespace) -> None:
    if not (args.input or args.evaluate or args.json):
        raise UsageError("nothing to do: give --input, --evaluate or --json")
    from ..inference.attention import (
        draw_attention_pictures,
        load_models,
        measure_attention,
        parse_query,
        share_table,
    )
    from ..inference.finished_run import pick_device

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("rmae_d2.inference").setLevel(logging.INFO)
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
        drawn = draw_attention_pictures(models, args.input, args.output, queries=queries, **chosen)
        for path in drawn:
            print(f"drawn: {path.resolve()}")
    if args.evaluate or args.json:
        file = args.output / "attention_share.json"
        data = {"names": args.evaluate, "json": args.json, "root": args.root}
        limits = {"max_images": args.max_images, "seed": args.seed}
        result = measure_attention(models, output=file, **data, **limits, **chosen)
        print(f"{share_table(result)}\nwritten: {file.resolve()}")
