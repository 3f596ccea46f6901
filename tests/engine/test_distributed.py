"""Two processes do what one does; signals and failures reach both."""

import json
import re
import signal
import sys

import pytest
import torch

from tests.helpers import events

# Several runs in one pair of processes, for starting a pair takes longer than all of them.
DRIVER = """
import argparse, json, sys
from detectron2.utils import comm
from rmae_d2.engine import main
from rmae_d2.engine.launch import launch_training
from rmae_d2.errors import UserError

def runs(args):
    for name, config, eval_only, opts in json.loads(args.opts[0]):
        one = argparse.Namespace(config_file=config, resume=False, eval_only=eval_only, opts=opts)
        try:
            results = main(one)
        except UserError as error:
            results = str(error)
        with open(f"{args.opts[1]}/{name}_rank{comm.get_rank()}.json", "w") as file:
            json.dump(results, file)

if __name__ == "__main__":
    common = dict(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")
    launch_training(runs, argparse.Namespace(**common, opts=sys.argv[1:]))
"""

LONG = ("train.checkpointer.period=100",)
SUM = ("train.ema.decay=0.9", "train.clip_grad=0.2")


@pytest.fixture(scope="module")
def one(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    runs.train(out, *LONG, *SUM)
    return out


@pytest.fixture(scope="module")
def pair(runs, one, tmp_path_factory):
    """Folder of what the driver's runs made: training, accumulation, evaluation, divergence."""
    folder = tmp_path_factory.mktemp("pair")

    def scenario(name, *overrides, eval_only=False):
        opts = [*runs.tiny, f"train.output_dir={folder / name}", *overrides]
        return name, str(runs.config), eval_only, opts

    scenarios = [
        scenario("train", *LONG, *SUM),
        scenario("accumulated", *LONG, *SUM, "train.grad_accum=2"),
        scenario("evaluate", f"train.init_checkpoint={one / 'model_final.pth'}", eval_only=True),
        scenario("diverge", "optimizer.base_lr=1e30"),
    ]
    driver = folder / "driver.py"
    driver.write_text(DRIVER)
    command = [sys.executable, str(driver), json.dumps(scenarios), str(folder)]
    code, output = runs.run(command, timeout=180)
    assert code == 0, output
    return folder


def final(out):
    """The last checkpoint; biases of keys as 0.

    No loss depends on them, for softmax is the same for shifted scores: their gradients are rounding alone,
    which Adam enlarges to whole steps.
    """
    state = torch.load(out / "model_final.pth", weights_only=True)
    for weights in (state["model"], state["ema"]):
        for name, value in weights.items():
            if name.endswith("qkv.bias"):
                value[len(value) // 3 : -len(value) // 3] = 0
    return state


def assert_close_runs(a, b, metrics):
    expected, found = metrics(a), metrics(b)
    assert expected.keys() == found.keys() == set(range(24))
    for step, values in expected.items():
        for name, value in values.items():
            assert found[step][name] == pytest.approx(value, rel=1e-5), (step, name)
    one, other = final(a), final(b)
    for part in ("model", "ema"):
        torch.testing.assert_close(one[part], other[part], rtol=1e-4, atol=2e-6)


def test_two_processes_are_as_one(one, pair, metrics):
    assert_close_runs(one, pair / "train", metrics)
    assert (pair / "train/log.txt.rank1").exists()


def test_accumulation_is_as_one(runs, one, pair, tmp_path, metrics):
    runs.train(tmp_path / "run", *LONG, *SUM, "train.grad_accum=2")
    assert_close_runs(one, tmp_path / "run", metrics)
    assert_close_runs(one, pair / "accumulated", metrics)


def test_evaluation_in_two_processes_is_as_in_one(runs, one, pair, tmp_path):
    weights = f"train.init_checkpoint={one / 'model_final.pth'}"
    expected = runs.train(tmp_path / "run", weights, eval_only=True)["reconstruction"]
    found = json.loads((pair / "evaluate_rank0.json").read_text())["reconstruction"]
    assert found == pytest.approx(expected, rel=1e-5)
    assert json.loads((pair / "evaluate_rank1.json").read_text()) == {}


def test_divergence_is_noticed_by_both(runs, pair):
    images = []
    for rank in (0, 1):
        message = json.loads((pair / f"diverge_rank{rank}.json").read_text())
        assert "not finite at iteration 2" in message
        batch = json.loads((pair / f"diverge/nonfinite_batch_rank{rank}.json").read_text())
        assert batch["iteration"] == 2
        images += [image["file_name"] for image in batch["images"]]
    assert len(images) == 4 and all(name.startswith(str(runs.photos)) for name in images)


def test_a_failure_ends_both_processes(runs, tmp_path, two_processes):
    out = tmp_path / "run"
    command = runs.command(out, "model.pixel_std=[0, 0, 0]", flags=two_processes)
    code, output = runs.run(command)
    assert code == 1
    assert output[output.rindex("error: ") :].startswith("error: loss or gradient not finite")
    assert len(list(out.glob("nonfinite_batch_rank*.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_reach_both_and_the_run_continues(
    runs, pair, tmp_path, two_processes, assert_same_runs, number
):
    out = tmp_path / "run"

    def begun():
        path = out / "metrics.json"
        return path.exists() and '"iteration": 0,' in path.read_text()

    process = runs.start(runs.command(out, *LONG, *SUM, flags=two_processes))
    code, output = runs.signal_when(process, begun, number)
    assert code == 0, output
    assert re.search(
        f"stopped by {number.name} after iteration 1?9; continue with --resume", output
    )
    assert "Traceback" not in output and not (out / "model_final.pth").exists()
    again = runs.command(out, *LONG, *SUM, flags=[*two_processes, "--resume"])
    code, output = runs.run(again)
    assert code == 0, output
    assert events(out, "resume")[-1]["iteration"] in (10, 20)
    assert re.search("resumed at iteration [12]0 from", (out / "log.txt.rank1").read_text())
    assert_same_runs(pair / "train", out)


@pytest.mark.slow
def test_machines_that_share_no_storage_are_refused(runs, one, tmp_path):
    """One rank finds a checkpoint, the other does not: training on would mix two runs."""
    driver = tmp_path / "driver.py"
    # Every rank sees a folder of its own.
    driver.write_text(
        DRIVER.replace("opts=opts)", "opts=[*opts, own(comm.get_rank())])")
        .replace(
            "def runs",
            "def own(rank):\n    return f'train.output_dir={sys.argv[2]}/rank{rank}'\n\ndef runs",
        )
        .replace("resume=False", "resume=True")
    )
    runs.train(tmp_path / "rank0", "train.max_iter=3")
    scenario = ["x", str(runs.config), False, runs.tiny]
    command = [sys.executable, str(driver), json.dumps([scenario]), str(tmp_path)]
    code, output = runs.run(command)
    assert code == 1
    assert "the processes found different checkpoints (model_final.pth; none)" in output
    assert "error: " in output and "storage that all machines share" in output
