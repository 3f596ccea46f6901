"""What runs of a sweep side by side get of a machine; the rest is in tests/commands/test_sweep.py."""

from pathlib import Path

import pytest

from rmae_d2.engine import sweep_jobs
from rmae_d2.engine.sweep import Run, Stage
from rmae_d2.errors import UserError

ANY = [Run({}, 0, (Stage("x.py", (), Path("run")),))]
CPU = [Run({}, 0, (Stage("x.py", ("train.device=cpu",), Path("run")),))]


def places(monkeypatch, gpus, jobs, num_gpus, runs=ANY):
    monkeypatch.setattr(sweep_jobs, "visible_gpus", lambda: gpus)
    return sweep_jobs._places(runs, jobs, num_gpus)


def test_gpus_are_divided(monkeypatch):
    assert places(monkeypatch, ["0", "1"], 1, 2) == [{}]
    assert places(monkeypatch, ["3", "5"], 2, 1) == [
        {"CUDA_VISIBLE_DEVICES": "3"},
        {"CUDA_VISIBLE_DEVICES": "5"},
    ]
    pairs = places(monkeypatch, list("01234"), 2, 2)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in pairs] == ["0,1", "2,3"]
    with pytest.raises(UserError, match="GPUs are 3: at most --jobs 1"):
        places(monkeypatch, list("012"), 2, 2)


def test_cores_are_divided(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sweep_jobs.Engine, "num_workers", lambda self: 8)
    assert places(monkeypatch, ["0"], 3, 1, CPU) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert places(monkeypatch, [], 16, 1) == [{"OMP_NUM_THREADS": "1"}] * 16
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert places(monkeypatch, [], 2, 1) == [{"OMP_NUM_THREADS": "5"}] * 2
