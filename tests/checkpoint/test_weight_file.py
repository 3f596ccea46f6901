"""Files: read without running what they hold, written whole or not at all."""

import random
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from rmae_d2.checkpoint import atomic_save, convert, save_conversion
from rmae_d2.checkpoint.sharded import read_checkpoint
from rmae_d2.checkpoint.weight_file import CHECKSUM
from rmae_d2.errors import CheckpointError
from tests.checkpoint.helpers import SIZE, same

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
        save_file(WEIGHTS, path)
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


@pytest.fixture
def vit():
    return VisionTransformer(**{**SIZE, "depth": 1}, num_classes=0).state_dict()


def flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_no_flipped_bit_changes_what_is_read(tmp_path, vit, suffix):
    """A file with one wrong bit is refused, or the bit was none of its content."""
    path = tmp_path / f"flipped{suffix}"
    if suffix == ".pth":
        atomic_save(vit, str(path))
    else:
        save_conversion(convert(vit, "timm"), str(path))
    content = path.read_bytes()
    chosen = random.Random(0)
    ends = [*range(12_000), *range(8 * len(content) - 12_000, 8 * len(content))]
    bits = chosen.sample(range(8 * len(content)), 60) + chosen.sample(ends, 60)
    refused = 0
    for bit in bits:
        path.write_bytes(flipped(content, bit))
        try:
            assert same(read_checkpoint(str(path)), vit), bit
        except CheckpointError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 60
    path.write_bytes(content)
    assert same(read_checkpoint(str(path)), vit)


def test_a_bit_that_makes_a_folder_of_a_tensor(tmp_path):
    """No checksum covers it, and torch reads nothing and says nothing."""
    path = tmp_path / "folder.pth"
    torch.save(WEIGHTS, path)
    content = path.read_bytes()
    entry = content.rindex(b"folder/data/0") - 46  # of the zip's directory
    assert content[entry:].startswith(b"PK\x01\x02")
    path.write_bytes(flipped(content, 8 * (entry + 38) + 4))
    with pytest.raises(
        CheckpointError, match=r"folder\.pth: damaged: its part folder/data/0 is not"
    ):
        read_checkpoint(str(path))


def test_a_flipped_bit_of_a_weight_is_named(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(WEIGHTS, path)
    content = path.read_bytes()
    at = content.index(torch.arange(2000.0).numpy().tobytes()) + 4 * 1000 + 3
    path.write_bytes(flipped(content, 8 * at + 6))
    with pytest.raises(CheckpointError, match=r"damaged: its part a/data/0 .*another checkpoint"):
        read_checkpoint(str(path))


def test_files_without_checksums_are_read(tmp_path):
    torch.save(WEIGHTS, tmp_path / "with.pth")
    with zipfile.ZipFile(tmp_path / "with.pth") as archive:
        sums = [part.CRC for part in archive.infolist()]
    content = (tmp_path / "with.pth").read_bytes()
    for number in sums:  # as torch.serialization.set_crc32_options(False) leaves them
        content = content.replace(number.to_bytes(4, "little"), bytes(4))
    (tmp_path / "none.pth").write_bytes(content)
    assert same(read_checkpoint(str(tmp_path / "none.pth")), WEIGHTS)
    save_file(WEIGHTS, tmp_path / "none.safetensors")
    assert same(read_checkpoint(str(tmp_path / "none.safetensors")), WEIGHTS)


def test_a_converted_file_has_its_checksum(tmp_path, vit):
    path = str(tmp_path / "a.safetensors")
    save_conversion(convert(vit, "timm"), path)
    with safe_open(path, "pt") as file:
        assert len(file.metadata()[CHECKSUM]) == 64 and file.metadata()["format"] == "pt"


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a Git LFS pointer",
        ),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page"),
        (b"\xef\xbb\xbf\n  <HTML lang=en>", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
        (b"hello there, no weights at all", "not a readable weight file"),
        (b"\x80\x04}.", "not a readable weight file"),
    ],
)
def test_what_people_find_in_place_of_weights(tmp_path, suffix, content, says):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    if suffix == ".pkl" and content.startswith(b"\x80"):
        assert read_checkpoint(str(path)) == {}
        return
    with pytest.raises(CheckpointError, match=rf"x{suffix}: {says}") as error:
        read_checkpoint(str(path))
    assert "weights_only" not in str(error.value)
