"""Plots results of several runs in one picture, from their folders.

rmae-d2 visualize metrics output/a output/b --metric bbox/AP segm/AP --output ap.png
rmae-d2 visualize metrics output/a output/b --labels scratch pre-trained
"""

import argparse
from pathlib import Path

from ..errors import UserError
from . import options


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", metavar="RUN_DIR", type=Path, nargs="+", help="train.output_dir")
    add("--metric", nargs="+", default=["bbox/AP", "segm/AP"], help="results, or values of steps")
    add("--labels", nargs="+", help="one per run; runs with the same label share a colour")
    options.output(parser, "metrics.png", "runs", folder=False)


def run(args: argparse.Namespace) -> None:
    labels = args.labels or [str(folder) for folder in args.runs]
    if len(labels) != len(args.runs):
        raise UserError(f"--labels: {len(labels)} labels for {len(args.runs)} runs")
    if absent := [str(folder) for folder in args.runs if not folder.is_dir()]:
        raise UserError(f"{', '.join(absent)}: no such folder; give the train.output_dir of runs")
    from ..visualization import draw_metrics

    args.output.parent.mkdir(parents=True, exist_ok=True)
    drawn = draw_metrics(list(zip(labels, args.runs, strict=True)), args.metric, args.output)
    print(f"drawn: {drawn.resolve()}")
