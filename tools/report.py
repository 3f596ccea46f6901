#!/usr/bin/env python
"""Writes one HTML file about a run: summary, losses, samples, results, transfers, config, environment.

python tools/report.py output/rmae_vitb
python tools/report.py output/rmae_vitb elsewhere/mask_rcnn elsewhere/upernet --output rmae_vitb.html

The file needs nothing beside it. Runs in the folders beside RUN_DIR that began with its weights are found;
others are given after it. Nothing of a run is executed, so pages can be made of runs of other people.
"""

import argparse
import sys
from pathlib import Path

from rmae_d2.errors import UserError
from rmae_d2.report.report import write_report


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="train.output_dir of the run")
    parser.add_argument(
        "transfers", metavar="TRANSFER_DIR", type=Path, nargs="*", help="runs that used its weights"
    )
    parser.add_argument("--output", type=Path, help="HTML to write; default RUN_DIR/report.html")
    args = parser.parse_args()
    try:
        path = write_report(args.run, args.transfers, args.output)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    print(path.resolve())


if __name__ == "__main__":
    main()
