"""Image sizes: what a training step costs against the side of the image, decoded whole or in part."""

import argparse
from functools import partial
from typing import Any

import torch
from detectron2.config import instantiate

from ...modeling import RMAE, Batch
from ...modeling.analysis import analyze
from ...tables import table
from ...visualization.curves import draw_costs
from .common import CLOCKS, device, machine, race, synchronize
from .step import config_of

_APART = ["model.pixel_decoder.hidden_attention=false"]
#: Overrides of the R-MAE config by what they are called in the table.
VARIANTS: dict[str, list[str]] = {
    "all decoded, as published": [],
    "all, hidden patches apart": _APART,
    "a half": [*_APART, "model.decode_ratio=0.5"],
    "a quarter": [*_APART, "model.decode_ratio=0.25"],
}
#: The fourth with windows, in patches, where a grid has several.
WINDOWED = "a quarter, windows"
WINDOWS = {448: 14, 1024: 16}


def run(args: argparse.Namespace) -> None:
    """Tabulates multiply-adds, memory and seconds per image; draws the first against the side."""
    rows, macs = [], dict[str, list[tuple[int, float]]]()
    for side in args.sides:
        configs = {name: _config(args, side, words) for name, words in _variants(side).items()}
        costs = {name: analyze(partial(_model, cfg)) for name, cfg in configs.items()}
        seconds: dict[str, float] = {}
        if side <= args.timed_up_to:
            steps = {name: partial(_step, _model(cfg), side) for name, cfg in configs.items()}
            seconds = race(steps, args.repeat, CLOCKS[args.clock])
        first = next(iter(seconds.values()), None)
        for name, cost in costs.items():
            gmacs = sum(cost.macs.values()) / 1e9
            macs.setdefault(name, []).append((side, gmacs))
            taken = seconds.get(name)
            cells = [f"{gmacs:.1f}", f"{cost.activation_bytes / 2**20:.0f}"]
            cells += [f"{taken:.2f}", f"{taken / first:.2f}"] if taken and first else ["-", "-"]
            rows.append([f"{side}", name, *cells])
    headers = ["side", "hidden patches", "GMACs", "MiB kept", "s per image", "ratio"]
    print(f"ViT-{args.arch}, {machine()}, fp32, batch 1, best of {args.repeat}\n")
    print(table(headers, rows))
    if args.output:
        print(f"\ndrawn: {draw_costs(macs, args.output).resolve()}")


def _variants(side: int) -> dict[str, list[str]]:
    if side not in WINDOWS:
        return VARIANTS
    size = WINDOWS[side]
    words = [
        f"model.backbone.net.window_size={size}",
        "model.backbone.net.window_block_indexes=[0,1,3,4,6,7,9,10]",
        "model.masking={_target_: rmae_d2.modeling.WindowMasking, window_size: " + f"{size}}}",
    ]
    return {**VARIANTS, WINDOWED: [*VARIANTS["a quarter"], *words]}


def _config(args: argparse.Namespace, side: int, overrides: list[str]) -> Any:
    return config_of(args.arch, [f"model.backbone.net.img_size={side}", *overrides])


def _model(cfg: Any) -> RMAE:
    model: RMAE = instantiate(cfg.model)
    return model


def _step(model: RMAE, side: int) -> None:
    """Runs forward and backward passes of one image with eight regions."""
    model.to(device()).train()
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    regions = torch.rand(8, side, side) > 0.5
    batch = Batch.of([{"image": image, "regions": regions, "mask_seed": 0}])
    torch.stack(list(model(batch).losses.values())).sum().backward()
    model.zero_grad()
    synchronize()
