"""The folder of what was fetched: whole entries, a bound, several processes, damage."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rmae_d2.disk_cache import DiskCache, disk_cache
from rmae_d2.errors import UserError
from tests.helpers import ROOT


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def test_what_is_put_is_there_for_the_next_process(tmp_path):
    DiskCache(str(tmp_path), 1 << 20).put("a", b"content")
    assert DiskCache(str(tmp_path), 1 << 20).get("a") == b"content"
    assert DiskCache(str(tmp_path), 1 << 20).get("b") is None


@pytest.mark.parametrize("damage", [b"", b"short", b"0" * 23, b"\0" * 1000])
def test_a_damaged_entry_is_none(tmp_path, damage):
    cache = DiskCache(str(tmp_path), 1 << 20)
    cache.put("a", b"content")
    (path,) = files(tmp_path)
    path.write_bytes(damage)
    assert cache.get("a") is None
    cache.put("a", b"content")
    assert cache.get("a") == b"content"


def test_the_least_recently_used_go_first(tmp_path):
    cache = DiskCache(str(tmp_path), 64_000)
    for k in range(50):
        cache.put(str(k), bytes(1000))
        for path in files(tmp_path):  # as if each had come a second after the one before
            status = path.stat()
            os.utime(path, ns=(0, status.st_mtime_ns - 10**9))
        assert cache.get("0") is not None
    for k in range(50, 200):
        cache.put(str(k), bytes(1000))
        for path in files(tmp_path):
            status = path.stat()
            os.utime(path, ns=(0, status.st_mtime_ns - 10**9))
        assert cache.get("0") is not None
        assert used(tmp_path) <= 64_000
    there = [k for k in range(1, 200) if cache.get(str(k)) is not None]
    assert there == list(range(there[0], 200)) and 50 <= len(there) <= 63


def test_whole_files_have_paths_and_count(tmp_path):
    cache = DiskCache(str(tmp_path), 10_000)
    path = cache.file("a", 4000, [b"x" * 2000, b"y" * 2000], ".pth")
    assert path.endswith(".pth") and Path(path).read_bytes() == b"x" * 2000 + b"y" * 2000

    def unasked():
        raise AssertionError("it is there")
        yield b""

    assert cache.file("a", 4000, unasked(), ".pth") == path
    Path(path).write_bytes(b"cut")
    cache.file("a", 4000, [b"z" * 4000], ".pth")
    assert Path(path).read_bytes() == b"z" * 4000
    cache.file("b", 9000, [b"b" * 9000])
    assert not Path(path).exists() and used(tmp_path) == 9000
    with pytest.raises(UserError, match=r"do not fit into the cache .*RMAE_D2_CACHE_SIZE"):
        cache.file("c", 10_001, unasked())


def test_an_interrupted_download_leaves_nothing(tmp_path):
    def failing():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DiskCache(str(tmp_path), 10_000).file("a", 8, failing())
    assert files(tmp_path) == []


WRITER = """
import sys
from rmae_d2.disk_cache import DiskCache
cache = DiskCache(sys.argv[1], 200_000)
for turn in range(3):
    for k in range(100):
        content = str(k).encode() * (1000 + k)
        found = cache.get(str(k))
        assert found in (None, content), k
        if found is None:
            cache.put(str(k), content)
"""


def test_processes_share_it(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert 100_000 < used(tmp_path) <= 200_000
    assert all(len(path.name) == 40 for path in files(tmp_path))  # no drafts


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = DiskCache(str(tmp_path / "file"), 10_000)
    cache.put("a", b"1")
    cache.put("b", b"2")
    assert cache.get("a") is None
    assert [r.getMessage() for r in caplog.records if "RMAE_D2_CACHE names" in r.getMessage()] != []
    assert len(caplog.records) == 1
    with pytest.raises(UserError, match="cannot be written"):
        cache.file("a", 1, [b"1"])


def test_the_environment_says_where_and_how_large(tmp_path, monkeypatch):
    monkeypatch.setenv("RMAE_D2_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("RMAE_D2_CACHE_SIZE", "0.5")
    assert (disk_cache().folder, disk_cache().limit) == (str(tmp_path / "here"), 2**29)
    monkeypatch.delenv("RMAE_D2_CACHE")
    monkeypatch.delenv("RMAE_D2_CACHE_SIZE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (disk_cache().folder, disk_cache().limit) == (str(tmp_path / "rmae_d2"), 10 * 2**30)
    for size in ("ten", "-1", "nan", "inf"):
        monkeypatch.setenv("RMAE_D2_CACHE_SIZE", size)
        with pytest.raises(UserError, match="give GiB"):
            disk_cache()


def test_a_size_of_0_keeps_nothing(tmp_path):
    cache = DiskCache(str(tmp_path), 0)
    cache.put("a", b"1")
    assert files(tmp_path) == []
