"""Files: read without running what they hold, written whole or not at all."""

import pytest
import torch

from rmae_d2.checkpoint import atomic_save
from rmae_d2.checkpoint.sharded import read_checkpoint
from rmae_d2.errors import CheckpointError

WEIGHTS = {"a": torch.arange(2000.0), "b": torch.ones(3, 4)}


def test_what_is_saved_is_read(tmp_path):
    path = tmp_path / "a.pth"
    path.write_text("old")
    atomic_save({"model": WEIGHTS, "iteration": 3}, str(path))
    found = read_checkpoint(f"{path}?matching_heuristics=True")
    assert found["iteration"] == 3 and torch.equal(found["model"]["a"], WEIGHTS["a"])
    assert [x.name for x in tmp_path.iterdir()] == ["a.pth"]


def test_a_place_where_nothing_can_be_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone/a\.pth.*Earlier checkpoints are untouched"):
        atomic_save(WEIGHTS, str(tmp_path / "gone" / "a.pth"))


def test_a_file_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = str(tmp_path / "evil.pth")
    torch.save({"model": {}, "x": Evil()}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pth: not a readable weight file"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short(tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(WEIGHTS, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(WEIGHTS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=rf"cut{suffix}: not a readable .* cut short"):
        read_checkpoint(str(path))


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", "absent/x.pth?matching=1"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(CheckpointError, match="no such weight file"):
        read_checkpoint(str(tmp_path / name))


def test_an_address_that_does_not_answer():
    with pytest.raises(CheckpointError, match="127.0.0.1:9/x.pth"):
        read_checkpoint("http://127.0.0.1:9/x.pth")
