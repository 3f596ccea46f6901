"""Draws metrics of several runs in one picture, from the metrics.json in their folders.

rmae-d2 visualize metrics output/a output/b --metric bbox/AP segm/AP --output ap.png
rmae-d2 visualize metrics output/a output/b --labels scratch pre-trained
"""

import argparse
from pathlib import Path

from ..errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", metavar="RUN_DIR", type=Path, nargs="+", help="train.output_dir")
    add("--metric", nargs="+", default=["bbox/AP", "segm/AP"], help="keys of metrics.json")
    add("--labels", nargs="+", help="one a run; runs of the same label share a colour")
    add("--output", type=Path, default=Path("metrics.png"), help="PNG to write")


def run(args: argparse.Namespace) -> None:
    labels = args.labels or [str(folder) for folder in args.runs]
    if len(labels) != len(args.runs):
        raise UserError(f"--labels: {len(labels)} labels for {len(args.runs)} runs")
    files = [folder / "metrics.json" for folder in args.runs]
    if absent := [str(file) for file in files if not file.is_file()]:
        raise UserError(f"{', '.join(absent)}: no such file; give the train.output_dir of runs")
    from ..visualization import draw_metrics

    args.output.parent.mkdir(parents=True, exist_ok=True)
    print(draw_metrics(list(zip(labels, files, strict=True)), args.metric, args.output).resolve())
