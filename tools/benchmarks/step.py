"""R-MAE's training step against MAE's."""

import argparse

import torch
from detectron2.config import instantiate
from torch import nn

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.modeling import VIT_SIZES, vit_kwargs

from .common import device, machine, race, table, train_step

VARIANTS = {
    "MAE": ["model.region_branch=null"],
    "R-MAE, neck depth 1": [],
    "R-MAE, neck depth 8": ["model.region_branch.neck_depth=8"],
    "RAE, neck depth 1": ["model.pixel_decoder=null"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``step``."""
    parser.add_argument("--size", choices=list(VIT_SIZES), default="base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeat", type=int, default=5)


def run(args: argparse.Namespace) -> None:
    """R-MAE's training step against MAE's, on synthetic images of 224 pixels."""
    batch = [
        {
            "image": torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8),
            "regions": torch.randint(0, 256, (1, 224, 224), dtype=torch.uint8),
            "num_regions": 8,
            "mask_seed": seed,
        }
        for seed in range(args.batch)
    ]
    models = {name: build(overrides, args.size) for name, overrides in VARIANTS.items()}
    best = race(
        {
            name: lambda model=model: train_step(
                model, lambda: sum(model(batch).values()), args.precision
            )
            for name, model in models.items()
        },
        args.repeat,
    )
    print(f"ViT-{args.size}, batch {args.batch}, {args.precision}, {machine()}")
    table(
        "model | s a step | against MAE",
        [(name, f"{value:.3f}", f"{value / best['MAE']:.3f}") for name, value in best.items()],
    )


def build(overrides: list[str], size: str) -> nn.Module:
    """A pre-training model of a named ViT size."""
    net = [f"model.backbone.net.{key}={value}" for key, value in vit_kwargs(size).items()]
    cfg = apply_overrides(get_config("pretrain/rmae_vitb.py"), [*net, *overrides])
    return instantiate(cfg.model).to(device()).train()
