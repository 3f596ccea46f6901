#!/usr/bin/env python
"""Times a training step of R-MAE against MAE's, side by side in one run, and prints the ratios.

    python tools/benchmark.py                     ViT-B/16, batch 8
    python tools/benchmark.py --size small --batch 64 --precision bf16

Forward and backward on synthetic images, the variants taking turns; the minimum of the repetitions counts,
for other work on the machine only ever adds time. Ratios carry over to other machines better than seconds.
"""

import argparse
import time

import torch
from detectron2.config import instantiate
from torch import nn

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.engine.trainer import PRECISIONS
from rmae_d2.modeling import VIT_SIZES, vit_kwargs

VARIANTS = {
    "MAE": ["model.region_branch=null"],
    "R-MAE, neck depth 1": [],
    "R-MAE, neck depth 8": ["model.region_branch.neck_depth=8"],
    "RAE, neck depth 1": ["model.pixel_decoder=null"],
}


def build(overrides: list[str], size: str, device: str) -> nn.Module:
    """A pre-training model of a named ViT size."""
    net = [f"model.backbone.net.{key}={value}" for key, value in vit_kwargs(size).items()]
    cfg = apply_overrides(get_config("pretrain/rmae_vitb.py"), [*net, *overrides])
    return instantiate(cfg.model).to(device).train()


def seconds(model: nn.Module, batch: list[dict], device: str, precision: str) -> float:
    """One forward and backward pass."""
    dtype = PRECISIONS[precision]
    start = time.perf_counter()
    with torch.autocast(device, dtype, enabled=dtype is not None):
        losses = model(batch)
    sum(losses.values()).backward()
    model.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(VIT_SIZES), default="base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = [
        {
            "image": torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8),
            "regions": torch.randint(0, 256, (1, 224, 224), dtype=torch.uint8),
            "num_regions": 8,
            "mask_seed": seed,
        }
        for seed in range(args.batch)
    ]
    models = {name: build(overrides, args.size, device) for name, overrides in VARIANTS.items()}
    best = dict.fromkeys(models, float("inf"))
    for _ in range(args.repeat + 1):  # the first round warms up; minima ignore it
        for name, model in models.items():
            best[name] = min(best[name], seconds(model, batch, device, args.precision))
    print(
        f"ViT-{args.size}, batch {args.batch}, {args.precision}, {device}, {torch.get_num_threads()} threads"
    )
    print("| model | s a step | against MAE |\n|---|---|---|")
    for name, value in best.items():
        print(f"| {name} | {value:.3f} | {value / best['MAE']:.3f} |")


if __name__ == "__main__":
    main()
