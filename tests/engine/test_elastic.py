"""Runs that go on with another number of processes, at the same global batch, and in the other kind."""

import json
import shutil
import subprocess
import sys
import time

import pytest

from rmae_d2.errors import UserError
from tests.helpers import HUNG, assert_close_runs, events

STEPS = 9
COMMON = (
    f"train.max_iter={STEPS}",
    "train.ema.decay=0.9",
    "train.clip_grad=0.2",
    "train.checkpointer.period=3",
    "train.checkpointer.max_to_keep=0",
)
DDP, FSDP = (), ("train.parallel=fsdp",)
ACCUMULATE = ("train.grad_accum=2",)

# Two processes that train, wait until the file "go" is there, and resume.
DRIVER = """
import argparse, json, os, sys, time
from pathlib import Path
from rmae_d2.engine import main
from rmae_d2.engine.launch import launch_training

def runs(args):
    folder = Path(args.opts[1])
    for stage, resume in enumerate((False, True)):
        for config, opts in json.loads(args.opts[0])[stage]:
            common = dict(config_file=config, resume=resume, eval_only=False)
            main(argparse.Namespace(**common, opts=opts))
        (folder / f"done{stage}_{os.getpid()}").touch()
        while stage == 0 and not (folder / "go").exists():
            time.sleep(0.05)

if __name__ == "__main__":
    common = dict(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")
    launch_training(runs, argparse.Namespace(**common, opts=sys.argv[1:]))
"""

#: What the processes of a run are like: two, then one, then two. Micro-batches differ from stage to stage.
JOURNEYS = {
    "ddp": (DDP, DDP, (*DDP, *ACCUMULATE)),
    "fsdp": (FSDP, (*FSDP, *ACCUMULATE), FSDP),
    "fsdp_ddp_fsdp": (FSDP, DDP, FSDP),
}


@pytest.fixture(scope="module")
def one(runs, tmp_path_factory):
    """An uninterrupted run of one process."""
    out = tmp_path_factory.mktemp("one") / "run"
    runs.train(out, *COMMON)
    return out


@pytest.fixture(scope="module")
def journeys(runs, tmp_path_factory):
    """Folders of runs that two processes began, one took over at iteration 3, and two again at 6."""
    folder = tmp_path_factory.mktemp("journeys")
    driver = folder / "driver.py"
    driver.write_text(DRIVER)

    def scenario(name, *overrides):
        return str(runs.config), [
            *runs.tiny,
            *COMMON,
            f"train.output_dir={folder / name}",
            *overrides,
        ]

    stages = [[scenario(name, *journey[i]) for name, journey in JOURNEYS.items()] for i in (0, 2)]
    command = [sys.executable, str(driver), json.dumps(stages), str(folder)]
    output = folder / "output.txt"
    with open(output, "w") as file:  # nobody reads a pipe while one process trains
        process = subprocess.Popen(command, env=runs.env, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + HUNG
        while len(list(folder.glob("done0_*"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        for name, journey in JOURNEYS.items():
            set_back(folder / name, 3)
            runs.train(folder / name, *COMMON, *journey[1], resume=True)
            set_back(folder / name, 6)
        (folder / "go").touch()
        assert process.wait(timeout=HUNG) == 0, output.read_text()
    finally:
        process.terminate()
    return folder


def set_back(out, iteration):
    """Leaves a run as it was after so many steps."""
    for path in out.glob("model_*"):
        if path.stem == "model_final" or int(path.stem.removeprefix("model_")) >= iteration:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (out / "last_checkpoint").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(JOURNEYS))
def test_two_one_two_is_as_one(one, journeys, name):
    assert_close_runs(one, journeys / name, STEPS, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(JOURNEYS))
def test_the_log_says_from_what_it_went_on(journeys, name):
    first, second, third = (FSDP[0] in stage for stage in JOURNEYS[name])
    found = [(e["iteration"], e["file"]) for e in events(journeys / name, "resume")]
    ends = ["" if sharded else ".pth" for sharded in (first, second)]
    assert found == [(3, f"model_0000002{ends[0]}"), (6, f"model_0000005{ends[1]}")]
    last = journeys / name / f"model_{STEPS - 1:07d}"
    assert (journeys / name / "model_final.pth").is_file() and not last.exists()


@pytest.mark.slow
def test_a_batch_that_does_not_divide_says_so(runs, journeys, tmp_path):
    """The global batch is the configuration's: another number of processes never changes it silently."""
    shutil.copytree(journeys / "ddp", tmp_path / "run")
    message = "total_batch_size=4 does not divide by 1 processes x 3"
    with pytest.raises((ValueError, UserError), match=message):
        runs.train(
            tmp_path / "run", *COMMON, "train.max_iter=16", "train.grad_accum=3", resume=True
        )
