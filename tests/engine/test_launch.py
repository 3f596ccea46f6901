"""How a process learns what started it, from the environments that launchers really leave."""

import argparse

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.engine.launch import Start, check_flags, first_host, how_started, wants_cpu
from rmae_d2.errors import UserError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node7",
    "MASTER_PORT": "29500",
}
# Of a job of 8 tasks, as the shell of sbatch or salloc has it, and as a task of srun has it.
SHELL = {
    "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NODELIST": "node[07-08]",
    "SLURM_NTASKS": "8",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
SRUN = SHELL | {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}


def flags(**changes):
    values = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "opts": ["train.device=cpu"]}
    return argparse.Namespace(**{**values, **changes})


def without(env, *names):
    return {key: value for key, value in env.items() if key not in names}


def test_torchrun_and_srun():
    assert how_started(TORCHRUN) == Start("torchrun", 5, 8, 1, 4, "node7", 29500)
    start = how_started(SRUN)
    assert start == Start("srun", 5, 8, 1, 4, "node07", start.port)
    other_step = how_started({**SRUN, "SLURM_STEP_ID": "3"})
    assert 1024 < start.port < 32768 and other_step.port != start.port


def test_srun_where_slurm_says_less():
    env = without(SRUN, "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_ID")
    assert how_started(env).world_size == 8
    assert how_started({**SRUN, "MASTER_ADDR": "ib0", "MASTER_PORT": "77"}).address == "ib0"
    one_machine = without(env, "SLURM_TASKS_PER_NODE") | {"SLURM_LOCALID": "5"}
    assert how_started(one_machine).local_size == 8
    with pytest.raises(UserError, match="set MASTER_ADDR"):
        how_started(without(SRUN, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"))


@pytest.mark.parametrize(
    "env",
    [
        {},
        SHELL,
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"WORLD_SIZE": "4"},
        {"RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_alone(env):
    assert how_started(env) is None


def test_torchrun_within_srun_is_torchruns():
    assert how_started({**SRUN, **TORCHRUN}).launcher == "torchrun"


@pytest.mark.parametrize(
    ("env", "says"),
    [
        (without(TORCHRUN, "LOCAL_RANK"), "not LOCAL_RANK: start with torchrun"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "5,3"}, "--ntasks-per-node"),
        ({**SRUN, "SLURM_LOCALID": "2"}, "--distribution=block"),
    ],
)
def test_environments_that_contradict_themselves(env, says):
    with pytest.raises(UserError, match=says):
        how_started(env)


@pytest.mark.parametrize(
    ("start", "changes", "says"),
    [
        (TORCHRUN, {"num_gpus": 2}, "--num-gpus 2 .* under torchrun, which has started 8 .*leave"),
        (SRUN, {"num_machines": 2}, "--num-machines 2 .* under srun"),
        ({}, {"num_gpus": -1}, "--num-gpus -1 .*at least 1"),
        ({}, {"num_machines": 0}, "--num-machines 0: at least 1"),
        ({}, {"machine_rank": 2, "num_machines": 2}, "--machine-rank 2: from 0 to .* = 1"),
    ],
)
def test_flags_that_contradict_the_start(start, changes, says):
    with pytest.raises(UserError, match=says):
        check_flags(how_started(start), flags(**changes))


def test_flags_that_fit():
    check_flags(how_started(TORCHRUN), flags())
    check_flags(None, flags(num_gpus=64, num_machines=2, machine_rank=1))
    check_flags(None, flags(num_gpus=0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_processes_that_do_not_fit_the_gpus():
    with pytest.raises(UserError, match="--num-gpus 0 .*train.device=cpu"):
        check_flags(None, flags(num_gpus=0, opts=[]))
    with pytest.raises(UserError, match="--num-gpus 64 on a machine with"):
        check_flags(None, flags(num_gpus=64, opts=[]))


@pytest.mark.parametrize(
    ("opts", "cpu"),
    [([], False), (["train.device=cpu"], True), (["train.device=cpu", "train.device=auto"], False)],
)
def test_wants_cpu(opts, cpu):
    assert wants_cpu(opts) is cpu


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node7", "node7"),
        ("node7,node8", "node7"),
        ("node[07-09,12],other", "node07"),
        ("node[12,07]", "node12"),
        ("rack[1-2]n[3-4].site", "rack1n3.site"),
    ],
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


@given(
    st.from_regex(r"[a-z][a-z0-9-]*", fullmatch=True),
    st.lists(st.integers(0, 999), min_size=1, unique=True),
)
def test_first_host_of_any_list(prefix, numbers):
    plain = ",".join(f"{prefix}{n:03d}" for n in numbers)
    short = f"{prefix}[{','.join(f'{n:03d}' for n in numbers)}]"
    assert first_host(plain) == first_host(short) == f"{prefix}{numbers[0]:03d}"
