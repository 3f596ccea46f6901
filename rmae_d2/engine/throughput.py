"""What a run computes, what its device could compute, and settings that make the one approach the other."""

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

# Seconds of a matrix product that are timed well, and the side of matrices with which a GPU is at its best.
ENOUGH, LARGEST = 0.02, 8192


@dataclass(frozen=True)
class Peak:
    """The most floating-point operations per second of a device, and where the number is from."""

    flops: float
    source: str

    def __str__(self) -> str:
        return f"{self.flops / 1e12:.3g} TFLOP/s ({self.source})"


def device_peak(device: torch.device, precision: str, tflops: float = 0.0) -> Peak:
    """What MFU is measured against.

    Args:
        precision: of the matrix products, ``fp32``, ``bf16`` or ``fp16``.
        tflops: somebody's number, the data sheet's say; 0 times matrix products here and now.

    Raises:
        UserError: for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"train.precision={precision!r}: one of {', '.join(PRECISIONS)}")
    if tflops > 0:
        return Peak(tflops * 1e12, "train.device_tflops")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    dtype = PRECISIONS[precision] or torch.float32
    return Peak(matmul_flops(device, dtype), f"{precision} matrix products on {name}, just timed")


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of large matrix products, the best of some.

    They grow until one takes long enough to be timed well, for devices differ by five orders of magnitude.
    """
    best, side = 0.0, 256
    while True:
        seconds = min(_matmul_seconds(side, device, dtype) for _ in range(3))
        best = max(best, 2 * side**3 / seconds)
        if seconds > ENOUGH or side == LARGEST:
            return best
        side *= 2


def _matmul_seconds(side: int, device: torch.device, dtype: torch.dtype) -> float:
    # Of a generator of its own, for the model's random numbers are not to know that something was measured;
    # and random, for GPUs are faster on constants.
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
    """Operations of a training step for one image: three times the forward pass's, as MFU counts them.

    Multiplications and additions of matrix products, convolutions and attention, as two operations together;
    a backward pass costs two forward ones; what activation checkpointing computes again does not count.
    The forward pass is made once on the first two samples and leaves the model as it was.

    Returns:
        None, with a warning, where the model cannot be counted.
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
    """Chooses what is fastest on a device, where results agree but for rounding.

    In half precision on a CPU the backward pass of fused attention is slower than plain matrix products.
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
    """``train.compile``: kernels made for the model at its first step, which takes minutes.

    Args:
        by_block: each transformer block by itself rather than all of R-MAE's step in one piece; other models
            are compiled by block in any case, for what is around their blocks changes shape with the images.

    Raises:
        UserError: for a model without transformer blocks.
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
