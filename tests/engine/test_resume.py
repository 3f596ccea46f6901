"""Runs that are killed or stopped continue bit for bit."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from rmae_d2.engine.checkpointer import holds_run
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.events import read_events
from tests.helpers import events, logs, wait_for

MUON = "optimizer._target_=rmae_d2.solver.scaled_muon"
FULL = ("train.ema.decay=0.9", "train.clip_grad=0.2", "dataloader.train.num_workers=2", MUON)

# Runs the tool, but dies at the moment a file would get its final name for the nth time.
DIE_AT_RENAME = """
import os, runpy, signal, sys
from pathlib import Path

tool, victim, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.argv = sys.argv[3:]
sys.argv[0] = tool
real = os.replace

def replace(source, target):
    global times
    times -= Path(target).name == victim
    if times == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)

os.replace = replace
runpy.run_path(tool, run_name="__main__")
"""


@pytest.fixture(scope="module")
def reference(runs, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("reference") / "run"
    runs.train(out)
    return out


@pytest.fixture(scope="module")
def full_reference(runs, tmp_path_factory):
    """The same with average, clipping, workers and Muon."""
    out = tmp_path_factory.mktemp("reference") / "full"
    runs.train(out, *FULL)
    return out


def resumed(out):
    """Where the run was taken up: iteration and checkpoint of each time."""
    return [(e["iteration"], e["file"]) for e in events(out, "resume")]


def test_a_second_run_is_the_same(runs, reference, tmp_path, assert_same_runs):
    runs.train(tmp_path / "run")
    assert_same_runs(reference, tmp_path / "run")


@pytest.mark.slow
def test_killed_as_soon_as_a_checkpoint_exists(runs, reference, tmp_path, assert_same_runs):
    out = tmp_path / "run"
    first = out / "model_0000005.pth"
    code, _ = runs.signal_when(runs.start(runs.command(out)), first.exists, signal.SIGKILL)
    assert code == -signal.SIGKILL and not (out / "model_final.pth").exists()
    code, output = runs.run(runs.command(out, flags=["--resume"]))
    assert code == 0, output
    assert resumed(out) == [(6, first.name)]
    assert_same_runs(reference, out, lost=[5])


@pytest.mark.slow
def test_killed_some_steps_after_a_checkpoint(runs, full_reference, tmp_path, assert_same_runs):
    out = tmp_path / "run"
    code, _ = runs.signal_when(runs.start(runs.command(out, *FULL)), logs(out, 9), signal.SIGKILL)
    assert code == -signal.SIGKILL and not (out / "model_final.pth").exists()
    runs.train(out, *FULL, resume=True)
    assert resumed(out) in ([(6, "model_0000005.pth")], [(12, "model_0000011.pth")])
    assert_same_runs(full_reference, out, lost=[11])


def die_at_rename(runs, command, folder, victim, times):
    driver = folder / "driver.py"
    driver.write_text(DIE_AT_RENAME)
    _, tool, *arguments = command
    code, output = runs.run([sys.executable, str(driver), tool, victim, str(times), *arguments])
    assert code == -signal.SIGKILL, output


@pytest.mark.parametrize(
    "victim, times, start",
    [
        pytest.param("model_0000011.pth", 1, 6, marks=pytest.mark.slow),
        ("last_checkpoint", 2, 6),
    ],
)
def test_killed_while_saving(runs, reference, tmp_path, assert_same_runs, victim, times, start):
    out = tmp_path / "run"
    die_at_rename(runs, runs.command(out), tmp_path, victim, times)
    assert len(list(out.glob(f"{victim}.*.tmp"))) == 1
    runs.train(out, resume=True)
    assert [iteration for iteration, _ in resumed(out)] == [start]
    assert not list(out.glob("*.tmp*"))
    assert_same_runs(reference, out, lost=[11])


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_signals_save_and_end_cleanly(runs, reference, tmp_path, assert_same_runs, number):
    out = tmp_path / "run"
    code, output = runs.signal_when(runs.start(runs.command(out)), logs(out, 1), number)
    assert code == 0, output
    assert f"stopped by {number.name} after iteration" in output and "--resume" in output
    assert "Traceback" not in output
    assert not (out / "model_final.pth").exists()
    runs.train(out, resume=True)
    assert_same_runs(reference, out)


def test_ctrl_c_of_a_terminal(runs, full_reference, tmp_path, assert_same_runs):
    """It goes to the loader's workers too; while the run lasts, no other begins in its folder."""
    out = tmp_path / "run"
    process = runs.start(runs.command(out, *FULL))
    wait_for(logs(out, 1))
    before = snapshot(out)
    process.send_signal(signal.SIGSTOP)
    for resume in (False, True):
        with pytest.raises(UserError, match=rf"{out}: a training is under way.* {process.pid} on "):
            runs.train(out, *FULL, resume=resume)
    assert before.keys() <= snapshot(out).keys()
    assert [e["event"] for e in read_events(out / "run.jsonl")[0]].count("start") == 1
    os.killpg(process.pid, signal.SIGINT)  # waits until the process goes on
    code, output = runs.signal_when(process, lambda: True, signal.SIGCONT, group=True)
    assert code == 0, output
    assert "ctrl-C again ends at once" in output and "Traceback" not in output
    assert re.search(r"stopped by SIGINT after iteration \d+; continue with --resume", output)
    assert not (out / "model_final.pth").exists() and not (out / "run.lock").exists()
    assert events(out, "end")[0]["text"].startswith("stopped by SIGINT after iteration")
    runs.train(out, *FULL, resume=True)
    assert_same_runs(full_reference, out)


def catches(pid, number):
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> number - 1 & 1)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(runs, tmp_path):
    out = tmp_path / "run"
    slow = ("train.max_iter=9", "train.grad_accum=400", "dataloader.train.total_batch_size=800")
    process = runs.start(runs.command(out, *slow, "train.checkpointer.period=0"))
    wait_for(lambda: events(out, "setup"))
    wait_for(lambda: catches(process.pid, signal.SIGUSR1))  # as it does from the first step on
    time.sleep(0.2)  # SIGINT is caught in the same line of code
    os.killpg(process.pid, signal.SIGINT)
    assert "ctrl-C again" in next(line for line in process.stdout if "ctrl-C" in line)
    code, _ = runs.signal_when(process, lambda: True, signal.SIGINT, group=True)
    assert code == -signal.SIGINT and not holds_run(out)
    runs.train(out, "train.max_iter=2")  # the lock of a process that is gone holds nobody up
    assert holds_run(out) and not (out / "run.lock").exists()


def test_killed_between_the_last_step_and_its_evaluation(runs, tmp_path):
    """--resume has no step left, but evaluates; once."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    plan = ["train.max_iter=4", "train.eval_period=2", "train.checkpointer.period=0"]
    expected = runs.train(whole, *plan)
    die_at_rename(runs, runs.command(out, *plan), tmp_path, "last_checkpoint", 1)
    assert (out / "model_final.pth").exists() and len(events(out, "evaluation")) == 1
    assert runs.train(out, *plan, resume=True) == expected
    results = [
        {e["iteration"]: e["results"] for e in events(x, "evaluation")} for x in (whole, out)
    ]
    assert results[0] == results[1] and len(results[1]) == 2
    lines = [(x / "metrics.json").read_text().splitlines()[-1] for x in (whole, out)]
    last = [{k: v for k, v in json.loads(x).items() if k in results[0][4]} for x in lines]
    assert last[0] == last[1] == pytest.approx(results[0][4])
    assert runs.train(out, *plan, resume=True) == {}
    assert len(events(out, "evaluation")) == 2


def test_max_to_keep_holds_across_resumes(runs, tmp_path):
    keep = "train.checkpointer.max_to_keep=2"
    short = ["train.checkpointer.period=2", keep]
    out = tmp_path / "run"

    def numbered():
        return sorted(p.name for p in out.glob("model_0*.pth"))

    runs.train(out, *short, "train.max_iter=7")
    assert numbered() == ["model_0000003.pth", "model_0000005.pth"]
    runs.train(out, *short, "train.max_iter=11", resume=True)
    assert numbered() == ["model_0000007.pth", "model_0000009.pth"]
    assert resumed(out)[-1][0] == 7
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    # The prolonged run's model_final is older than the checkpoints of the prolongation.
    runs.train(out, *short, "train.max_iter=13", resume=True)
    (out / "model_final.pth").write_bytes(b"")
    (out / "last_checkpoint").unlink()
    runs.train(out, *short, "train.max_iter=14", resume=True)
    assert resumed(out)[-1][0] == 12


def test_pruning_leaves_later_checkpoints_alone(runs, tmp_path):
    """Set back to an earlier one, a run must not delete what it has just saved."""
    out = tmp_path / "run"
    short = ["train.checkpointer.period=3", "train.max_iter=10"]
    runs.train(out, *short, "train.checkpointer.max_to_keep=0")
    (out / "last_checkpoint").write_text("model_0000002.pth")
    runs.train(
        out,
        "train.max_iter=5",
        "train.checkpointer.period=1",
        "train.checkpointer.max_to_keep=1",
        resume=True,
    )
    names = sorted(p.name for p in out.glob("model_0*.pth"))
    assert names == ["model_0000003.pth", "model_0000005.pth", "model_0000008.pth"]


def test_a_truncated_checkpoint_is_passed_over(runs, tmp_path, assert_same_runs):
    whole, out = tmp_path / "whole", tmp_path / "run"
    short = ["train.max_iter=9", "train.checkpointer.period=3"]
    runs.train(whole, *short)
    runs.train(out, *short)
    for name in ("model_final.pth", "model_0000008.pth"):
        path = out / name
        path.exists() and path.write_bytes(path.read_bytes()[:5000])
    runs.train(out, *short, resume=True)
    texts = [e["text"] for e in events(out, "error")]
    assert any("model_final.pth" in x and "trying an earlier checkpoint" in x for x in texts)
    assert resumed(out) == [(6, "model_0000005.pth")]
    assert_same_runs(whole, out)


def test_all_checkpoints_truncated(runs, tmp_path):
    out = tmp_path / "run"
    short = ["train.max_iter=4", "train.checkpointer.period=2"]
    runs.train(out, *short)
    for path in out.glob("model_*.pth"):
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="none of 2 checkpoints is readable.*output_dir"):
        runs.train(out, *short, resume=True)


def snapshot(out):
    return {p.name: p.read_bytes() for p in out.iterdir() if p.name not in ("log.txt", "run.jsonl")}


@pytest.mark.parametrize(
    "change, remedy",
    [
        ("model.backbone.net.embed_dim=48", "train.init_checkpoint="),
        ("train.ema.decay=0.9", "lacks ema.*train.ema.decay"),
    ],
)
def test_another_configuration_is_refused(runs, tmp_path, change, remedy):
    out = tmp_path / "run"
    runs.train(out, "train.max_iter=3")
    before = snapshot(out)
    with pytest.raises(CheckpointError, match=f"(?s)model_final.pth.*{remedy}"):
        runs.train(out, "train.max_iter=5", change, resume=True)
    assert snapshot(out) == before


def test_a_run_is_not_overwritten(runs, tmp_path):
    out = tmp_path / "run"
    runs.train(out, "train.max_iter=3")
    before = snapshot(out)
    with pytest.raises(UserError, match="already holds a run: add --resume"):
        runs.train(out, "train.max_iter=3")
    assert snapshot(out) == before


def test_resume_of_nothing_begins(runs, tmp_path):
    runs.train(tmp_path / "run", "train.max_iter=2", resume=True)
    assert any("no checkpoint in" in e["text"] for e in events(tmp_path / "run", "warning"))
    assert (tmp_path / "run/model_final.pth").exists()


def test_resume_of_a_finished_run_changes_no_weights(runs, tmp_path, assert_same):
    out = tmp_path / "run"
    runs.train(out, "train.max_iter=3")
    before = torch.load(out / "model_final.pth", weights_only=True)
    runs.train(out, "train.max_iter=3", resume=True)
    assert_same(before, torch.load(out / "model_final.pth", weights_only=True))


def test_hyper_parameters_are_the_configurations_after_a_resume(runs, tmp_path, metrics):
    out = tmp_path / "run"
    runs.train(out, "train.max_iter=3")
    runs.train(out, "train.max_iter=6", "optimizer.base_lr=0.016", resume=True)
    state = torch.load(out / "model_final.pth", weights_only=True)
    lr = metrics(out)[5]["lr"]
    assert {group["lr"] for group in state["trainer"]["optimizer"]["param_groups"]} == {lr}
    assert 0 < lr < 0.016 * 4 / 256
