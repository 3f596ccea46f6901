"""The checkpoints of a run's folder: found, ordered, pruned, restored; of FSDP, see test_parallel.py."""

import os
import random
import subprocess

import pytest
import torch
from torch import nn

from rmae_d2.engine import Checkpointer
from rmae_d2.engine.checkpointer import holds_run
from rmae_d2.errors import CheckpointError


class Part:
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_saves_and_restores_parts(tmp_path):
    model = nn.Linear(2, 2)
    written = Checkpointer(model, str(tmp_path), part=Part(5)).save("model_0000007", 7)
    assert written == tmp_path / "model_0000007.pth"
    other, part = nn.Linear(2, 2), Part(0)
    assert Checkpointer(other, str(tmp_path), part=part).resume()[1] == 8
    assert torch.equal(model.weight, other.weight) and part.value == 5


def test_orders_by_number_not_by_name(tmp_path):
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    for iteration in (999_999_9, 100_000_00, 5):
        checkpointer.save(f"model_{iteration:07d}", iteration)
    names = [path.name for path in checkpointer.numbered()]
    assert names == ["model_10000000.pth", "model_9999999.pth", "model_0000005.pth"]
    assert checkpointer.candidates()[0].name == "model_0000005.pth"  # the marked one


def test_ignores_what_it_did_not_write(tmp_path):
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    (tmp_path / "model_best.pth").write_bytes(b"mine")
    (tmp_path / "model_12.pth").write_bytes(b"mine")
    assert checkpointer.resume() is None
    for iteration in range(3):
        checkpointer.save(f"model_{iteration:07d}", iteration)
        checkpointer.prune(1, iteration)
    checkpointer.sweep()
    names = sorted(path.name for path in tmp_path.glob("model*"))
    assert names == ["model_0000002.pth", "model_12.pth", "model_best.pth"]


def test_a_folder_that_may_not_write(tmp_path):
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path / "absent"))
    with pytest.raises(CheckpointError, match="could not be written.*--resume"):
        checkpointer.save("model_0000000", 0)


@pytest.fixture
def saved(tmp_path):
    """Two whole checkpoints, by what they hold: the iteration, and weights that are as many."""
    model = nn.Linear(8, 8)
    checkpointer = Checkpointer(model, str(tmp_path), part=Part(torch.arange(99.0)))
    for iteration in (5, 7):
        nn.init.constant_(model.weight, iteration)
        checkpointer.save(f"model_{iteration:07d}", iteration)
    return tmp_path


def resume(folder):
    """The iteration that a run continues after; what it restored is asserted to be that one's."""
    model, part = nn.Linear(8, 8), Part(None)
    _, start = Checkpointer(model, str(folder), part=part).resume()
    assert torch.equal(model.weight, torch.full((8, 8), float(start - 1)))
    assert torch.equal(part.value, torch.arange(99.0))
    return start - 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff\xfe\x00\x80 binary",
        b"model_\x00.pth",
        b"x" * 300,
        b"x" * 10_000_000,
        "\u00e4".encode() * 200,
        b"model_0000005.pth\nmodel_0000007.pth",
        b"../elsewhere/model_0000009.pth",
        b"/etc/passwd",
        b"..",
        b"absent.pth",
        None,
    ],
    ids=lambda content: repr(content)[:20],
)
def test_a_damaged_last_checkpoint(saved, content, caplog):
    """The newest one is taken, and it is said that it was looked for."""
    marker = saved / "last_checkpoint"
    if content is None:
        marker.unlink()
        marker.mkdir()
    else:
        marker.write_bytes(content)
    assert resume(saved) == 7 and holds_run(saved)
    assert f"{marker} " in caplog.text and "looking for the newest" in caplog.text
    if content is not None:
        marker.write_bytes(b" model_0000005.pth\n")
        caplog.clear()
        assert resume(saved) == 5 and "looking for" not in caplog.text


def test_no_flipped_bit_is_resumed(saved):
    """A checkpoint with one wrong bit is passed over, or the bit was none of its content."""
    newest = saved / "model_0000007.pth"
    content = newest.read_bytes()
    chosen = random.Random(0)
    passed = 0
    for bit in chosen.sample(range(8 * len(content)), 60):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        newest.write_bytes(damaged)
        passed += resume(saved) == 5
    assert passed > 20
    newest.write_bytes(content)
    assert resume(saved) == 7


@pytest.mark.parametrize(
    "content",
    [
        [1],
        torch.ones(2),
        "text",
        None,
        {},
        {1: 2, None: torch.ones(1)},
        {"model": {}, "part": {}, "iteration": "seven"},
        {"model": {"weight": torch.full((8, 8), torch.nan)}, "part": {}, "iteration": 7},
        {"model": {0: torch.tensor(torch.inf)}, "part": {}, "iteration": 7},
        {"model": {}, "ema": {"a": torch.tensor(torch.inf)}, "part": {}, "iteration": 7},
    ],
)
def test_what_is_no_state_to_go_on_from_is_passed_over(saved, content, caplog):
    torch.save(content, saved / "model_0000007.pth")
    assert resume(saved) == 5
    assert "model_0000007.pth: " in caplog.text and "trying an earlier checkpoint" in caplog.text


@pytest.mark.parametrize("model", [[1], {1: torch.ones(1)}, {"weight": 3}, 7])
def test_a_model_that_is_none_is_one_error(saved, model):
    state = {"model": model, "part": {"value": torch.arange(99.0)}, "iteration": 7}
    torch.save(state, saved / "model_0000007.pth")
    with pytest.raises(CheckpointError, match=r"model_0000007\.pth: was written by another model"):
        resume(saved)


def test_the_sweep_leaves_what_a_living_process_writes(saved):
    with subprocess.Popen(["sleep", "60"]) as living:
        dead = subprocess.Popen(["true"])
        dead.wait()
        names = [
            "model_0000009.pth.tmp{}",  # 0.1
            "model_0000009.pth.{}-0123abcd.tmp",
            "backbone_final.pth.{}-0123abcd.tmp",
            "last_checkpoint.{}-0123abcd.tmp",
        ]
        for name in names:
            for pid in (living.pid, dead.pid, os.getpid()):
                (saved / name.format(pid)).touch()
        (saved / "model_0000009.pth.0123abcd.tmp").touch()
        before = {p.name for p in saved.iterdir() if "tmp" not in p.name}
        Checkpointer(nn.Linear(8, 8), str(saved)).sweep()
        left = {name.format(living.pid) for name in names}
        assert {p.name for p in saved.iterdir()} == before | left
        living.kill()
    Checkpointer(nn.Linear(8, 8), str(saved)).sweep()
    assert {p.name for p in saved.iterdir()} == before


def test_what_counts_as_a_run(saved, tmp_path):
    assert holds_run(saved)
    (saved / "last_checkpoint").unlink()
    assert holds_run(saved)
    for path in saved.glob("model_*"):
        path.unlink()
    (saved / "model_best.pth").touch()
    assert not holds_run(saved) and not holds_run(tmp_path / "absent")
