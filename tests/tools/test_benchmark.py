"""tools/benchmark.py: that each command runs and that its measures measure."""

import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rmae_d2.config import get_config

TOOLS = Path(__file__).resolve().parents[2] / "tools"
MB = 2**20
needs_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are known on Linux only"
)


@pytest.fixture
def benchmarks(monkeypatch):
    """The package that the script imports."""
    monkeypatch.syspath_prepend(TOOLS)
    from benchmarks import common, vitdet

    return SimpleNamespace(common=common, vitdet=vitdet)


def run(cwd, *arguments):
    """What the script prints, run from elsewhere: lines, and the cells of its tables' rows."""
    done = subprocess.run(
        [sys.executable, str(TOOLS / "benchmark.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return lines, {cells[0]: cells[1:] for cells in rows}


def test_the_minimum_of_alternating_rounds_counts(benchmarks, monkeypatch):
    clock, calls = iter(range(1000)), []

    def take(name, times):
        calls.append(name)
        for _ in range(times.pop(0)):
            next(clock)

    monkeypatch.setitem(benchmarks.common.CLOCKS, "counted", lambda: next(clock))
    best = benchmarks.common.race(
        {"a": partial(take, "a", [0, 7, 5, 9]), "b": partial(take, "b", [0, 3, 4, 8])}, 3, "counted"
    )
    assert calls == ["a", "b"] * 4
    assert best == {"a": 6, "b": 4}  # the first round, the shortest, warms up


@needs_linux
def test_a_peak_is_the_calls_own(benchmarks):
    """Neither what this process nor its parent needed earlier counts; what a call frees again does."""

    peak_bytes, fresh = benchmarks.common.peak_bytes, benchmarks.common.in_fresh_process
    np.ones(200 * MB // 8)
    ones = partial(np.ones, 64 * MB // 8)
    for found in (peak_bytes(ones), fresh(peak_bytes, ones)):
        assert 60 * MB < found < 80 * MB


def test_variants_of_vitdet_are_the_recipes(benchmarks):
    args = SimpleNamespace(size="tiny", depth=None, image=1024)
    recipe = get_config("common/models/mask_rcnn_vitdet.py").model.backbone.net
    for name in benchmarks.vitdet.VARIANTS:
        net = benchmarks.vitdet.build(name, args)
        assert len(net.blocks) == recipe.depth
        windows = {i: block.window_size for i, block in enumerate(net.blocks) if block.window_size}
        assert windows == dict.fromkeys(recipe.window_block_indexes, recipe.window_size)
        assert net.blocks[2].attn.rel_pos_h.shape == (2 * recipe.img_size // 16 - 1, 64)


@pytest.mark.parametrize("command", ["step", "vitdet", "regions", "loader"])
def test_commands_are_explained(benchmarks, command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", command, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(TOOLS / "benchmark.py"), run_name="__main__")
    assert "--repeat" in capsys.readouterr().out


@pytest.mark.slow
def test_step(tmp_path):
    _, rows = run(tmp_path, "step", "--size", "tiny", "--batch", "1", "--repeat", "1")
    assert rows["MAE"][1] == "1.000"
    assert {"R-MAE, neck depth 1", "R-MAE, neck depth 8", "RAE, neck depth 1"} < rows.keys()


@pytest.mark.slow
@needs_linux
def test_vitdet(tmp_path):
    sizes = ["--size", "tiny", "--depth", "3", "--image", "512", "--repeat", "1"]
    lines, rows = run(tmp_path, "vitdet", *sizes, "--precision", "bf16", "--clock", "cpu")
    assert "the first 3 blocks, 512 pixels, batch 1, bf16" in lines[0]
    theirs, ours, checkpointed = (
        [float(cell) for cell in rows[name]]
        for name in ("Detectron2's ViT", "ours", "ours, use_act_checkpoint")
    )
    assert theirs[1] == theirs[3] == 1.0 and min(theirs + ours + checkpointed) > 0
    assert checkpointed[3] < ours[3] < 0.95


@pytest.mark.slow
def test_regions_and_loader(tmp_path):
    lines, rows = run(tmp_path, "regions", "--repeat", "1")
    assert rows["640x480, 1 scale"][-1] == "6 of 6" and "ImageNet-1k train" in rows
    assert lines[0].startswith("6 photographs")
    _, rows = run(tmp_path, "loader", "--repeat", "1", "--batch", "4", "--batches", "2")
    plain, ours = (int(cell.replace(",", "")) for cell in rows["500x375, 1 scale"][-2:])
    assert ours < plain / 5
