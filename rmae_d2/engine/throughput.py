"""Measure what a run computes and what its device can compute, and choose settings that narrow the gap."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from ..errors import UserError
from ..modeling import PRECISIONS, RMAE
from ..modeling.flops import count_flops

logger = logging.getLogger(__name__)

# Seconds a matrix product must take to be timed well, and the matrix side at which a GPU is at its best.
ENOUGH, LARGEST = 0.02, 8192


@dataclass(frozen=True)
class Peak:
    """A device's peak floating-point operations per second, and the source of the number."""

    flops: float
    source: str

    def __str__(self) -> str:
        return f"{self.flops / 1e12:.3g} TFLOP/s ({self.source})"


def device_peak(device: torch.device, precision: str, tflops: float = 0.0) -> Peak:
    """The reference for MFU.

    Args:
        precision: of the matrix products, ``fp32``, ``bf16`` or ``fp16``.
        tflops: a given number, e.g. from the data sheet; 0 to time matrix products here and now.

    Raises:
        UserError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise UserError(f"train.precision={precision!r}: one of {', '.join(PRECISIONS)}")
    if tflops > 0:
        return Peak(tflops * 1e12, "train.device_tflops")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    dtype = PRECISIONS[precision] or torch.float32
    return Peak(matmul_flops(device, dtype), f"{precision} matrix products on {name}, just timed")


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of large matrix products, the best of several.

    The size grows until a product takes long enough to be timed well: devices differ by five orders of
    magnitude.
    """
    best, side = 0.0, 256
    while True:
        seconds = min(_matmul_seconds(side, device, dtype) for _ in range(3))
        best = max(best, 2 * side**3 / seconds)
        if seconds > ENOUGH or side == LARGEST:
            return best
        side *= 2


def _matmul_seconds(side: int, device: torch.device, dtype: torch.dtype) -> float:
    # With its own generator, so that measuring does not affect the model's random numbers; and random,
    # because GPUs are faster on constants.
    generator = torch.Generator(device).manual_seed(0)
    a = torch.randn(side, side, device=device, generator=generator).to(dtype)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    a @ a
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def step_flops(model: nn.Module, samples: Iterable[dict[str, Any]]) -> float | None:
    """Operations of a training step per image: three times those of the forward pass, as MFU counts them.

    Counts matrix products, convolutions and attention, with a multiplication and an addition as two
    operations; a backward pass costs two forward passes; recomputation for activation checkpointing does not
    count. The forward pass is run once on the first two samples and leaves the model unchanged.

    Returns:
        None, with a warning, if the model's operations cannot be counted.
    """
    samples = list(islice(samples, 2))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with count_flops(model) as counter, EventStorage():
            model(samples)
    except Exception as error:  # a number in the log is not worth a run
        logger.warning("MFU is not reported, operations could not be counted: %s", error)
        return None
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return 3 * counter.get_total_flops() / len(samples)


def tune_for(model: nn.Module, device: torch.device, precision: str) -> None:
    """Choose the fastest settings for a device, where results agree up to rounding.

    In half precision on a CPU, the backward pass of fused attention is slower than plain matrix products.
    """
    if device.type != "cpu" or precision == "fp32":
        return
    for module in model.modules():
        if getattr(module, "fused_attn", False):
            module.fused_attn = False  # type: ignore[assignment]
    if not _cpu_has_half_precision():
        logger.warning(
            "train.precision=%s: this processor computes it slower than fp32; leave it for GPUs and machines "
            "with AVX512-BF16 or AMX",
            precision,
        )


def _cpu_has_half_precision() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    found = [getattr(torch.cpu, name) for name in checks if hasattr(torch.cpu, name)]
    return not found or any(check() for check in found)


def compile_model(model: nn.Module, by_block: bool) -> None:
    """``train.compile``: compile the model's kernels at its first step, which takes minutes.

    Args:
        by_block: compile each transformer block by itself rather than all of R-MAE's step at once; other
            models are always compiled by block, because shapes around their blocks vary with the images.

    Raises:
        UserError: the model has no transformer blocks.
    """
    if isinstance(model, RMAE) and not by_block:
        model.compile()
        return
    lists = [m for name, m in model.named_modules() if name.rpartition(".")[2] == "blocks"]
    blocks = [block for blocks in lists if isinstance(blocks, nn.ModuleList) for block in blocks]
    if not blocks:
        raise UserError(
            f"train.compile=true: this {type(model).__name__} has no transformer blocks to compile; leave it "
            "out"
        )
    for block in blocks:
        block.compile()
