r"""Draws attention maps of photos, side by side for several models, and measures attention on objects.

    rmae-d2 visualize attention --input photo.jpg --query 320,240
    rmae-d2 visualize attention --weights output/rmae/model_final.pth output/mae/model_final.pth \
        --names R-MAE MAE --input photo.jpg --query 320,240 --query cls --output attention
    rmae-d2 visualize attention --weights output/rmae/model_final.pth mocov3.pth.tar dino.pth \
        --evaluate coco_2017_val --output attention

One row per query (a patch, given by a pixel in it, or the cls token), one column per model; the last row
shows the features of the last block as colours. --evaluate gives a number: over images with instance masks,
the share of attention that falls on the query's own instance, compared with uniform attention, the model's
mean attention at each displacement, and random weights; a table, and OUTPUT/attention_share.json.

Weights: ours (pre-training or fine-tuned), MAE, MoCo v3, DINO, DINOv2 and the other ViTs of docs/weights.md;
by default the small R-MAE shipped with the package.
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
    add("--layer", default="-1", help="block index, -1 (last), or rollout")
    add("--head", type=options.integer(NOT_NEGATIVE), help="head index (default: mean of all)")
    add(
        "--size",
        type=options.integer(COUNT),
        help="shorter side of the model input, pixels (default: each model's own)",
    )
    add("--num-heads", type=options.integer(COUNT), help="of the ViTs, if no config.yaml gives it")
    add("--normalize", nargs="+", default=[], help=f"pixel statistics: {', '.join(NORMALIZATIONS)}")
    options.device(parser)
    options.output(parser, "attention", "weights", folder=True)
    add = parser.add_argument_group("the share of attention on objects").add_argument
    add("--evaluate", nargs="+", default=[], metavar="DATASET", help="registered datasets")
    add("--json", help="custom data in COCO format instead")
    add("--root", help="folder of its images, if they are not found otherwise")
    add(
        "--max-images",
        type=options.integer(NOT_NEGATIVE),
        default=0,
        help="maximum number of images; 0: all",
    )
    add("--seed", type=options.integer(NOT_NEGATIVE), default=0, help="seed of random weights")


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
