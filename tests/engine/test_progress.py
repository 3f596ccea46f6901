"""What a run prints while it goes, and the traces it writes."""

import json

import pytest
import torch

from rmae_d2.engine import progress
from tests.helpers import events, records


@pytest.fixture(scope="module")
def finished(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("progress") / "run"
    watch = ("train.eval_period=3", "train.device_tflops=0.25")
    runs.train(out, "train.max_iter=8", "train.log_period=2", *watch)
    return out


def lines(out):
    return [x for x in (out / "log.txt").read_text().splitlines() if "images/s" in x]


def test_the_line(finished):
    assert len(lines(finished)) == 4
    for i, line in enumerate(lines(finished)):
        eta = ("eta: 0:00:",) if i else ()  # Detectron2 times no step before the fourth
        order = (f"iter: {2 * i + 1} ", *eta, "total_loss: ", "loss_pixel: ", "loss_region: ")
        order += ("grad_norm: ", "lr: ", " images/s", "mfu: ", "data wait: ", "memory: ", " MiB")
        places = [line.find(x) for x in order]
        assert -1 not in places and places == sorted(places), line
    assert "of 0.25 TFLOP/s (train.device_tflops)" in lines(finished)[0]


def test_files_carry_the_same_values(finished):
    """Events, Detectron2's metrics.json, TensorBoard and the line for people."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = {e["iteration"]: e["values"] for e in events(finished, "step")}
    results = {e["iteration"]: e["results"] for e in events(finished, "evaluation")}
    assert list(steps) == [1, 3, 5, 7] and list(results) == [2, 5, 8]
    assert {r.pop("iteration"): r for r in records(finished)} == {
        i: steps.get(i, {}) | results.get(i, {}) for i in sorted({*steps, *results})
    }
    board = EventAccumulator(str(finished)).Reload()
    for name in steps[7]:
        found = {e.step: pytest.approx(e.value, rel=1e-5) for e in board.Scalars(name)}
        assert found == {i: values[name] for i, values in steps.items() if name in values}
    for values, line in zip(steps.values(), lines(finished), strict=True):
        assert f"mfu: {values['mfu']:.1%}" in line
        assert f"memory: {values['memory_mib']:.0f} MiB" in line
        assert 0 <= values["data_wait"] < 1 and values["memory_mib"] > 50


def test_mfu_is_operations_over_time_and_peak(finished, runs):
    """Twice the peak is half the share, at the same images per second."""
    from detectron2.config import instantiate

    from rmae_d2.config import load_config
    from rmae_d2.engine.throughput import step_flops

    cfg = load_config(finished / "config.yaml")
    loader = instantiate(cfg.dataloader.train)
    flops = step_flops(instantiate(cfg.model), loader.preview(2))
    for step in events(finished, "step"):
        expected = flops * step["values"]["images_per_second"] / 0.25e12
        assert step["values"]["mfu"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("stored", [True, False])
def test_waiting_for_images_is_told_and_how_to_end_it(runs, tmp_path, monkeypatch, stored):
    """A limit of nothing, for how long a machine waits is not ours to say."""
    monkeypatch.setattr(progress, "DATA_WAIT_LIMIT", 0.0)
    more = ()
    if stored:
        from rmae_d2.commands import run

        store = str(tmp_path / "store")
        assert not run(
            f"regions --source fh --images {runs.photos} --output {store} --workers 0".split()
        )
        more = (f"dataloader.train.mapper.regions.path={store}",)
    runs.train(tmp_path / "run", "train.max_iter=8", "train.log_period=1", *more)
    texts = [e["text"] for e in events(tmp_path / "run", "warning")]
    told = [x for x in texts if "training waits for images" in x]
    # Values 2 to 8, of which the 1st, 2nd and 4th are told.
    assert len(told) == 3
    assert "dataloader.train.num_workers (now 0 per process)" in told[0]
    assert ("rmae-d2 regions" in told[0]) is not stored


def test_profile(runs, tmp_path):
    out = tmp_path / "run"
    runs.train(out, "train.max_iter=10", profile=True)
    path = out / "profile/trace_rank0.json"
    assert str(path) in (out / "log.txt").read_text()
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert {"aten::addmm", "Optimizer.step#AdamW.step"} & names
    assert torch.autograd.profiler._is_profiler_enabled is False
    assert "aten::_fused_adamw_" in names
