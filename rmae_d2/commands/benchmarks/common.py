"""What the benchmarks share: timing side by side, peak memory, the device, photographs."""

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
# Seconds of the wall, or of this process on its processors: for a machine that others keep busy.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def race(
    variants: Mapping[str, Callable[[], Any]],
    repeat: int,
    now: Callable[[], float] = CLOCKS["wall"],
) -> dict[str, float]:
    """Seconds of each variant: the minimum over rounds in which they take turns.

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
    """Calls a function of a module in a process of its own, so that nothing before it counts."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def peak_bytes(run: Callable[[], Any]) -> float:
    """The most memory that a call takes beyond what this process holds before it; NaN where not on Linux.

    ``resource.getrusage`` has no answer: its peak begins with the parent process's.
    """
    forget = Path("/proc/self/clear_refs")
    if not forget.exists():
        return float("nan")
    forget.write_text("5")  # the peak so far
    before = _memory_kb("VmRSS")
    run()
    return (_memory_kb("VmHWM") - before) * 1024


def _memory_kb(key: str) -> int:
    """A line of the process's memory, in KiB: VmRSS is held now, VmHWM the most ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def device() -> str:
    """Where networks run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> str:
    """The device in words."""
    if device() == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def synchronize() -> None:
    """Waits for the device."""
    if device() == "cuda":
        torch.cuda.synchronize()


def autocast(precision: str) -> torch.autocast:
    """For forward passes of fp32, bf16 or fp16."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device(), dtype, enabled=dtype is not None)


def photographs(args: argparse.Namespace, size: tuple[int, int]) -> list[Image.Image]:
    """Photographs of one (width, height), upright or turned, at most ``--max-images``."""
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
