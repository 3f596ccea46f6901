"""Two processes do what one does; signals and failures reach both."""

import json
import re
import signal

import pytest

from tests.helpers import assert_close_runs, events, logs

LONG = ("train.checkpointer.period=100",)
SUM = ("train.ema.decay=0.9", "train.clip_grad=0.2")


@pytest.fixture(scope="module")
def one(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    runs.train(out, *LONG, *SUM)
    return out


@pytest.fixture(scope="module")
def pair(runs, one, tmp_path_factory):
    """Folder of what a pair's runs made, and what they returned."""
    folder = tmp_path_factory.mktemp("pair")

    def scenario(name, *overrides, **more):
        return (
            name,
            runs.config,
            [*runs.tiny, f"train.output_dir={folder / name}", *overrides],
            more,
        )

    weights = f"train.init_checkpoint={one / 'model_final.pth'}"
    scenarios = [
        scenario("train", *LONG, *SUM),
        scenario("accumulated", *LONG, *SUM, "train.grad_accum=2"),
        scenario("evaluate", weights, eval_only=True),
        scenario("diverge", "optimizer.base_lr=1e30"),
    ]
    return folder, runs.pair(folder, scenarios)


def test_two_processes_are_as_one(one, pair):
    assert_close_runs(one, pair[0] / "train", 24)
    assert (pair[0] / "train/log.txt.rank1").exists()


def test_accumulation_is_as_one(runs, one, pair, tmp_path):
    runs.train(tmp_path / "run", *LONG, *SUM, "train.grad_accum=2")
    assert_close_runs(one, tmp_path / "run", 24)
    assert_close_runs(one, pair[0] / "accumulated", 24)


def test_evaluation_in_two_processes_is_as_in_one(runs, one, pair, tmp_path):
    weights = f"train.init_checkpoint={one / 'model_final.pth'}"
    expected = runs.train(tmp_path / "run", weights, eval_only=True)["reconstruction"]
    found, nothing = pair[1]["evaluate"]
    assert found["reconstruction"] == pytest.approx(expected, rel=1e-5) and nothing == {}


def test_divergence_is_noticed_by_both(runs, pair):
    folder, results = pair
    images = []
    for rank, message in enumerate(results["diverge"]):
        assert "not finite at iteration 2" in message
        batch = json.loads((folder / f"diverge/nonfinite_batch_rank{rank}.json").read_text())
        assert batch["iteration"] == 2
        images += [image["file_name"] for image in batch["images"]]
    assert len(images) == 4 and all(name.startswith(str(runs.photos)) for name in images)


@pytest.mark.slow
def test_a_failure_ends_both_processes(runs, tmp_path, two_processes):
    out = tmp_path / "run"
    command = runs.command(out, "model.pixel_std=[1e-45, 1e-45, 1e-45]", flags=two_processes)
    code, output = runs.run(command)
    assert code == 1
    assert output[output.rindex("error: ") :].startswith("error: loss or gradient not finite")
    assert len(list(out.glob("nonfinite_batch_rank*.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_reach_both_and_the_run_continues(
    runs, pair, tmp_path, two_processes, assert_same_runs, number
):
    out = tmp_path / "run"
    workers = "dataloader.train.num_workers=1"
    process = runs.start(runs.command(out, *LONG, *SUM, workers, flags=two_processes))
    group = number == signal.SIGINT  # as of a terminal
    code, output = runs.signal_when(process, logs(out, 0), number, group)
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
    assert_same_runs(pair[0] / "train", out)


@pytest.mark.slow
def test_machines_that_share_no_storage_are_refused(runs, tmp_path):
    """One rank finds a checkpoint, the other does not: training on would mix two runs."""
    runs.train(tmp_path / "rank0", "train.max_iter=3")
    opts = [*runs.tiny, f"train.output_dir={tmp_path}/rank{{rank}}"]
    results = runs.pair(tmp_path, [("resumed", runs.config, opts, {"resume": True})])
    for message in results["resumed"]:
        assert "the processes found different checkpoints (model_final.pth; none)" in message
        assert "storage that all machines share" in message
