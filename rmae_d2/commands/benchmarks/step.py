"""A training step: R-MAE's against MAE's, and against the same maths written plainly."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any

import torch
from detectron2.config import instantiate
from torch import nn

from ...config import apply_overrides, get_config
from ...engine.throughput import device_peak, step_flops, tune_for
from ...modeling import PRECISIONS, RMAE, Batch, StepResult, vit_kwargs
from .common import device, machine, race, saved_bytes, table
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
    """One optimizer step of a model, and what belongs to it."""

    model: nn.Module
    batches: Iterator[Any]
    precision: str
    fused: bool

    def __post_init__(self) -> None:
        params = [p for p in self.model.parameters() if p.requires_grad]
        # The loop over parameters is what torch.optim.AdamW does where nothing else is asked for on a CPU.
        options: dict[str, Any] = {"fused": True} if self.fused else {"foreach": False}
        self.optimizer = torch.optim.AdamW(params, lr=1e-6, **options)
        self.scaler = torch.amp.GradScaler(device(), enabled=self.precision == "fp16")

    def loss(self) -> torch.Tensor:
        """Of the next batch."""
        dtype = PRECISIONS[self.precision]
        with torch.autocast(device(), dtype, enabled=dtype is not None):
            result = self.model(next(self.batches))
            losses = result.losses if isinstance(result, StepResult) else result
            return torch.stack(list(losses.values())).sum()

    def __call__(self) -> None:
        self.scaler.scale(self.loss()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if device() == "cuda":
            torch.cuda.synchronize()


def run(args: argparse.Namespace) -> None:
    """A training step, optimizer included: R-MAE, MAE, RAE, and the same maths written plainly.

    Plainly is: dense float32 input, all patches embedded and predicted, nothing fused. The neck has depth 1
    unless said.
    """
    batch = synthetic(args.batch)
    names = args.variants or [*VARIANTS, *PLAIN]
    steps = {name: make_step(name, args, batch) for name in names}
    flops = {
        name: step_flops(step.model, next(step.batches)) or nan for name, step in steps.items()
    }
    if args.data:
        name = f"R-MAE, from {args.data}"
        steps[name] = Step(build([], args), loaded(args), args.precision, fused=True)
        flops[name] = step_flops(steps[name].model, batch) or nan
    peak = device_peak(torch.device(device()), args.precision, args.peak_tflops)
    saved = {name: saved_bytes(step.model, step.loss) for name, step in steps.items()}
    held = {name: gpu_bytes(step) for name, step in steps.items()}
    memory = {name: f"{size / 2**20:.0f}" if size else "-" for name, size in held.items()}
    best = race(steps, args.repeat)
    options = [o for o in ("compile", "checkpointing") if getattr(args, o)]
    shown = ", ".join([f"batch {args.batch}", args.precision, *options, machine()])
    print(f"ViT-{args.arch}, {shown}; MFU of {peak}")
    table(
        "step | s | images/s | GFLOP an image | MFU | saved activations, MiB | GPU memory, MiB | "
        "time / MAE | plain / time",
        [
            f"{name} | {s:.3f} | {args.batch / s:.4g} | {flops[name] / 1e9:.2f} | "
            f"{flops[name] * args.batch / s / peak.flops:.1%} | {saved[name] / 2**20:.0f} | "
            f"{memory[name]} | "
            f"{ratio(s, best.get('MAE'))} | "
            + (ratio(best.get("R-MAE, plain"), s) if name.startswith("R-MAE") else "-")
            for name, s in best.items()
        ],
    )
    updates = optimizers(steps[names[0]].model)
    best = race(updates, args.repeat)
    rows = [f"{name} | {s:.4f} | {ratio(best['a loop'], s)}" for name, s in best.items()]
    table(f"AdamW for {names[0]} | s | loop / time", rows)


def optimizers(model: nn.Module) -> dict[str, Callable[[], None]]:
    """AdamW's update of all parameters in its three implementations."""
    params = [nn.Parameter(p.detach().clone()) for p in model.parameters() if p.requires_grad]
    for p in params:
        p.grad = torch.full_like(p, 1e-3)
    kinds: dict[str, dict[str, Any]] = {kind: {kind: True} for kind in ("foreach", "fused")}
    kinds = {"a loop": {"foreach": False}, **kinds}

    def update(optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()
        if device() == "cuda":
            torch.cuda.synchronize()

    made = {name: torch.optim.AdamW(params, lr=1e-6, **kind) for name, kind in kinds.items()}
    return {name: partial(update, optimizer) for name, optimizer in made.items()}


def ratio(a: float | None, b: float | None) -> str:
    """``a / b``, where both were measured."""
    return f"{a / b:.3f}" if a is not None and b is not None else "-"


def synthetic(size: int) -> Batch:
    """Random images and region maps of 224 pixels, as the loader hands them over: pinned stacks."""
    images = torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8)
    planes = torch.randint(0, 256, (size, 1, 224, 224), dtype=torch.uint8)
    facts = [{"num_regions": 8, "mask_seed": i} for i in range(size)]
    batch = Batch(images, facts, planes, 8, torch.arange(size))
    return batch.pin_memory() if device() == "cuda" else batch


def make_step(name: str, args: argparse.Namespace, batch: Batch) -> Step:
    """A variant by its name in the table."""
    if name not in PLAIN:
        return Step(build(VARIANTS[name], args), forever(batch), args.precision, fused=True)
    plain = argparse.Namespace(**{**vars(args), "compile": False, "checkpointing": False})
    model = PlainRMAE(build(VARIANTS[PLAIN[name]], plain))
    return Step(model, forever(model.prepare(batch)), args.precision, fused=False)


def forever(batch: Any) -> Iterator[Any]:
    """The same batch each time; its copying to the device is part of a step."""
    while True:
        yield batch


def build(overrides: list[str], args: argparse.Namespace) -> RMAE:
    """A pre-training model of a named ViT size, with what a run would set."""
    net = [f"model.backbone.net.{key}={value}" for key, value in vit_kwargs(args.arch).items()]
    if args.arch == "huge":
        net.append("model.backbone.net.patch_size=14")
    recompute = f"train.activation_checkpointing={str(args.checkpointing).lower()}"
    cfg = apply_overrides(get_config(CONFIG), [*net, recompute, *overrides])
    model: RMAE = instantiate(cfg.model).to(device()).train()
    tune_for(model, torch.device(device()), args.precision)
    if args.compile:
        model.compile()
    return model


def loaded(args: argparse.Namespace) -> Iterator[Any]:
    """Batches from files, as in training."""
    regions = [f"dataloader.train.mapper.regions.path={args.regions}"] if args.regions else []
    overrides = [
        f"dataloader.train.dataset.root={args.data}",
        f"dataloader.train.total_batch_size={args.batch}",
        f"dataloader.train.num_workers={args.workers}",
        *regions,
    ]
    loader = instantiate(apply_overrides(get_config(CONFIG), overrides).dataloader.train)
    return iter(loader.start(0, torch.device("cuda", 0) if device() == "cuda" else None))


def gpu_bytes(step: Callable[[], None]) -> int:
    """The most that a step takes of a GPU's memory beyond what is held before it; 0 on a CPU."""
    if device() != "cuda":
        return 0
    step()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - before
