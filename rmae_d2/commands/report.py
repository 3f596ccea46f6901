"""Writes one HTML file about a run: summary, losses, samples, results, transfers, config, environment.

    rmae-d2 report output/rmae_vitb
    rmae-d2 report output/rmae_vitb elsewhere/mask_rcnn elsewhere/upernet --output rmae_vitb.html

The file is self-contained. Runs in folders next to RUN_DIR that started from its weights are found;
list others after it. Nothing from a run is executed, so other people's runs are safe to report.
"""

import argparse
from pathlib import Path

from . import options


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN_DIR", type=Path, help="train.output_dir of the run")
    what = "other runs that used its weights"
    add("transfers", metavar="TRANSFER_DIR", type=Path, nargs="*", help=what)
    options.output(parser, "report.html", "run", folder=False)


def run(args: argparse.Namespace) -> None:
    from ..report.report import write_report

    print(f"written: {write_report(args.run, args.transfers, args.output).resolve()}")
