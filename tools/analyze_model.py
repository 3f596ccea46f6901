#!/usr/bin/env python
"""Prints what pre-training models cost: parameters and multiply-adds by part, activation memory an image.

    python tools/analyze_model.py --config-file configs/pretrain/rmae_vitb.py
    python tools/analyze_model.py --config-file configs/pretrain/rmae_vitb.py model.region_branch.neck_depth=8
    python tools/analyze_model.py --table configs/pretrain/mae_vitb.py configs/pretrain/rmae_vitb.py

Multiply-adds are those of one image's forward pass with its losses, which papers often call FLOPs. Nothing is
computed: a large model takes as long as a small one.
"""

import argparse
import sys

from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import DictConfig

from rmae_d2.config import apply_overrides, load_config
from rmae_d2.errors import UserError
from rmae_d2.modeling import RMAE
from rmae_d2.modeling.analysis import Analysis, analyze, comparison_table, parts_table


def analysis_of(cfg: DictConfig) -> Analysis:
    """Analyses the model of a config, with as many regions as its loader gives."""
    target = cfg.model._target_
    if (locate(target) if isinstance(target, str) else target) is not RMAE:
        raise ValueError(f"{target} is no pre-training model; those of configs/pretrain are")
    return analyze(lambda: instantiate(cfg.model), cfg.dataloader.train.mapper.num_regions)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", metavar="FILE", help="one model, by part")
    what.add_argument(
        "--table", metavar="FILE", nargs="+", help="several, compared with the first, in Markdown"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="of the one config, as in training"
    )
    args = parser.parse_args()
    try:
        if args.table:
            models = {file: analysis_of(load_config(file)) for file in args.table}
            print(comparison_table(models))
        else:
            cfg = apply_overrides(load_config(args.config_file), args.overrides)
            print(parts_table(analysis_of(cfg)))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
