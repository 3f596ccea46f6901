"""The checkpoints of a run's folder: found, ordered, pruned, restored; of FSDP, see test_parallel.py."""

import pytest
import torch
from torch import nn

from rmae_d2.engine import Checkpointer
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
