"""Checkpoints as folders, by one process; several are in tests/engine/test_parallel."""

import random

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from rmae_d2.checkpoint.sharded import (
    read_checkpoint,
    read_sharded,
    remove_checkpoint,
    save_sharded,
)
from rmae_d2.errors import CheckpointError

WEIGHT = torch.arange(12.0).view(4, 3)


@pytest.fixture
def saved(tmp_path):
    """A folder of one process, whose group the fixture of all modules ends."""
    if not dist.is_initialized():
        dist.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
        )
    sharded = distribute_tensor(WEIGHT, init_device_mesh("cpu", (1,)))
    content = {"model": {"a.b": sharded, "c": torch.ones(2)}, "optimizer": {3: {"step": 7}}}
    save_sharded(content, str(tmp_path / "model_0"))
    return tmp_path / "model_0"


def test_a_process_alone_reads_whole_tensors(saved):
    content = read_checkpoint(str(saved))
    assert (
        torch.equal(content["model"]["a.b"], WEIGHT)
        and type(content["model"]["a.b"]) is torch.Tensor
    )
    assert torch.equal(content["model"]["c"], torch.ones(2))
    assert content["optimizer"] == {3: {"step": 7}}
    assert not saved.with_name("model_0.tmp").exists()


def test_processes_read_their_shards(saved):
    found = read_sharded(str(saved), init_device_mesh("cpu", (1,)))["model"]["a.b"]
    assert isinstance(found, DTensor) and torch.equal(found.full_tensor(), WEIGHT)


def test_saving_again_replaces_the_folder(saved):
    (saved / "left.over").touch()
    save_sharded({"model": {"c": torch.zeros(2)}}, str(saved))
    assert not (saved / "left.over").exists()
    assert torch.equal(read_sharded(str(saved))["model"]["c"], torch.zeros(2))


def test_files_that_are_missing_or_cut(saved):
    shard = next(saved.glob("*.distcp"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-3])
    size = len(content)
    with pytest.raises(CheckpointError, match=rf"distcp is {size - 3} bytes, of {size} bytes"):
        read_sharded(str(saved))
    shard.unlink()
    with pytest.raises(CheckpointError, match="distcp is missing"):
        read_sharded(str(saved))
    shard.write_bytes(bytes(size))
    with pytest.raises(CheckpointError, match=r"distcp is damaged \(checksum\)"):
        read_sharded(str(saved))
    (saved / "state.pth").unlink()
    with pytest.raises(CheckpointError, match=r"it has no state\.pth"):
        read_sharded(str(saved), init_device_mesh("cpu", (1,)))


def test_no_flipped_bit_changes_what_is_read(saved):
    """Neither in the shards, nor in what says where they are."""
    chosen = random.Random(0)
    for name in [file.name for file in saved.iterdir()]:
        content = (saved / name).read_bytes()
        for bit in chosen.sample(range(8 * len(content)), 20):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            (saved / name).write_bytes(damaged)
            try:
                found = read_sharded(str(saved))
            except CheckpointError:
                continue
            assert name == "state.pth"  # a zip, which has room between its parts
            assert torch.equal(found["model"]["a.b"], WEIGHT), (name, bit)
            assert torch.equal(found["model"]["c"], torch.ones(2)) and found["optimizer"]
        (saved / name).write_bytes(content)
    assert torch.equal(read_sharded(str(saved))["model"]["a.b"], WEIGHT)


def test_a_folder_of_0_1_has_no_hashes(saved):
    state = torch.load(saved / "state.pth", weights_only=True)
    assert sorted(state["sha256"]) == sorted(state["files"]) != []
    del state["sha256"]
    torch.save(state, saved / "state.pth")
    assert torch.equal(read_sharded(str(saved))["model"]["a.b"], WEIGHT)
    torch.save([1], saved / "state.pth")
    with pytest.raises(CheckpointError, match=r"its state\.pth is something else"):
        read_sharded(str(saved))


def test_removing(saved, tmp_path):
    (tmp_path / "file.pth").touch()
    for path in (saved, tmp_path / "file.pth", tmp_path / "gone.pth"):
        remove_checkpoint(path)
    assert [x.name for x in tmp_path.iterdir() if "model" in x.name or ".pth" in x.name] == []
