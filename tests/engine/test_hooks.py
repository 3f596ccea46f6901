"""Learning rate, which needs no run, and pictures, which do."""

import logging
import math

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.engine import LRSchedule, Trainer, hooks
from rmae_d2.solver import scaled_adamw
from rmae_d2.visualization.samples import keep_sample, kept_samples
from tests.helpers import events


def mae_rate(step, steps, warmup):
    """MAE's adjust_learning_rate in per-iteration form: a linear rise, then half a cosine to 0."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@pytest.mark.parametrize("max_iter", [600, 115_515, 144_000])
def test_schedule_is_maes(max_iter):
    multiplier = instantiate(get_config("common/schedule.py").lr_multiplier)
    steps = range(0, max_iter, max(1, max_iter // 3000))
    for step in (*steps, max_iter // 12, max_iter // 12 + 1, max_iter - 1):
        expected = mae_rate(step, max_iter, max_iter / 12)
        assert multiplier(step / max_iter) == pytest.approx(expected, abs=1e-12)


def test_imagenet_warms_up_for_40_epochs():
    cfg = get_config("pretrain/rmae_vitb_imagenet.py")
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(20 / 800) == pytest.approx(0.5, abs=1e-12)
    assert multiplier(400 / 800) == pytest.approx(mae_rate(400, 800, 40), abs=1e-12)


def rates(max_iter):
    """What the hook sets in a loop without training; two groups, one at half the rate."""
    cfg = apply_overrides(get_config("demo/rmae_tiny_scenes.py"), [f"train.max_iter={max_iter}"])
    groups = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.ones(1))]}]
    optimizer = torch.optim.SGD(groups, lr=2.0)
    optimizer.param_groups[1]["lr"] = 1.0

    class Loop(Trainer):
        def __init__(self):
            super().__init__(nn.Identity(), iter(()), optimizer, device=torch.device("cpu"))
            self.seen = []

        def run_step(self):
            self.seen.append([group["lr"] for group in self.optimizer.param_groups])
            assert self.storage.latest()["lr"][0] == max(self.seen[-1])

    loop = Loop()
    loop.register_hooks([LRSchedule(optimizer, instantiate(cfg.lr_multiplier))])
    loop.train(0, cfg.train.max_iter)
    return loop.seen


@pytest.mark.parametrize("max_iter", [24, 120])
def test_max_iter_moves_the_whole_schedule(max_iter):
    seen = rates(max_iter)
    assert len(seen) == max_iter
    for step, (first, second) in enumerate(seen):
        assert first == pytest.approx(2 * mae_rate(step, max_iter, max_iter / 12), abs=1e-12)
        assert second == first / 2


def test_the_rate_follows_the_batch(caplog):
    parameters = [{"params": [nn.Parameter(torch.zeros(2))], "weight_decay": 0.0}]
    with caplog.at_level(logging.INFO, logger="rmae_d2"):
        optimizer = scaled_adamw(parameters, base_lr=1e-4, batch_size=4096)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.6e-3)
    assert optimizer.param_groups[0]["weight_decay"] == 0.0
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    assert "base 0.0001 per 256 images, actual 0.0016 for batches of 4096" in caplog.text


@pytest.mark.slow
def test_pictures_over_a_run_that_is_interrupted_and_resumed(runs, tmp_path, monkeypatch):
    watch = ("train.vis_period=2", "train.checkpointer.period=5")
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    # Of a run that ended before its first checkpoint.
    (straight / "samples").mkdir(parents=True)
    (straight / "samples/reconstruction_0000999.png").write_bytes(b"")
    runs.train(straight, *watch)
    expected = kept_samples(straight)
    assert list(expected) == [2, 4, 8, 12, 16, 20, 24]  # 12 pictures would be too many

    def interrupted(folder, picture, done, period):
        keep_sample(folder, picture, done, period)
        if done == 14:
            raise KeyboardInterrupt

    monkeypatch.setattr(hooks, "keep_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.train(stopped, *watch)
    monkeypatch.undo()
    assert not (stopped / "reconstruction.png").exists()
    (stopped / "samples/reconstruction_0000014.tmp1").write_bytes(b"cut")
    runs.train(stopped, *watch, resume=True)
    (resume,) = events(stopped, "resume")
    assert resume["iteration"] == 10 and "failed: KeyboardInterrupt" in resume["before"]
    assert "3 iterations are trained again" in resume["before"]
    found = sorted((stopped / "samples").iterdir())
    assert [path.name for path in found] == [path.name for path in expected.values()]
    for path, same in zip(found, expected.values(), strict=True):
        assert path.read_bytes() == same.read_bytes()


def test_a_picture_that_cannot_be_kept_does_not_end_the_run(runs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/samples").write_text("in the way")
    runs.train(tmp_path / "run", "train.vis_period=2", "train.max_iter=3")
    told = [e["text"] for e in events(tmp_path / "run", "warning")]
    assert any(x.startswith("the picture after 2 iterations could not be kept") for x in told)
    assert (tmp_path / "run/reconstruction.png").exists()
