"""Runs of two real processes of which one fails, is killed or hangs: both end, and say why."""

import os
import re
import signal
import socket
import sys
import time
from contextlib import suppress

import pytest

from tests.helpers import HUNG

# What the ranks do, by the name of a scenario. A hang in NCCL is one that no signal and no closed connection
# ends: here, sleeping.
DRIVER = """
import argparse, ctypes, logging, os, signal, sys, time
import torch
import torch.distributed as dist
from detectron2.utils import comm
from rmae_d2.errors import UserError
from rmae_d2.engine.launch import launch_training

def work(args):
    scenario, folder = sys.argv[1:3]
    rank = comm.get_rank()
    logging.getLogger("rmae_d2").addHandler(logging.FileHandler(f"{folder}/log{rank}"))
    with open(f"{folder}/new{rank}", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{folder}/new{rank}", f"{folder}/pid{rank}")
    dist.barrier()  # both can log now
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
    start = dict(num_gpus=int(sys.argv[3]), num_machines=1, machine_rank=0, dist_url="auto")
    launch_training(work, argparse.Namespace(**start, opts=[]))
"""
AGENT = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
GONE = r"its process is gone \(.+\)"
SILENT = "no sign of life for 15 s"


class Pair:
    """Two ranks in a scenario of the driver, under a launcher.

    Args:
        launcher: ``flags`` and ``torchrun`` are a process that starts both; ``srun`` is nothing but variables
            in the environment of two.
    """

    def __init__(self, runs, folder, scenario, launcher):
        (folder / "driver.py").write_text(DRIVER)
        one = "2" if launcher == "flags" else "1"
        command = [str(folder / "driver.py"), scenario, str(folder), one]
        command = [sys.executable, *(AGENT if launcher == "torchrun" else ()), *command]
        envs = runs.srun(2) if launcher == "srun" else [{}]
        self.folder = folder
        self.processes = [runs.start(command, **env) for env in envs]

    def pids(self):
        """Of the ranks, as soon as they are at work."""
        deadline = time.monotonic() + HUNG
        files = [self.folder / f"pid{rank}" for rank in (0, 1)]
        while not all(file.exists() for file in files):
            for process in self.processes:
                assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the ranks did not begin"
            time.sleep(0.05)
        return [int(file.read_text()) for file in files]

    def end(self):
        """Exit codes and outputs, in the order of ranks where each has its own."""
        outputs = [process.communicate(timeout=HUNG)[0] for process in self.processes]
        return [process.returncode for process in self.processes], outputs

    def logged(self, rank):
        return (self.folder / f"log{rank}").read_text()


@pytest.fixture
def pair(runs, tmp_path):
    begun = []

    def make(scenario, launcher="flags"):
        begun.append(Pair(runs, tmp_path, scenario, launcher))
        return begun[-1]

    yield make
    for pid in [int(file.read_text()) for file in tmp_path.glob("pid?")]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in begun[0].processes:
        process.kill()


def errors(output):
    return [line for line in output.splitlines() if line.startswith("error: ")]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_killed_rank_ends_the_other(pair):
    run = pair("collective")
    pids = run.pids()
    os.kill(pids[1], signal.SIGKILL)
    (code,), (output,) = run.end()
    assert code == 1 and all(map(gone, pids))
    (line,) = errors(output)
    assert re.fullmatch(rf"error: rank 1 \(.+\) was lost: {GONE}", line), output
    assert output.endswith(f"{line}\n")
    assert re.search(rf"rank 1 \(.+\) was lost: {GONE}; this rank stops, cont", run.logged(0))


def test_an_error_of_one_rank_ends_the_other(pair):
    run = pair("wrong")
    (code,), (output,) = run.end()
    assert code == 1, output
    assert output.splitlines()[-1] == "error: the label 200 is too many"
    assert len(errors(output)) == 1 and "Traceback" not in output
    for rank in (0, 1):
        assert f"rank 1 ({socket.gethostname()}): the label 200" in run.logged(rank)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_an_error_of_one_rank_is_said_by_both(pair, launcher):
    run = pair("wrong", launcher)
    codes, outputs = run.end()
    assert set(codes) == {1}, outputs
    assert errors("".join(outputs)) == 2 * ["error: the label 200 is too many"]
    assert "in work\n" not in "".join(outputs)  # no traceback of ours
    if launcher == "srun":
        assert all(output.endswith("error: the label 200 is too many\n") for output in outputs)


@pytest.mark.slow
def test_a_bug_of_one_rank_is_shown_with_its_traceback(pair):
    (code,), (output,) = pair("bug").end()
    assert code == 1
    assert output.count("in work\n") == 1
    assert output.splitlines()[-1] == "error: LookupError: a bug of rank 1"
    assert len(errors(output)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["flags", "torchrun", "srun"])
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_rank_is_lost(pair, launcher, lost, number):
    run = pair("collective", launcher)
    pids = run.pids()
    begin = time.monotonic()
    os.kill(pids[lost], number)
    if launcher == "srun":
        # It ends a stopped task when another has failed (--kill-on-bad-exit).
        assert run.processes[1 - lost].wait(HUNG) == 1
        run.processes[lost].kill()
    codes, outputs = run.end()
    print(f"{launcher}, {number.name}: {time.monotonic() - begin:.1f} s")
    assert 0 not in codes and all(map(gone, pids))
    what = rf"rank {lost} \(.+\) was lost: {GONE if number == signal.SIGKILL else SILENT}"
    said = outputs[1 - lost] if launcher == "srun" else outputs[0]
    assert re.search(f"(?m)^error: {what}$", said), said
    if launcher != "torchrun":  # which has the last word
        assert re.fullmatch(f"error: {what}", said.splitlines()[-1]), said
    assert re.search(what, run.logged(1 - lost))


@pytest.mark.slow
def test_a_killed_rank_ends_one_that_hangs(pair):
    run = pair("hang")
    pids = run.pids()
    os.kill(pids[1], signal.SIGKILL)
    (code,), (output,) = run.end()
    assert code == 1 and all(map(gone, pids))
    assert re.search(rf"^error: rank 1 \(.+\) was lost: {GONE}$", errors(output)[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_signals_end_what_is_not_training(pair, number):
    run = pair("collective")
    pids = run.pids()
    run.processes[0].send_signal(number)
    (code,), (output,) = run.end()
    assert code == 1 and all(map(gone, pids))
    assert output.splitlines()[-1].startswith("error: ended by SIG"), output


@pytest.mark.slow
def test_slowness_and_early_ends_are_no_alarm(pair):
    run = pair("slow")
    pids = run.pids()
    (code,), (output,) = run.end()
    assert code == 0 and "error" not in output.lower(), output
    assert all(map(gone, pids))
