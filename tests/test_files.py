import resource

import pytest
import torch

from rmae_d2.checkpoint import atomic_save
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.files import (
    NotAFileError,
    atomic_file,
    check_file,
    check_output,
    leads_out,
    make_folder,
    read_text,
)
from tests.helpers import SPECIAL, put_special


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


def test_a_file_size_limit(tmp_path):
    """As a full disk: the write fails midway, and is told of after the half-written file is gone."""
    path = tmp_path / "a.pth"
    atomic_save({"x": 1}, str(path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(CheckpointError) as caught:
            atomic_save({"x": torch.randn(1_000_000)}, str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    says = str(caught.value)
    assert says.startswith(f"{path}: could not be written (")
    assert "MiB are free there" in says and "max_to_keep" in says and "--resume" in says
    assert contents(tmp_path) == ["a.pth"]
    assert torch.load(path) == {"x": 1}


def test_targets_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    for name in ("absent/a.pth", "folder.pth"):
        with pytest.raises(CheckpointError, match=rf"{name}: could not be written"):
            atomic_save({"x": 1}, str(tmp_path / name))
    with pytest.raises(UserError) as caught, atomic_file(tmp_path / "absent/picture.png"):
        pass
    says = str(caught.value)
    assert "absent/picture.png: could not be written" in says and "--resume" not in says
    assert contents(tmp_path) == ["folder.pth"]


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(UserError, match="a/b: could not be written"), atomic_file(tmp_path / "a/b"):
        pass
    assert (tmp_path / "a").read_bytes() == b"mine"


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no", "photo.jpg"), OSError("no image")])
def test_errors_of_what_is_read_meanwhile_are_not_told_as_those_of_writing(tmp_path, error):
    with pytest.raises(OSError) as caught, atomic_file(tmp_path / "a"):
        raise error
    assert caught.value is error and contents(tmp_path) == []


def test_a_name_that_is_taken_may_be_left_as_it_is(tmp_path):
    for content in (b"first", b"second"):
        with atomic_file(tmp_path / "a", replace=False) as file:
            file.write(content)
    assert (tmp_path / "a").read_bytes() == b"first"
    assert contents(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_text_in_any_unicode(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("a.jpg\nü.jpg".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "a.jpg\nü.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a\nü.jpg".encode("latin-1"),
            r"line 2, byte 2: 0xfc.*Latin-1 or Windows-1252: save it as UTF-8",
        ),
        (b"PK\x03\x04\xff", "is a zip archive, not text: unpack it"),
        (b"\x1f\x8b\x08\xff", "is gzip, not text"),
        (b"ab\xff\0\0", "is not text .it has zero bytes"),
        (b"\xff\xfea", "seems to be|is not text"),
    ],
)
def test_what_is_no_unicode_is_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.txt {message}|a\.txt .*{message}"):
        read_text(tmp_path / "a.txt")


def test_a_place_to_write_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"mine")
    check_output(tmp_path / "new/folder", folder=True)
    check_output(tmp_path / "file", folder=False)
    check_output("s3://bucket/x", folder=True)
    monkeypatch.chdir(tmp_path)
    check_output("x.png", folder=False)
    for path, folder, says in [
        ("file", True, "file is a file, where a folder is needed"),
        ("file/x.png", False, "file is a file, where a folder is needed"),
        (tmp_path, False, "it is a folder, not a file"),
        ("/proc/x", True, r"--there /proc/x: cannot be written \("),
        ("/proc/x/y.png", False, "/proc/x/y.png: cannot be written"),
    ]:
        with pytest.raises(UserError, match=says):
            check_output(path, folder=folder, name="--there")
    assert contents(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"mine"


def test_a_draft_that_something_deletes(tmp_path):
    path = tmp_path / "a.pth"
    atomic_save({"x": 1}, str(path))

    class Deletes:
        def __reduce__(self):
            next(tmp_path.glob("*.tmp")).unlink()
            return (dict, ())

    with pytest.raises(CheckpointError, match="deleted its draft meanwhile.*--resume") as error:
        atomic_save(Deletes(), str(path))
    assert "room" not in str(error.value) and torch.load(path) == {"x": 1}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file(tmp_path, kind):
    put_special(tmp_path / "name", kind)
    with pytest.raises(NotAFileError) as caught:
        check_file(tmp_path / "name")
    assert caught.value.strerror == f"it is a {kind}, not a file"
    assert caught.value.filename == str(tmp_path / "name")


def test_files_absent_and_remote_ones_are_left_to_the_reader(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path / "file", tmp_path / "link", tmp_path / "absent", "s3://bucket/name"):
        check_file(path)


def test_links_that_lead_out_of_a_folder(tmp_path):
    run = tmp_path / "run"
    (run / "inner").mkdir(parents=True)
    (tmp_path / "run2").mkdir()
    for name, target in (
        ("own", "inner"),
        ("out", tmp_path / "run2"),
        ("up", ".."),
        ("loop", "loop"),
    ):
        (run / name).symlink_to(target)
    (tmp_path / "alias").symlink_to(run)
    for name in ("inner/x", "own/x", "absent", "loop"):
        assert not leads_out(run / name, run)
        assert not leads_out(tmp_path / "alias" / name, tmp_path / "alias")
    for name in ("out", "out/x", "up/x", "../x"):
        assert leads_out(run / name, run)


def test_a_folder_that_cannot_be_made(tmp_path):
    make_folder(tmp_path / "a/b")
    make_folder(tmp_path / "a/b")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/b cannot be made .*Not a directory"):
        make_folder(tmp_path / "file/b")
