"""Runs of two real processes that lose one, or in which one fails: both end, and say why."""

import os
import re
import signal
import sys
import time

import pytest

# What the ranks do, by the name of a scenario. A hang in NCCL is one that no signal and no closed connection
# ends: here, sleeping.
DRIVER = """
import argparse, ctypes, logging, os, signal, sys, time
import torch
import torch.distributed as dist
from detectron2.utils import comm
from rmae_d2.engine.launch import launch_training

def work(args):
    scenario, folder = sys.argv[1:3]
    rank = comm.get_rank()
    logging.getLogger("rmae_d2").addHandler(logging.FileHandler(f"{folder}/log{rank}"))
    with open(f"{folder}/new{rank}", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{folder}/new{rank}", f"{folder}/pid{rank}")
    if scenario == "wrong" and rank == 1:
        raise UserError("the label 200 is too many")
    if scenario == "bug" and rank == 1:
        raise LookupError("a bug of rank 1")
    if scenario == "hang" and rank == 0:
        signal.signal(signal.SIGTERM, lambda *_: None)
        while True:
            time.sleep(1)
    if scenario == "slow":
        if rank == 1:
            ctypes.PyDLL(None).sleep(30)  # holds the interpreter's lock all the while
        return
    while True:
        dist.all_reduce(torch.ones(1))
        time.sleep(0.01)

if __name__ == "__main__":
    flags = dict(num_gpus=1 if "RANK" in os.environ else 2, num_machines=1, machine_rank=0)
    launch_training(work, argparse.Namespace(**flags, dist_url="auto", opts=[]))
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture
def start(runs, tmp_path):
    """Starts a scenario, and waits until both ranks are at work: the process, and theirs."""

    def started(scenario, *launcher):
        driver = tmp_path / "driver.py"
        driver.write_text(DRIVER)
        process = runs.start(
            [*(launcher or [sys.executable]), str(driver), scenario, str(tmp_path)]
        )
        deadline = time.monotonic() + 120
        files = [tmp_path / f"pid{rank}" for rank in (0, 1)]
        while not all(file.exists() for file in files):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the ranks did not begin"
            time.sleep(0.05)
        return process, [int(file.read_text()) for file in files]

    return started


def end(process, seconds=60):
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


def errors(output):
    return [line for line in output.splitlines() if line.startswith("error: ")]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("scenario", ["collective", pytest.param("hang", marks=pytest.mark.slow)])
def test_a_killed_rank_ends_the_other(start, tmp_path, scenario):
    process, pids = start(scenario)
    os.kill(pids[1], signal.SIGKILL)
    code, output = end(process)
    assert code == 1 and all(gone(pid) for pid in pids)
    (line,) = errors(output)
    assert re.match(r"error: rank 1 \(.+\) was lost: its process is gone", line), output
    log = (tmp_path / "log0").read_text()
    assert "rank 1 (" in log and "this rank stops, continue with --resume" in log


@pytest.mark.slow
def test_the_rank_that_keeps_the_store_is_killed(start, tmp_path):
    process, pids = start("collective")
    os.kill(pids[0], signal.SIGKILL)
    code, output = end(process)
    assert code == 1 and all(gone(pid) for pid in pids)
    (line,) = errors(output)
    assert re.match(r"error: rank 0 \(.+\) was lost: rank 0, to be found at ", line), output
    assert "rank 0 (" in (tmp_path / "log1").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), "torchrun"])
def test_an_error_of_one_rank_is_shown_once_and_logged_by_both(runs, tmp_path, launcher):
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [*TORCHRUN, "--standalone", "--nproc-per-node", "2"] if launcher else [sys.executable]
    code, output = runs.run([*command, str(tmp_path / "driver.py"), "wrong", str(tmp_path)])
    assert code == 1, output
    assert errors(output) == ["error: the label 200 is too many"]
    assert "in work\n" not in output  # no traceback of ours
    for rank in (0, 1):
        assert "rank 1 (" in (tmp_path / f"log{rank}").read_text()


@pytest.mark.slow
def test_a_bug_of_one_rank_is_shown_with_its_traceback(runs, tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    code, output = runs.run([sys.executable, str(tmp_path / "driver.py"), "bug", str(tmp_path)])
    assert code == 1
    assert errors(output) == ["error: LookupError: a bug of rank 1"]
    assert output.count("in work\n") == 1
    assert output.rstrip().endswith("error: LookupError: a bug of rank 1")


@pytest.mark.slow
def test_a_machine_that_falls_silent(start):
    process, pids = start("hang")
    guardians = [int(line) for line in os.popen(f"pgrep -P {pids[1]}")]
    assert len(guardians) == 1
    try:
        for pid in (*guardians, pids[1]):
            os.kill(pid, signal.SIGSTOP)
        # The launcher waits for rank 1, which is stopped here and would be out of reach in earnest.
        deadline = time.monotonic() + 60
        while not gone(pids[0]) and "Z" not in os.popen(f"ps -o stat= -p {pids[0]}").read():
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        for pid in (*guardians, pids[1]):
            os.kill(pid, signal.SIGKILL)
    code, output = end(process)
    assert code == 1 and re.search(r"error: rank 1 \(.+\) was lost: no sign of life", output), (
        output
    )


@pytest.mark.slow
def test_slowness_and_early_ends_are_no_alarm(start):
    process, pids = start("slow")
    code, output = end(process, 120)
    assert code == 0 and "error" not in output.lower(), output
    assert all(gone(pid) for pid in pids)
