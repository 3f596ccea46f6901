"""Prints the cost of pre-training models: parameters and multiply-adds by part, activation memory per image.

    rmae-d2 analyze --config-file pretrain/rmae_vitb.py
    rmae-d2 analyze --config-file pretrain/rmae_vitb.py model.region_branch.neck_depth=8
    rmae-d2 analyze --table pretrain/mae_vitb.py pretrain/rmae_vitb.py

Multiply-adds are those of one image's forward pass including losses, which papers often call FLOPs. Nothing
is computed: a large model takes no longer than a small one.
"""

import argparse

from ..config import find_config
from . import options


def arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", metavar="FILE", help="one model, by part")
    several = "several models, compared with the first, in Markdown"
    what.add_argument("--table", metavar="FILE", nargs="+", help=several)
    options.overrides(parser, what="of the single config, as in training")


def run(args: argparse.Namespace) -> None:
    for file in args.table or ():
        find_config(file)  # before anything slow
    from ..config import apply_overrides, load_config
    from ..modeling.analysis import analyze_config, comparison_table, parts_table

    if args.table:
        print(comparison_table({file: analyze_config(load_config(file)) for file in args.table}))
    else:
        cfg = apply_overrides(load_config(args.config_file), args.overrides)
        print(parts_table(analyze_config(cfg)))
