"""rmae-d2 sweep: real runs in processes of their own, as jobs and as tasks, stopped and resumed."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rmae_d2.events import read_run, split_starts
from rmae_d2.files import started
from tests.helpers import CONFIG, HUNG, assert_same_runs, logs, wait_for

SHORT = ["train.max_iter=3"]


def sweep(runs, out, *words, config=CONFIG):
    line = ["sweep", "--config-file", config, "--output", out, *runs.tiny]
    return [*line, *SHORT, *words]


def command(runs, out, *words, **more):
    return [sys.executable, "-m", "rmae_d2", *map(str, sweep(runs, out, *words, **more))]


def starts(folder):
    return len(split_starts(read_run(folder)[0]))


def points(out):
    """Of sweep.json, by the values of the swept keys."""
    found = json.loads((out / "sweep.json").read_text())["points"]
    return {tuple(point["values"].values()): point for point in found}


@pytest.mark.slow
def test_a_point_that_fails_is_named_and_stops_no_other(runs, cli, tmp_path):
    """Two stages, two runs side by side; then the cause is gone, and only what is left runs."""
    out, photos, later = tmp_path / "out", runs.photos, tmp_path / "later"
    words = [f"dataloader.train.dataset.root={photos},{later}", "train.eval_period=3", "--jobs", 2]
    words += ["--then", CONFIG]
    for text in [*runs.tiny, *SHORT, "train.eval_period=3"]:
        words += ["--then-set", text]
    code, printed, _ = cli(*sweep(runs, out, *words))
    assert code == 1
    assert f"{out}/sweep.md" in printed
    good, bad = points(out).values()
    assert good["n"] == 1 and 0 <= good["mean"] <= 1
    assert bad["n"] == 0 and "later" in bad["runs"][0]["cause"]
    assert bad["runs"][0]["cause"] in (out / "sweep.md").read_text()
    one = Path(good["runs"][0]["folder"])
    first = out / one.name.removesuffix("-then")
    (start,) = split_starts(read_run(one)[0])
    assert f"train.init_checkpoint={first / 'model_final.pth'}" in start[0]["arguments"]["opts"]
    assert (
        good["mean"]
        == json.loads((one / "metrics.json").read_text().splitlines()[-1])[
            "reconstruction/region_iou"
        ]
    )
    shutil.copytree(photos, later)
    code, printed, _ = cli(*sweep(runs, out, *words, "--metric", "loss_region"))
    assert code == 0 and printed.count(": finished\n") == 1
    assert starts(first) == starts(one) == 1
    good, other = points(out).values()
    assert good["n"] == other["n"] == 1
    # The photos are the same, and so is training.
    assert good["mean"] == other["mean"] == other["runs"][0]["last"]["loss_region"]


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(runs, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    words = ["model.mask_ratio=0.5,0.75", "train.max_iter=40", "train.checkpointer.period=1000"]
    line = command(runs, out, *words)
    runs.train(whole, *SHORT, words[1], words[2], "model.mask_ratio=0.5", "train.seed=0")
    running = out / "mask_ratio_0.5-seed0"
    process = runs.start(line)
    code, output = runs.signal_when(process, logs(running, 3), signal.SIGINT, group=True)
    assert code == 130 and "the same command goes on from here" in output
    assert not (out / "mask_ratio_0.75-seed0").exists() and not (out / "sweep.md").exists()
    code, output = runs.run(line)
    assert code == 0, output
    assert f"{running}  to go on\n" in output and starts(running) == 2
    assert_same_runs(whole, running)
    code, output = runs.run(line)
    assert code == 0 and starts(running) == 2 and "finished\n" in output
    assert "running, see" not in output


@pytest.mark.slow
def test_a_killed_run_is_named(runs, tmp_path):
    out = tmp_path / "out"
    process = runs.start(command(runs, out, "train.max_iter=100000"))
    folder = out / "seed0"

    def kill():
        if logs(folder, 2)():
            os.kill(json.loads((folder / "run.lock").read_text())["process"], signal.SIGKILL)
            return True

    while process.poll() is None and not kill():
        pass
    output, _ = process.communicate(timeout=HUNG)
    assert process.returncode == 1 and "seed 0: killed by SIGKILL" in output


@pytest.mark.slow
def test_printed_commands_make_the_runs(runs, cli, tmp_path):
    out = tmp_path / "a b"
    words = ["model.region_criterion=bce,l2", "--seeds", "1"]
    code, printed, error = cli(*sweep(runs, out, *words, "--print"))
    assert (code, error) == (0, "") and not out.exists()
    lines = printed.splitlines()
    assert len(lines) == 2 and all(
        line.startswith("rmae-d2 train --config-file ") for line in lines
    )
    (tmp_path / "rmae-d2").write_text(f'#!/bin/sh\nexec {sys.executable} -m rmae_d2 "$@"\n')
    (tmp_path / "rmae-d2").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    xargs = subprocess.run(
        ["xargs", "-d", "\\n", "-n", "1", "sh", "-c"],
        input=printed,
        env={**runs.env, "PATH": path},
        text=True,
        capture_output=True,
    )
    assert xargs.returncode == 0, xargs.stdout + xargs.stderr
    code, printed, _ = cli(*sweep(runs, out, *words))
    assert code == 0 and "running, see" not in printed
    assert [point["n"] for point in points(out).values()] == [1, 1]
    assert cli(*sweep(runs, out, *words, "--print")) == (0, "", "")


def test_what_is_there_is_gathered(runs, cli, tmp_path):
    """Nothing runs; a metric that no run has loses nothing."""
    out = tmp_path / "out"
    runs.train(out / "seed0", *SHORT, "train.seed=0")
    code, printed, _ = cli(*sweep(runs, out))
    assert code == 0 and f"{out}/seed0  finished\n" in printed
    table = re.search(r"\|\s+total_loss \|\s+n \|\n\S+\n\|\s+([\d.]+) \|\s+1 \|", printed)
    (point,) = points(out).values()
    last = json.loads((out / "seed0/metrics.json").read_text().splitlines()[-1])
    assert point["mean"] == last["total_loss"] and table[1] == f"{point['mean']:.4g}"
    code, _, error = cli(*sweep(runs, out, "--metric", "bbox/AP"))
    assert code == 1 and "bbox/AP: no run has it, but " in error and "loss_pixel" in error


def test_refused_before_the_first_run(runs, cli, tmp_path):
    code, printed, error = cli(*sweep(runs, tmp_path / "out", "model.mask_ratio=0.5,1.5,2.5"))
    assert (code, printed) == (1, "") and not (tmp_path / "out").exists()
    assert error.startswith("error: ") and "1.5" in error and "2.5" in error


# ---- Slurm


@pytest.mark.slow
def test_jobs_on_this_machine(runs, tmp_path):
    pytest.importorskip("submitit")
    out = tmp_path / "out"
    words = ["model.mask_ratio=0.5,0.75", "--cluster", "local", "--time", "10", "--then", CONFIG]
    for text in [*runs.tiny, *SHORT]:
        words += ["--then-set", text]
    with open(tmp_path / "screen.txt", "w") as file:  # which the jobs inherit
        code = subprocess.call(
            command(runs, out, *words), cwd=tmp_path, env=runs.env, stdout=file, stderr=file
        )
    text = (tmp_path / "screen.txt").read_text()
    assert code == 0, text
    assert len(re.findall(r"^job \d+, logging to ", text, re.MULTILINE)) == 4
    assert [point["n"] for point in points(out).values()] == [1, 1]


#: Slurm's commands as far as submitting needs them; what is submitted stays in the queue.
SBATCH = """#!/bin/sh
number=$(($(ls {0}/*.sbatch 2>/dev/null | wc -l) + 101))
for script; do :; done
cp "$script" {0}/$number.sbatch
echo $number >> {0}/queue
echo "Submitted batch job $number"
"""


def test_a_second_stage_waits_in_slurms_queue(runs, cli, tmp_path, monkeypatch):
    """Through sbatch and squeue of our own, for the script that Slurm gets."""
    pytest.importorskip("submitit")
    for name, text in {
        "sbatch": SBATCH.format(tmp_path),
        "squeue": f"#!/bin/sh\ncat {tmp_path}/queue 2>/dev/null\n",
        "srun": "",
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    out = tmp_path / "out"
    words = ["model.mask_ratio=0.5,0.75", "--cluster", "slurm", "--num-gpus", "4"]
    words += ["--partition", "gpu", "--slurm", "account=vision", "--then", CONFIG]
    code, printed, error = cli(*sweep(runs, out, *words))
    assert code == 0, error
    scripts = {p.stem: p.read_text() for p in sorted(tmp_path.glob("*.sbatch"))}
    assert list(scripts) == ["101", "102", "103", "104"]
    for number, text in scripts.items():
        waits = number in ("102", "104")
        assert ("#SBATCH --kill-on-invalid-dep=yes" in text) is waits
        assert (f"#SBATCH --dependency=afterok:{int(number) - 1}" in text) is waits
        assert "#SBATCH --gpus-per-node=4" in text and "#SBATCH --account=vision" in text
    assert "seed 0: in the queue as job 102" in printed and "in the queue as job 104" in printed
    # What is in the queue is not submitted again; what is no more there, is.
    (tmp_path / "queue").write_text("101\n102\n104\n")
    code, printed, _ = cli(*sweep(runs, out, *words))
    assert code == 0 and "logging to" in printed
    assert [p.stem for p in sorted(tmp_path.glob("*.sbatch"))] == [*scripts, "105"]
    assert "--dependency" not in (tmp_path / "105.sbatch").read_text()


# ---- Ray


@pytest.fixture
def ray_folder():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray")
    # Ray's sockets lie in its folder, and their paths must stay below 108 characters.
    folder = tempfile.mkdtemp(prefix="rmae-ray-")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_tasks_of_ray(runs, tmp_path, ray_folder):
    out = tmp_path / "out"
    words = [f"dataloader.train.dataset.root={runs.photos},/nowhere", "--cluster", "ray"]
    words += ["--ray-address", "local", "--jobs", "2"]
    code, output = runs.run(command(runs, out, *words), RAY_TMPDIR=ray_folder)
    assert code == 1, output
    good, bad = points(out).values()
    assert good["n"] == 1 and "/nowhere" in bad["runs"][0]["cause"]


@pytest.mark.slow
def test_sigterm_ends_tasks_of_ray_and_their_processes(runs, tmp_path, ray_folder):
    out = tmp_path / "out"
    words = ["train.max_iter=100000", "--cluster", "ray", "--ray-address", "local", "--jobs", "1"]
    process = runs.start(command(runs, out, *words), RAY_TMPDIR=ray_folder)
    code, output = runs.signal_when(process, logs(out / "seed0", 2), signal.SIGTERM)
    assert code == 130 and "the same command goes on from here" in output
    lock = out / "seed0/run.lock"
    trainer = json.loads(lock.read_text())["process"] if lock.exists() else None
    wait_for(lambda: trainer is None or started(trainer) is None)
