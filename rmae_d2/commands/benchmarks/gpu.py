"""Everything to run on a GPU, in one go: the tests that need one, then a table, row by row."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from ...engine.run_events import versions
from ...errors import UserError
from ...files import atomic_file, make_folder
from ...tables import table
from .gpu_plan import SKIPPED, Row, plan

TESTS = Path(__file__).parents[3] / "tests"
#: How much longer a row may take in a rehearsal.
PATIENCE = 10


def run(args: argparse.Namespace) -> None:
    """Runs tests and rows missing from the folder until time is up; then writes table and chart."""
    if not torch.cuda.is_available() and not args.toy:
        raise UserError(
            "no GPU that torch can use; --toy rehearses all of it on a CPU, at toy sizes"
        )
    folder = Path(args.output)
    make_folder(folder)
    file = folder / "gpu.json"
    found = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    found |= facts(args.toy)
    patience = PATIENCE if args.toy else 1  # of the whole as of each row: none would fit otherwise
    end = time.monotonic() + 60 * args.minutes * patience
    rows = [r for r in plan() if not args.rows or any(word in r.name for word in args.rows)]
    if "tests" not in found and not args.rows and not args.toy:
        found["tests"] = run_tests(end - time.monotonic())
        write(found, folder)
    waiting = 0
    for number, row in enumerate(rows, 1):
        if row.name in found["rows"]:
            continue
        limit = row.limit * patience
        if end - time.monotonic() < limit:  # cut short, it would be meaningless
            waiting += 1
            continue
        print(f"[{number} of {len(rows)}] {row.name}", flush=True)
        found["rows"][row.name] = measure(row, limit, args.toy)
        write(found, folder)
    if waiting:
        print(f"left for the next run: {waiting} of {len(rows)} rows; the same command continues")
    write(found, folder)
    draw(found["rows"], folder / "gpu.png")
    print((folder / "gpu.md").read_text())


def measure(row: Row, limit: float, toy: bool) -> dict[str, Any]:
    """Measures a row in its own process: returns ``lines``, or why it was ``skipped``."""
    given = json.dumps({"kind": row.kind, **(row.toy if toy else row.options)})
    command = [sys.executable, "-m", f"{__package__}.gpu_rows", given]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if toy else {}
    try:
        done = subprocess.run(
            command, env={**os.environ, **hidden}, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"skipped": f"took more than {limit:.0f} s"}
    if done.returncode == 0:
        return {"lines": json.loads(done.stdout.splitlines()[-1])}
    said = (done.stdout if done.returncode == SKIPPED else done.stderr).strip().splitlines()
    return {"skipped": said[-1] if said else f"exit code {done.returncode}"}


def run_tests(limit: float) -> str:
    """Runs the tests marked ``gpu`` if this is a checkout; returns pytest's last line."""
    if not TESTS.is_dir():
        return "not run: no tests come with the wheel"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-x", str(TESTS)]
    try:
        done = subprocess.run(
            command, cwd=TESTS.parent, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return f"not through in {limit:.0f} s"
    return (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]


def facts(toy: bool) -> dict[str, Any]:
    """Returns the facts on which the numbers depend."""
    if toy:
        on: dict[str, Any] = {
            "device": f"REHEARSAL ON A CPU, {platform.processor() or platform.machine()}"
        }
    else:
        on = {
            "device": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return {**on, "when": date.today().isoformat(), "versions": versions() | dict(_optional())}


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def _optional() -> Iterator[tuple[str, str]]:
    """Yields packages that single rows need besides those in every run's `versions`."""
    for name in ("onnxruntime", "transformers"):
        with suppress(PackageNotFoundError):
            yield name, version(name)


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Writes gpu.json, and gpu.md derived from it."""
    with atomic_file(folder / "gpu.json") as file:
        file.write(json.dumps(found, indent=1).encode())
    with atomic_file(folder / "gpu.md") as file:
        file.write(page(found).encode())


def page(found: Mapping[str, Any]) -> str:
    """Formats the device, the test results, a table of the measurements, and what was not measured."""
    about = [found["device"], *(f"{k} {found[k]}" for k in ("cuda", "driver") if k in found)]
    about += [f"{name} {number}" for name, number in found["versions"].items()]
    parts = [f"{', '.join(about)}; {found['when']}"]
    if "tests" in found:
        parts.append(f"Tests marked `gpu`: {found['tests']}")
    cells, skipped = [], []
    for name, row in found["rows"].items():
        if "skipped" in row:
            skipped.append(f"- {name}: {row['skipped']}")
        for line in row.get("lines", ()):
            rate, seconds = (f"{line[key]:.4g}" for key in ("images_per_second", "seconds"))
            mfu, mib = line.get("mfu"), line.get("mib")
            known = [None if mfu is None else f"{mfu:.1%}", None if mib is None else f"{mib:.0f}"]
            cells.append([name, line["variant"], rate, seconds, line.get("ratio"), *known])
    headers = ["", "variant", "images/s", "s", "time / first", "MFU", "MiB of a step"]
    parts.append(table(headers, cells, left=(0, 1)))
    if skipped:
        parts += ["Not measured:", "\n".join(skipped)]
    return "\n\n".join(parts) + "\n"


def draw(rows: Mapping[str, Any], path: Path) -> None:
    """Draws images per second of every line, on a logarithmic scale."""
    bars = [
        (f"{name}: {line['variant']}", line["images_per_second"])
        for name, row in rows.items()
        for line in row.get("lines", ())
    ]
    if not bars:
        return
    figure, axes = plt.subplots(figsize=(11, 1 + 0.26 * len(bars)), layout="constrained")
    names, values = zip(*bars, strict=True)
    bars_drawn = axes.barh(names, values, color="#3b6fb6")
    axes.bar_label(bars_drawn, fmt="%.4g", padding=3, fontsize=7)
    axes.set(xscale="log", xlabel="images per second", xlim=(min(values) / 2, max(values) * 3))
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.tick_params(labelsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)
