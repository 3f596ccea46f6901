"""rmae-d2 submit with submitit's local executor: real jobs, interrupted as Slurm interrupts them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import HUNG

pytest.importorskip("submitit", reason="needs submitit (pip install 'rmae_d2[slurm]')")


def submit(runs, out, *overrides, gpus=1):
    """The tool as a process, which ends at once; the job's id is that of its controller."""
    line = [sys.executable, "-m", "rmae_d2", "submit", "--cluster", "local", "--time", "10"]
    line += ["--gpus-per-node", str(gpus), *runs.command(out, *overrides)[2:]]
    # The job inherits standard output, so a pipe would stay open as long as it runs.
    with open(out.with_suffix(".txt"), "w+") as file:
        code = subprocess.call(
            line, cwd=out.parent, env=runs.env, stdout=file, stderr=file, timeout=HUNG
        )
        file.seek(0)
        output = file.read()
    assert code == 0, output
    match = re.search(r"^job (\d+), logging to (\S+) \(errors: (\S+)\)$", output, re.MULTILINE)
    assert match, output
    return int(match[1]), Path(match[2])


def tasks_of(controller):
    return [int(x) for x in os.popen(f"pgrep -P {controller}").read().split()]


def wait(condition, log):
    deadline = time.monotonic() + HUNG
    while not condition():
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 2])
def test_an_interrupted_job_is_requeued_and_finishes(runs, tmp_path, gpus):
    whole, out = tmp_path / "whole", tmp_path / "run"
    long = ("train.max_iter=60", "train.checkpointer.period=1000")
    runs.train(whole, *long)
    job, log = submit(runs, out, *long, gpus=gpus)
    metrics = out / "metrics.json"
    wait(lambda: metrics.exists() and '"iteration": 1,' in metrics.read_text(), log)
    for task in tasks_of(job):
        os.kill(task, signal.SIGUSR2)
    wait((out / "model_final.pth").exists, log)
    wait(lambda: not tasks_of(job), log)
    text = log.read_text()
    assert "stopped by SIGUSR2 after iteration" in text and "Requeued job" in text
    first = int(re.search(r"resumed at iteration (\d+) from", text)[1])
    assert 0 < first < 60
    if gpus == 2:
        assert "started by submitit on this machine: rank 0 of 2, 2 per machine" in text
    one, other = (torch.load(x / "model_final.pth", weights_only=True) for x in (whole, out))
    assert one["iteration"] == other["iteration"] == 59
    close = {"rtol": 0, "atol": 0} if gpus == 1 else {"rtol": 1e-4, "atol": 2e-6}
    for name, value in one["model"].items():
        if not (gpus == 2 and name.endswith("qkv.bias")):  # whose keys' part is rounding alone
            torch.testing.assert_close(value, other["model"][name], **close)


def test_what_would_fail_in_the_queue_fails_before(runs, tmp_path, cli):
    config = ["submit", "--config-file", runs.config]
    out = f"train.output_dir={tmp_path}"
    code, _, error = cli(*config, out, "train.max_itr=3")
    assert code == 1 and error.startswith("error: ") and "max_itr" in error
    _, _, error = cli(*config, "--slurm", "=x", out)
    assert error == "error: --slurm '=x': KEY=VALUE, or KEY for a switch\n"
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    assert "already holds a run: add --resume" in cli(*config, out)[2]


def test_without_slurm(runs, tmp_path, monkeypatch, cli):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, error = cli("submit", "--config-file", runs.config, f"train.output_dir={tmp_path}")
    assert code == 1 and re.match("error: .*srun.*submit from a machine that has Slurm", error)
