"""A training step of our ViT compared with Detectron2's."""

import argparse
from functools import partial

import torch
from detectron2.modeling import ViT as Detectron2ViT
from torch import nn

from ...modeling import ViT, vit_kwargs
from ...tables import table
from . import common
from .common import device

THEIRS = "Detectron2's ViT"
VARIANTS = {
    THEIRS: (Detectron2ViT, {}),
    "ours": (ViT, {}),
    "ours, use_act_checkpoint": (ViT, {"use_act_checkpoint": True}),
}


def run(args: argparse.Namespace) -> None:
    """Compares a training step of our ViT with Detectron2's, in ViTDet's setting: time and peak memory.

    The step is forward and backward of the backbone on noise. Peak memory is that of a fresh process:
    weights, gradients and activations; no optimizer.
    """
    memory = {name: common.in_fresh_process(peak_of_step, name, args) for name in VARIANTS}
    steps = {name: prepare(name, args) for name in VARIANTS}
    seconds = common.race(steps, args.repeat, common.CLOCKS[args.clock])
    depth = f", the first {args.depth} blocks" if args.depth else ""
    shown = [f"ViT-{args.size}{depth}", f"{args.image} pixels", f"batch {args.batch}"]
    shown += [args.precision, common.machine(), f"minimum of {args.repeat}"]
    print(f"{', '.join(shown)}\n")
    rows = []
    for name, s in seconds.items():
        shares = (s / seconds[THEIRS], memory[name] / memory[THEIRS])
        rows.append([name, s, shares[0], f"{memory[name] / 2**20:.0f}", shares[1]])
    headers = ["backbone", f"{args.clock} s per step", "share", "peak MiB", "share"]
    print(table(headers, rows, digits=3))


def prepare(name: str, args: argparse.Namespace) -> partial[None]:
    """Returns a variant's training step, with weights and images in place."""
    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, args.image, args.image, device=device())
    return partial(step, build(name, args), images, args.precision)


def step(net: nn.Module, images: torch.Tensor, precision: str) -> None:
    """Runs one forward and backward pass, and synchronises the device."""
    with common.autocast(precision):
        loss = net(images)["last_feat"].float().square().mean()
    loss.backward()
    net.zero_grad(set_to_none=True)
    common.synchronize()


def build(name: str, args: argparse.Namespace) -> nn.Module:
    """Builds a ViTDet backbone: 14x14-token windows, with global attention after each quarter of blocks."""
    vit, options = VARIANTS[name]
    size = vit_kwargs(args.size)
    quarter = size["depth"] // 4
    size["depth"] = args.depth or size["depth"]
    net = vit(
        img_size=args.image,
        **size,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        drop_path_rate=0.1,
        use_rel_pos=True,
        window_size=14,
        window_block_indexes=[i for i in range(size["depth"]) if (i + 1) % quarter],
        **options,
    )
    return net.to(device()).train()


def peak_of_step(name: str, args: argparse.Namespace) -> float:
    """Returns peak bytes of a network and its step, the first in this process."""
    if device() == "cuda":
        prepare(name, args)()
        return torch.cuda.max_memory_allocated()
    # Code loaded on first use does not count as memory of the step.
    prepare(name, argparse.Namespace(**{**vars(args), "image": 64, "depth": 1}))()
    return common.peak_bytes(lambda: prepare(name, args)())
