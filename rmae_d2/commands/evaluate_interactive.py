r"""Evaluates interactive segmentation: mask IoU versus number of patches or clicks, with baselines.

    rmae-d2 evaluate-interactive --dataset scenes_val
    rmae-d2 evaluate-interactive --weights output/rmae/model_final.pth \
        --dataset scenes_val --protocol clicks --output output/interactive

Writes interactive_PROTOCOL.json (mean IoU and standard error per count, and each object's own) and a
plot, and prints a table. The model, by default the small R-MAE shipped with the package, is only
pre-trained; the random walker, Felzenszwalb segments and the shown patches alone get the same input.
"""

import argparse

from ..config.ranges import BELOW_ONE, COUNT, NOT_NEGATIVE
from . import options

PROTOCOLS = ("patches", "clicks")
RESOLUTIONS = ("resize", "interpolate", "window")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.trained(parser)
    prompting(parser)
    add = parser.add_argument
    add("--dataset", help="registered name, such as coco_2017_val")
    add("--json", help="custom annotations in COCO format")
    add("--root", help="folder of the json's images; by default near the json")
    add("--protocol", choices=PROTOCOLS, default="clicks")
    add("--max-objects", type=options.integer(COUNT), default=100, help="number drawn at random")
    add("--seed", type=options.integer(NOT_NEGATIVE), default=0)
    options.output(parser, "interactive", "weights", folder=True)


def prompting(parser: argparse.ArgumentParser) -> None:
    """Adds options for how a model sees images; also used by the demo."""
    add = parser.add_argument
    add(
        "--mask-ratio",
        type=options.real(BELOW_ONE),
        default=0.0,
        help="fraction of pixel patches hidden at first",
    )
    what = "how to fit images that differ in size from the model's"
    add("--resolution", choices=RESOLUTIONS, default="resize", help=what)
    options.device(parser)


def run(args: argparse.Namespace) -> None:
    from ..inference import RegionPromptPredictor
    from ..inference.interactive_evaluation import evaluate_interactive

    given = dict(vars(args))
    shown = ("weights", "config_file", "device", "resolution", "mask_ratio")
    predictor = RegionPromptPredictor.from_files(
        **{name: given.pop(name) for name in shown}, seed=args.seed
    )
    settings = {"weights": args.weights}
    print(evaluate_interactive(predictor, json_file=given.pop("json"), settings=settings, **given))
    print(f"written: {args.output.resolve()}")
