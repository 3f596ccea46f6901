"""The same run under every launcher, on one machine and on two; and what ends it on both."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from tests.helpers import HUNG, logs

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SHORT = ("train.max_iter=6", "train.checkpointer.period=100")
LONG = ("train.max_iter=100000", "train.checkpointer.period=100000")


@pytest.fixture(scope="module")
def one(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    runs.train(out, *SHORT)
    return out


@pytest.fixture
def same(one, metrics):
    """Compares a finished run with that of one process."""

    def check(out):
        expected, found = metrics(one), metrics(out)
        assert expected.keys() == found.keys() == set(range(6))
        for step, values in expected.items():
            for name, value in values.items():
                assert found[step][name] == pytest.approx(value, rel=1e-5), (step, name)

    return check


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def start_all(runs):
    """Starts processes; what of them is left at the end is killed."""
    with ExitStack() as stack:

        def start(commands, envs=({}, {})):
            processes = [runs.start(c, **env) for c, env in zip(commands, envs, strict=True)]
            for process in processes:
                stack.callback(process.kill)
            return processes

        yield start


def torchrun(runs, out, *overrides, flags=(), agent=()):
    return [*TORCHRUN, *agent, *runs.command(out, *overrides, flags=flags)[1:]]


def two_agents(runs, out, *overrides, port, address="127.0.0.1"):
    """One line for each of two machines with a process each."""
    agent = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", address]
    agent += ["--master-port", str(port), "--local-addr", address]
    return [
        torchrun(runs, out, *overrides, agent=[*agent, "--node-rank", str(rank)]) for rank in (0, 1)
    ]


def ends(processes):
    outputs = [process.communicate(timeout=HUNG)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def wait_for_step(out, processes, step=0):
    deadline = time.monotonic() + HUNG
    while not logs(out, step)():
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def worker_of(agent):
    """The process that a torchrun agent started."""
    (line,) = subprocess.check_output(["pgrep", "-P", str(agent.pid)], text=True).split()
    return int(line)


@pytest.mark.slow
def test_torchrun_on_one_machine(runs, same, tmp_path):
    out = tmp_path / "run"
    agent = ["--standalone", "--nproc-per-node", "2"]
    code, output = runs.run(torchrun(runs, out, *SHORT, agent=agent))
    assert code == 0, output
    assert "started by torchrun: rank 0 of 2, 2 per machine" in output
    assert "rank 1 of 2" in (out / "log.txt.rank1").read_text()
    same(out)


@pytest.mark.slow
def test_srun(runs, same, tmp_path, start_all):
    """The variables that srun sets, on processes that Slurm has not started."""
    out = tmp_path / "run"
    codes, outputs = ends(start_all([runs.command(out, *SHORT)] * 2, runs.srun(2)))
    assert codes == [0, 0], outputs
    assert "started by srun: rank 0 of 2, 2 per machine" in outputs[0]
    same(out)


def test_contradicting_flags(runs, tmp_path):
    env = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    env |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    code, output = runs.run(runs.command(tmp_path / "run", flags=["--num-gpus", "2"]), **env)
    assert code == 1
    assert output.splitlines()[-1].startswith("error: --num-gpus 2 --num-machines 1 ")
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["flags", "torchrun"])
def test_two_machines_on_loopback(runs, same, tmp_path, start_all, port, launcher):
    out = tmp_path / "run"
    if launcher == "torchrun":
        commands = two_agents(runs, out, *SHORT, port=port)
    else:
        flags = ["--num-machines", "2", "--dist-url", f"tcp://127.0.0.1:{port}"]
        commands = [
            runs.command(out, *SHORT, flags=[*flags, "--machine-rank", rank]) for rank in "01"
        ]
    codes, outputs = ends(start_all(commands))
    assert codes == [0, 0], outputs
    name = "torchrun" if launcher == "torchrun" else "--num-gpus and --num-machines"
    assert f"started by {name}: rank 0 of 2, 1 per machine" in outputs[0]
    same(out)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_killed_on_one_of_two_machines(runs, tmp_path, start_all, port, lost):
    out = tmp_path / "run"
    processes = start_all(two_agents(runs, out, *LONG, port=port))
    wait_for_step(out, processes)
    os.kill(worker_of(processes[lost]), signal.SIGKILL)
    codes, outputs = ends(processes)
    assert 0 not in codes
    said = rf"rank {lost} \(.+\) was lost: its process is gone"
    assert re.search(f"(?m)^error: {said}", outputs[1 - lost]), outputs[1 - lost]
    assert re.search(said, (out / ("log.txt" if lost else "log.txt.rank1")).read_text())


@pytest.mark.slow
def test_sigterm_under_torchrun_saves_and_the_run_continues(
    runs, tmp_path, assert_same_runs, metrics
):
    agent = ["--standalone", "--nproc-per-node", "2"]
    whole, out = tmp_path / "whole", tmp_path / "run"
    code, output = runs.run(torchrun(runs, whole, agent=agent))
    assert code == 0, output
    process = runs.start(torchrun(runs, out, agent=agent))
    wait_for_step(out, [process])
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=HUNG)
    assert re.search("stopped by SIGTERM after iteration 1?9; continue with --resume", output), (
        output
    )
    assert not (out / "model_final.pth").exists()
    code, output = runs.run(torchrun(runs, out, agent=agent, flags=["--resume"]))
    assert code == 0 and re.search("resumed at iteration [12]0 from", output), output
    assert_same_runs(whole, out)


class Namespaces:
    """Two machines with a cable between them: network namespaces joined by a veth pair."""

    def __init__(self) -> None:
        self.names = [f"rmae{os.getpid()}{x}" for x in "ab"]
        self.addresses = ["10.231.7.1", "10.231.7.2"]

    def __enter__(self):
        for name in self.names:
            self._ip("netns", "add", name)
        a, b = self.names
        self._ip(
            "-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b
        )
        for name, address in zip(self.names, self.addresses, strict=True):
            self._ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                self._ip("-n", name, "link", "set", device, "up")
        return self

    def __exit__(self, *error):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def inside(self, machine, command):
        return ["ip", "netns", "exec", self.names[machine], *command]

    def unplug(self):
        self._ip("-n", self.names[1], "link", "set", "cable", "down")

    @staticmethod
    def _ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def cable():
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command ip (iproute2)")
    namespaces = Namespaces()
    try:
        namespaces.__enter__()
    except subprocess.CalledProcessError as error:
        namespaces.__exit__()
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    yield namespaces
    namespaces.__exit__()


@pytest.mark.slow
def test_two_machines_and_a_cable(runs, same, tmp_path, start_all, cable):
    out = tmp_path / "run"
    flags = ["--num-machines", "2", "--dist-url", f"tcp://{cable.addresses[0]}:29512"]
    commands = [
        cable.inside(rank, runs.command(out, *SHORT, flags=[*flags, "--machine-rank", str(rank)]))
        for rank in (0, 1)
    ]
    # Hosts with several names let gloo choose the wrong one.
    codes, outputs = ends(start_all(commands, [{"GLOO_SOCKET_IFNAME": "cable"}] * 2))
    assert codes == [0, 0], outputs
    same(out)


@pytest.mark.slow
def test_the_cable_between_two_machines_is_unplugged(runs, tmp_path, start_all, cable):
    """Nothing tells either side: both hang in a collective, and find out by the silence."""
    out = tmp_path / "run"
    flags = ["--num-machines", "2", "--dist-url", f"tcp://{cable.addresses[0]}:29512"]
    commands = [
        cable.inside(rank, runs.command(out, *LONG, flags=[*flags, "--machine-rank", str(rank)]))
        for rank in (0, 1)
    ]
    processes = start_all(commands, [{"GLOO_SOCKET_IFNAME": "cable"}] * 2)
    wait_for_step(out, processes)
    cable.unplug()
    codes, outputs = ends(processes)
    assert codes == [1, 1]
    for here, other in ((0, 1), (1, 0)):
        said = rf"error: rank {other} \(.+\) was lost: no sign of life for 15 s"
        assert re.fullmatch(said, outputs[here].splitlines()[-1]), outputs[here]
