"""What a run says of itself in run.jsonl, however it ends."""

import argparse
import logging
import re
import signal

import pytest
import torch

import rmae_d2
from rmae_d2.config import load_config
from rmae_d2.engine.run_events import RunEvents
from rmae_d2.errors import UserError
from rmae_d2.events import outcome, read_events
from rmae_d2.report.run_record import read_folder
from tests.helpers import CONFIG, events

SHORT = ("train.max_iter=4", "train.checkpointer.period=2", "train.eval_period=3")


@pytest.fixture(scope="module")
def finished(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("events") / "run"
    runs.train(out, *SHORT)
    return out


def kinds(out):
    found, notes = read_events(out / "run.jsonl")
    assert notes == []
    return [event["event"] for event in found if event["event"] != "warning"]


def test_from_start_to_end(finished, runs):
    assert [k for k in kinds(finished) if k != "checkpoint"] == [
        *("start", "versions", "config", "setup", "step", "step", "evaluation", "step", "step"),
        *("evaluation", "end"),
    ]
    saved = [(e["iteration"], e["file"]) for e in events(finished, "checkpoint")]
    assert saved == [(1, "model_0000001.pth"), (3, "model_final.pth")]
    (start,) = events(finished, "start")
    assert start["arguments"]["config_file"] == str(CONFIG) and start["processes"] == 1
    assert start["arguments"]["opts"][-1] == SHORT[-1] and start["launched"] == "started alone"
    versions = events(finished, "versions")[0]["versions"]
    assert versions["rmae_d2"].startswith(rmae_d2.__version__)
    assert versions["torch"] == torch.__version__ and "detectron2" in versions
    (setup,) = events(finished, "setup")
    assert (setup["model"], setup["images"], setup["images_a_step"]) == ("RMAE", 12, 4)
    assert (setup["precision"], setup["device"]) == ("fp32", "cpu")
    assert events(finished, "end")[0]["outcome"] == "finished"


def test_the_config_has_values_and_what_was_changed(finished):
    (event,) = events(finished, "config")
    assert "${" not in str(event["config"])
    saved = load_config(finished / "config.yaml")
    assert event["config"]["model"]["_target_"] == "rmae_d2.modeling.rmae.RMAE"
    assert event["config"]["model"]["backbone"]["net"]["embed_dim"] == 32
    assert event["config"]["train"]["max_iter"] == saved.train.max_iter == 4
    assert event["base"] == "configs/demo/rmae_tiny_scenes.py"
    assert event["changed"]["train.max_iter"] == {"base": 450, "run": 4}
    assert event["changed"]["dataloader.train.total_batch_size"] == {"base": 32, "run": 4}
    assert "train.seed" not in event["changed"]


def test_an_evaluation_alone(finished, runs, tmp_path):
    weights = f"train.init_checkpoint={finished / 'model_final.pth'}"
    found = runs.train(tmp_path / "run", weights, eval_only=True)
    assert kinds(tmp_path / "run") == ["start", "versions", "config", "evaluation", "end"]
    (event,) = events(tmp_path / "run", "evaluation")
    assert event["results"]["reconstruction/region_iou"] == found["reconstruction"]["region_iou"]
    assert event["data"] == str(runs.photos)
    assert f"evaluation on {runs.photos}: region IoU " in (tmp_path / "run/log.txt").read_text()
    assert "iteration" not in event and events(tmp_path / "run", "end")[0]["outcome"] == "evaluated"


@pytest.mark.parametrize("opt", ["train.precision=fp8", "optimizer.base_lr=1e30"])
def test_an_error_before_and_while_training(runs, tmp_path, opt):
    """It stands in run.jsonl and log.txt, and the report says it."""
    with pytest.raises(UserError) as raised:
        runs.train(tmp_path, opt)
    (event,) = events(tmp_path, "error")
    assert (event["type"], event["text"]) == ("UserError", str(raised.value))
    assert kinds(tmp_path)[-2:] == ["error", "end"]
    assert events(tmp_path, "end")[0]["outcome"] == "failed"
    log = (tmp_path / "log.txt").read_text()
    assert log.rstrip().endswith(f"UserError: {raised.value}") and "the run ended" in log
    assert read_folder(tmp_path).status == f"failed: UserError: {raised.value}"


def test_a_start_that_fails_before_its_first_step_leaves_no_folder(runs, tmp_path):
    for flags in ({}, {"eval_only": True}):
        with pytest.raises(UserError):
            runs.train(tmp_path / "new/run", "train.precision=fp8", **flags)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    (tmp_path / "new/other").touch()
    with pytest.raises(UserError):
        runs.train(tmp_path / "new/run", "train.precision=fp8")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["other"]


def test_nothing_is_written_to_a_run_that_is_not_continued(finished, runs):
    before = (finished / "run.jsonl").read_bytes()
    with pytest.raises(UserError, match="already holds a run"):
        runs.train(finished)
    assert (finished / "run.jsonl").read_bytes() == before


@pytest.mark.slow
def test_stopped_by_a_signal_and_taken_up(runs, tmp_path):
    out = tmp_path / "run"

    def begun():
        return bool(events(out, "step"))

    code, output = runs.signal_when(
        runs.start(runs.command(out, "train.max_iter=500")), begun, signal.SIGTERM
    )
    assert code == 0, output
    (end,) = events(out, "end")
    stopped = int(re.fullmatch(r"stopped by SIGTERM after iteration (\d+)", end["text"])[1])
    assert end["outcome"] == "stopped" and kinds(out)[-2:] == ["checkpoint", "end"]
    runs.train(out, f"train.max_iter={stopped + 3}", resume=True)
    (resume,) = events(out, "resume")
    assert (resume["iteration"], resume["before"]) == (stopped + 1, f"the last start {end['text']}")
    assert len(events(out, "start")) == 2 and kinds(out)[-1] == "end"


def test_what_is_known_of_another_rank_comes_last(tmp_path, monkeypatch):
    """A rank that meets a broken connection learns why while it ends."""
    package = logging.getLogger("rmae_d2")
    monkeypatch.setattr(package, "handlers", [])
    args = argparse.Namespace(eval_only=False)
    with pytest.raises(RuntimeError), RunEvents(str(tmp_path), args, "by a test"):
        raise RuntimeError("gloo: connection reset")
    package.getChild("engine").error("%s; this rank stops", "rank 1 (host) was lost: it is gone")
    found, _ = read_events(tmp_path / "run.jsonl")
    assert [e["event"] for e in found] == ["start", "versions", "error", "end", "error"]
    assert outcome(found) == "failed: rank 1 (host) was lost: it is gone; this rank stops"
    with RunEvents(str(tmp_path), args, "by a test"):
        package.getChild("data").warning("%d of them", 3)
    found, _ = read_events(tmp_path / "run.jsonl")
    assert outcome(found[5:]) == "finished" and found[-2]["text"] == "3 of them"
