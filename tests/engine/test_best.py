"""The best evaluation's weights are kept, over a resume too, and a run that gets no better ends."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from rmae_d2.engine.best import KeepBest, check_keep_best
from rmae_d2.engine.checkpointer import Checkpointer
from rmae_d2.engine.hooks import PeriodicCheckpoint
from rmae_d2.errors import UserError
from rmae_d2.events import EventWriter
from tests.helpers import assert_same, events

METRIC = "train.keep_best=reconstruction/loss_pixel"
EVALUATED = ["train.max_iter=12", "train.eval_period=3", "train.checkpointer.period=3"]


@pytest.fixture
def make(tmp_path):
    """A hook over a layer whose weight tells the evaluation; and a function that evaluates it."""

    def hook(metric, patience=0, parts=("test",)):
        layer = torch.nn.Linear(1, 1, bias=False)
        checkpoint = PeriodicCheckpoint(Checkpointer(layer, str(tmp_path)), 0, 0, EventWriter(None))
        best = KeepBest(metric, patience, parts, checkpoint, EventWriter(None))

        def evaluate(*values, name="bbox/AP", part="test"):
            task, _, key = name.partition("/")
            for value in values:
                torch.nn.init.constant_(layer.weight, value)
                best.consider(part, {task: {key: value, "AP50": 9.0}}, layer, best.passed)

        return best, evaluate

    return hook


def kept(folder):
    return torch.load(folder / "model_best.pth", weights_only=True)["model"]["weight"].item()


@pytest.mark.parametrize(
    ("metric", "name", "best"),
    [
        ("bbox/AP", "bbox/AP", 5.0),
        ("x/loss_pixel", "x/loss_pixel", 2.0),
        ("-bbox/AP", "bbox/AP", 2.0),
    ],
)
def test_higher_or_lower(make, tmp_path, metric, name, best):
    hook, evaluate = make(metric)
    evaluate(3.0, math.nan, 2.0, 5.0, 4.0, name=name)
    assert kept(tmp_path) == best == hook.best[0] and not hook.is_over


def test_patience(make):
    hook, evaluate = make("bbox/AP", patience=2)
    evaluate(3.0, 2.0, 4.0, 4.0)
    assert not hook.is_over
    evaluate(math.nan)
    assert hook.is_over and hook.story.startswith("the best bbox/AP is 4, after iteration ")


def test_a_metric_that_no_evaluation_has(make, tmp_path):
    _, evaluate = make("bbox/Ap", parts=("test", "knn"))
    evaluate(1.0)
    with pytest.raises(
        UserError, match="=bbox/Ap: no such metric; did you mean bbox/AP.*AP50, knn"
    ):
        evaluate(50.0, name="knn/top1", part="knn")
    assert not (tmp_path / "model_best.pth").exists()


@pytest.mark.parametrize(
    ("train", "parts", "says"),
    [
        ({"patience": 2}, ["dataloader.test"], "train.patience=2 of what"),
        ({"keep_best": "bbox/AP"}, [], "nothing is evaluated while this trains; set train.eval"),
    ],
)
def test_settings_that_say_nothing(train, parts, says):
    with pytest.raises(UserError, match=says):
        check_keep_best(OmegaConf.create({"train": train}), parts)
    check_keep_best(OmegaConf.create({"train": {}}), [])  # of an old config


def test_the_best_of_a_run(runs, tmp_path):
    """Which an interrupted run has, too: it ends at iteration 6, and goes on."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    runs.train(whole, *EVALUATED, METRIC)
    runs.train(parts, *EVALUATED, METRIC, "train.max_iter=6", "lr_multiplier.warmup_length=0.5")
    runs.train(parts, *EVALUATED, METRIC, resume=True)
    for folder in (whole, parts):
        losses = {
            e["iteration"]: e["results"]["reconstruction/loss_pixel"]
            for e in events(folder, "evaluation")
        }
        assert len(losses) == 4
        saved = torch.load(folder / "model_best.pth", weights_only=True)
        assert saved["iteration"] == min(losses, key=losses.__getitem__)
        told = [e["iteration"] for e in events(folder, "checkpoint") if "best" in e["file"]]
        better = [i for i in losses if losses[i] == min(losses[k] for k in losses if k <= i)]
        assert told == better
    last = torch.load(whole / "model_final.pth", weights_only=True)["model"]
    if saved["iteration"] >= 11:
        assert_same(torch.load(whole / "model_best.pth", weights_only=True)["model"], last)


def test_a_run_that_gets_no_better_ends(runs, tmp_path, capsys):
    """At a rate of 0 no evaluation is better than the first."""
    still = [*EVALUATED, METRIC, "train.patience=2", "optimizer.base_lr=0"]
    runs.train(tmp_path, *still)
    text = "ending after iteration 8 of 12: 2 evaluations gave nothing better (train.patience=2)"
    assert text in (tmp_path / "log.txt").read_text()
    assert [e["iteration"] for e in events(tmp_path, "evaluation")] == [2, 5, 8]
    assert events(tmp_path, "end")[-1]["outcome"] == "finished"
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["iteration"] == 8
    runs.train(tmp_path, *still, resume=True)
    assert "train.patience=2 has run out" in (tmp_path / "log.txt").read_text()
    runs.train(tmp_path, *still, "train.patience=3", resume=True)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 11


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_end_together(runs, tmp_path, two_processes, parallel):
    """And keep whole weights: at a rate of 0, those that the run ends with."""
    still = [*EVALUATED, METRIC, "train.patience=2", "optimizer.base_lr=0"]
    command = runs.command(tmp_path, *still, f"train.parallel={parallel}", flags=two_processes)
    code, output = runs.run(command)
    assert code == 0, output
    assert [e["iteration"] for e in events(tmp_path, "evaluation")] == [2, 5, 8]
    best, last = (
        torch.load(tmp_path / f"model_{name}.pth", weights_only=True) for name in ("best", "final")
    )
    assert (best["iteration"], last["iteration"]) == (2, 8)
    assert_same(best["model"], last["model"])
