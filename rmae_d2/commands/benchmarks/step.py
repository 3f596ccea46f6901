"""A training step: R-MAE's compared with MAE's, and with a plain implementation of the same maths."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from math import nan
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from ...config import apply_overrides, get_config
from ...engine.throughput import device_peak, step_flops, tune_for
from ...modeling import RMAE, Batch, StepResult, vit_kwargs
from ...modeling.analysis import saved_bytes
from ...tables import table
from .common import autocast, device, machine, race, synchronize
from .plain import PlainRMAE

CONFIG = "pretrain/rmae_vitb.py"
VARIANTS = {
    "MAE": ["model.region_branch=null"],
    "R-MAE": [],
    "R-MAE, neck depth 8": ["model.region_branch.neck_depth=8"],
    "RAE": ["model.pixel_decoder=null"],
}
PLAIN = {"MAE, plain": "MAE", "R-MAE, plain": "R-MAE"}


@dataclass
class Step:
    """One optimizer step of a model, and its context."""

    model: nn.Module
    batches: Iterator[Any]
    precision: str
    fused: bool

    def __post_init__(self) -> None:
        params = [p for p in self.model.parameters() if p.requires_grad]
        # foreach=False, a loop over parameters, is torch.optim.AdamW's default on a CPU.
        options: dict[str, Any] = {"fused": True} if self.fused else {"foreach": False}
        self.optimizer = torch.optim.AdamW(params, lr=1e-6, **options)
        self.scaler = torch.amp.GradScaler(device(), enabled=self.precision == "fp16")

    def loss(self) -> torch.Tensor:
        """Computes the loss of the next batch."""
        with autocast(self.precision):
            result = self.model(next(self.batches))
            losses = result.losses if isinstance(result, StepResult) else result
            return torch.stack(list(losses.values())).sum()

    def __call__(self) -> None:
        self.scaler.scale(self.loss()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        synchronize()


def run(args: argparse.Namespace) -> None:
    """Times a training step, optimizer included: R-MAE, MAE, RAE, and the same maths written plainly.

    Plainly means: dense float32 input, all patches embedded and predicted, nothing fused. The neck has depth
    1 unless stated.
    """
    batch = synthetic(args.batch)
    names = args.variants or [*VARIANTS, *PLAIN]
    steps = {name: make_step(name, args, batch) for name in names}
    flops = {name: step_flops(step.model, next(step.batches)) for name, step in steps.items()}
    if args.data:
        name = f"R-MAE, from {args.data}"
        steps[name] = Step(build([], args), loaded(args), args.precision, fused=True)
        flops[name] = step_flops(steps[name].model, batch)
    peak = device_peak(torch.device(device()), args.precision, args.peak_tflops)
    saved = {name: saved_bytes(step.model, step.loss) / 2**20 for name, step in steps.items()}
    memory = {name: gpu_mib(step) for name, step in steps.items()}
    best = race(steps, args.repeat)
    options = [o for o in ("compile", "checkpointing") if getattr(args, o)]
    shown = ", ".join([f"batch {args.batch}", args.precision, *options, machine()])
    print(f"ViT-{args.arch}, {shown}; MFU of {peak}\n")
    rows = []
    for name, s in best.items():
        gflop = (flops[name] or nan) / 1e9
        mfu = gflop * 1e9 * args.batch / s / peak.flops
        cells = [name, f"{s:.3f}", f"{args.batch / s:.4g}", gflop, f"{mfu:.1%}"]
        cells += [f"{saved[name]:.0f}", memory[name], ratio(s, best.get("MAE"))]
        plain = best.get("R-MAE, plain") if name.startswith("R-MAE") else None
        rows.append([*cells, ratio(plain, s)])
    headers = ["step", "s", "images/s", "GFLOP per image", "MFU", "saved activations, MiB"]
    print(table([*headers, "GPU memory, MiB", "time / MAE", "plain / time"], rows))
    best = race(optimizers(steps[names[0]].model), args.repeat)
    rows = [[name, f"{s:.4f}", ratio(best["a loop"], s)] for name, s in best.items()]
    print(f"\n{table([f'AdamW for {names[0]}', 's', 'loop / time'], rows)}")


def optimizers(model: nn.Module) -> dict[str, Callable[[], None]]:
    """Returns AdamW's update of all parameters in its three implementations."""
    params = [nn.Parameter(p.detach().clone()) for p in model.parameters() if p.requires_grad]
    for p in params:
        p.grad = torch.full_like(p, 1e-3)
    kinds: dict[str, dict[str, Any]]
    kinds = {"a loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}

    def update(optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()
        synchronize()

    made = {name: torch.optim.AdamW(params, lr=1e-6, **kind) for name, kind in kinds.items()}
    return {name: partial(update, optimizer) for name, optimizer in made.items()}


def ratio(a: float | None, b: float | None) -> str | None:
    """Formats ``a / b`` if both were measured."""
    return f"{a / b:.3f}" if a is not None and b is not None else None


def synthetic(size: int) -> Batch:
    """Creates random images and region maps of 224 pixels in the loader's format: pinned stacks."""
    images = torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8)
    planes = torch.randint(0, 256, (size, 1, 224, 224), dtype=torch.uint8)
    facts = [{"num_regions": 8, "mask_seed": i} for i in range(size)]
    batch = Batch(images, facts, planes, 8, torch.arange(size))
    return batch.pin_memory() if device() == "cuda" else batch


def make_step(name: str, args: argparse.Namespace, batch: Batch) -> Step:
    """Creates a variant by its name in the table; copying its one batch to the device is part of a step."""
    if name not in PLAIN:
        return Step(build(VARIANTS[name], args), repeat(batch), args.precision, fused=True)
    plain = argparse.Namespace(**{**vars(args), "compile": False, "checkpointing": False})
    model = PlainRMAE(build(VARIANTS[PLAIN[name]], plain))
    return Step(model, repeat(model.prepare(batch)), args.precision, fused=False)


def config_of(arch: str, overrides: list[str]) -> DictConfig:
    """R-MAE's config with a named ViT size."""
    net = [f"model.backbone.net.{key}={value}" for key, value in vit_kwargs(arch).items()]
    if arch == "huge":
        net.append("model.backbone.net.patch_size=14")
    return apply_overrides(get_config(CONFIG), [*net, *overrides])


def build(overrides: list[str], args: argparse.Namespace) -> RMAE:
    """Builds a pre-training model of a named ViT size, with a run's settings."""
    recompute = f"train.activation_checkpointing={str(args.checkpointing).lower()}"
    cfg = config_of(args.arch, [recompute, *overrides])
    model: RMAE = instantiate(cfg.model).to(device()).train()
    tune_for(model, torch.device(device()), args.precision)
    if args.compile:
        model.compile()
    return model


def loaded(args: argparse.Namespace) -> Iterator[Any]:
    """Yields batches from files, as in training."""
    given = {"dataset.root": args.data, "total_batch_size": args.batch, "num_workers": args.workers}
    if args.regions:
        given["mapper.regions.path"] = args.regions
    overrides = [f"dataloader.train.{key}={value}" for key, value in given.items()]
    loader = instantiate(apply_overrides(get_config(CONFIG), overrides).dataloader.train)
    return iter(loader.start(0, torch.device("cuda", 0) if device() == "cuda" else None))


def gpu_mib(step: Callable[[], None]) -> str | None:
    """Peak GPU memory of a step beyond what is held before it, in MiB."""
    if device() != "cuda":
        return None
    step()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f}"
