"""Writes one HTML file about a run: summary, losses, samples, results, transfers, config, environment.

    rmae-d2 report output/rmae_vitb
    rmae-d2 report output/rmae_vitb elsewhere/mask_rcnn elsewhere/upernet --output rmae_vitb.html

The file needs nothing beside it. Runs in the folders beside RUN_DIR that began with its weights are found;
others are given after it. Nothing of a run is executed, so pages can be made of runs of other people.
"""

import argparse
from pathlib import Path

from . import options


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN_DIR", type=Path, help="train.output_dir of the run")
    what = "runs that used its weights"
    add("transfers", metavar="TRANSFER_DIR", type=Path, nargs="*", help=what)
    options.output(parser, "report.html", "run", folder=False)


def run(args: argparse.Namespace) -> None:
    from ..report.report import write_report

    print(f"written: {write_report(args.run, args.transfers, args.output).resolve()}")
