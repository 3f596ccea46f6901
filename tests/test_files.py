import contextlib
import os
import resource
import subprocess

import pytest
import torch

from rmae_d2.checkpoint import atomic_save
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.files import atomic_file


class Bomb:
    """Raises when it is serialised, after other things have been written."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


def contents(folder):
    return sorted(p.name for p in folder.iterdir())


def test_saves_and_replaces(tmp_path):
    path = tmp_path / "a.pth"
    for value in (1, 2):
        atomic_save({"x": torch.tensor(value)}, str(path))
        assert torch.load(path)["x"] == value
    assert contents(tmp_path) == ["a.pth"]


def test_a_name_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atomic_save([1], "a.pth")
    assert torch.load("a.pth") == [1]


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize(
    "error", [ValueError, RuntimeError, TypeError, KeyboardInterrupt, MemoryError]
)
def test_an_interrupted_write_leaves_no_trace(tmp_path, existed, error):
    path = tmp_path / "a.pth"
    if existed:
        atomic_save({"x": 1}, str(path))
    expected = CheckpointError if error is RuntimeError else error
    with pytest.raises(expected):
        atomic_save({"big": torch.zeros(100_000), "bomb": Bomb(error("halfway"))}, str(path))
    assert contents(tmp_path) == (["a.pth"] if existed else [])
    if existed:
        assert torch.load(path) == {"x": 1}


@contextlib.contextmanager
def small_disk(folder):
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(tmp_path):
    folder = tmp_path / "small"
    with small_disk(folder):
        path = folder / "model_0001.pth"
        atomic_save({"x": torch.zeros(1000)}, str(path))
        with pytest.raises(CheckpointError) as caught:
            atomic_save({"x": torch.randn(1_000_000)}, str(path))
        says = str(caught.value)
        assert says.startswith(f"{path}: could not be written (")
        # Told after the half-written file is gone again: of 1 MiB, nearly all.
        assert "; 1 MiB are free there" in says
        assert "max_to_keep" in says and "--resume" in says
        assert contents(folder) == ["model_0001.pth"]
        assert torch.equal(torch.load(path)["x"], torch.zeros(1000))


def test_a_file_size_limit(tmp_path):
    """As a full disk, where mounting is not permitted: the write fails midway."""
    path = tmp_path / "a.pth"
    atomic_save({"x": 1}, str(path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(CheckpointError, match="could not be written"):
            atomic_save({"x": torch.randn(1_000_000)}, str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == ["a.pth"]
    assert torch.load(path) == {"x": 1}


def test_a_folder_that_is_not_there(tmp_path):
    path = str(tmp_path / "absent/a.pth")
    with pytest.raises(CheckpointError, match=r"absent/a\.pth: could not be written"):
        atomic_save({"x": 1}, path)
    assert not os.path.exists(os.path.dirname(path))


def test_a_target_that_is_a_folder(tmp_path):
    (tmp_path / "a.pth").mkdir()
    with pytest.raises(CheckpointError, match="could not be written"):
        atomic_save({"x": 1}, str(tmp_path / "a.pth"))
    assert contents(tmp_path) == ["a.pth"]


def test_what_is_no_checkpoint_gives_no_advice_on_training(tmp_path):
    with pytest.raises(UserError) as caught, atomic_file(tmp_path / "absent/picture.png"):
        pass
    says = str(caught.value)
    assert "absent/picture.png: could not be written" in says and "--resume" not in says


def test_a_name_that_is_taken_may_be_left_as_it_is(tmp_path):
    for content in (b"first", b"second"):
        with atomic_file(tmp_path / "a", replace=False) as file:
            file.write(content)
    assert (tmp_path / "a").read_bytes() == b"first"
    assert contents(tmp_path) == ["a"]
