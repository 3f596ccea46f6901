#!/usr/bin/env python
"""Draws what several runs measured in one picture, from their folders.

python tools/plot_metrics.py output/a output/b --metric bbox/AP segm/AP --output ap.png
python tools/plot_metrics.py output/a output/b --labels scratch pre-trained
"""

import argparse
import sys
from pathlib import Path

from rmae_d2.visualization import draw_metrics


def plot(args: argparse.Namespace) -> Path:
    """Draws the picture and returns where it is."""
    labels = args.labels or [str(folder) for folder in args.runs]
    if len(labels) != len(args.runs):
        raise ValueError(f"--labels: {len(labels)} labels for {len(args.runs)} runs")
    if absent := [str(folder) for folder in args.runs if not folder.is_dir()]:
        raise ValueError(f"{', '.join(absent)}: no such folder; give the train.output_dir of runs")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    return draw_metrics(list(zip(labels, args.runs, strict=True)), args.metric, args.output)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUN_DIR", type=Path, nargs="+", help="train.output_dir")
    parser.add_argument(
        "--metric", nargs="+", default=["bbox/AP", "segm/AP"], help="results, or values of steps"
    )
    parser.add_argument(
        "--labels", nargs="+", help="one a run; runs of the same label share a colour"
    )
    parser.add_argument("--output", type=Path, default=Path("metrics.png"), help="PNG to write")
    try:
        print(plot(parser.parse_args()).resolve())
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
