"""Shared by the benchmarks: side-by-side timing, peak memory, the device, photographs."""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...data import images_from, read_image
from ...modeling import PRECISIONS

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "hubble_deep_field")
SCALES = (500, 1000, 1500)
# Wall-clock seconds, or CPU seconds of this process: for a machine kept busy by others.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def race(
    variants: Mapping[str, Callable[[], Any]],
    repeat: int,
    now: Callable[[], float] = CLOCKS["wall"],
) -> dict[str, float]:
    """Returns the seconds of each variant: the minimum over rounds in which they take turns.

    A first round warms up (compilers, page cache) and does not count.
    """
    best = dict.fromkeys(variants, float("inf"))
    for round_number in range(repeat + 1):
        for name, run in variants.items():
            start = now()
            run()
            if round_number:
                best[name] = min(best[name], now() - start)
    return best


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a module's function in a fresh process, so that nothing done before affects it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def peak_bytes(run: Callable[[], Any]) -> float:
    """Peak memory of a call beyond what this process held before it; NaN if not on Linux.

    ``resource.getrusage`` cannot tell: its peak starts from the parent process's.
    """
    forget = Path("/proc/self/clear_refs")
    if not forget.exists():
        return float("nan")
    forget.write_text("5")  # resets the peak
    before = _memory_kb("VmRSS")
    run()
    return (_memory_kb("VmHWM") - before) * 1024


def _memory_kb(key: str) -> int:
    """Reads a line of the process's memory, in KiB: VmRSS is the current value, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def device() -> str:
    """Device on which networks run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> str:
    """Describes the device in words."""
    if device() == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def synchronize() -> None:
    """Waits for the device."""
    if device() == "cuda":
        torch.cuda.synchronize()


def autocast(precision: str) -> torch.autocast:
    """Autocast for forward passes in fp32, bf16 or fp16."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device(), dtype, enabled=dtype is not None)


def photographs(args: argparse.Namespace, size: tuple[int, int]) -> list[Image.Image]:
    """Loads photographs of one (width, height), upright or rotated, at most ``--max-images``."""
    if args.images:
        files = [sample["file_name"] for sample in images_from(args.images)][: args.max_images]
    else:
        import skimage.data

        folder = Path(skimage.data.__file__).parent
        files = [path for name in PHOTOS for path in sorted(folder.glob(f"{name}.*"))]
    photos = [Image.fromarray(read_image(file)) for file in files]
    turned = [size if photo.width >= photo.height else size[::-1] for photo in photos]
    return [
        photo.resize(shape, Image.Resampling.LANCZOS)
        for photo, shape in zip(photos, turned, strict=True)
    ]
