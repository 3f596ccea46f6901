"""One training at a time in a folder: who holds it, and who is taken for gone."""

import json
import os
import subprocess
import threading
import time

import pytest

from rmae_d2.engine import run_folder
from rmae_d2.engine.run_folder import LOCK, claim
from rmae_d2.errors import UserError
from rmae_d2.files import started


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    for name, seconds in (("BEAT", 0.1), ("LIMIT", 1.0), ("POLL", 0.1)):
        monkeypatch.setattr(run_folder, name, seconds)


def held(folder, **changes):
    """The lock of another process, as it would have written it; ``sleep`` is that process."""
    with claim(str(folder), lock=True):
        owner = json.loads((folder / LOCK).read_text())
    owner |= changes
    (folder / LOCK).write_text(json.dumps(owner))
    return owner


def test_a_folder_is_held_and_released(tmp_path):
    with claim(str(tmp_path), lock=True) as run:
        owner = json.loads((tmp_path / LOCK).read_text())
        assert owner["process"] == os.getpid() and owner["host"] in owner["machine"]
        says = rf"under way there, process {os.getpid()} on .* since 20"
        with pytest.raises(UserError, match=says), claim(str(tmp_path), lock=True):
            pass
        assert json.loads((tmp_path / LOCK).read_text()) == owner
        with claim(str(tmp_path), lock=False):  # an evaluation
            pass
        run.keep()
    assert list(tmp_path.iterdir()) == []


def test_an_error_releases_it_too(tmp_path):
    with pytest.raises(LookupError), claim(str(tmp_path / "a/b"), lock=True):
        (tmp_path / "a/b/log.txt").touch()
        raise LookupError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LookupError), claim(str(tmp_path / "a/b"), lock=True) as run:
        (tmp_path / "a/b/log.txt").touch()
        run.keep()
        raise LookupError
    assert [p.name for p in (tmp_path / "a/b").iterdir()] == ["log.txt"]


def test_a_process_of_this_machine_is_looked_up(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as process:
        held(tmp_path, process=process.pid, started=started(process.pid))
        says = f"process {process.pid} on"
        with pytest.raises(UserError, match=says), claim(str(tmp_path), lock=True):
            pass
        process.kill()
    with claim(str(tmp_path), lock=True):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_a_number_that_another_process_has_got_since(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as process:
        held(tmp_path, process=process.pid, started="1")
        with claim(str(tmp_path), lock=True):
            pass
        process.kill()


def test_a_process_of_another_machine_is_watched(tmp_path, caplog):
    held(tmp_path, machine="another", host="node7", process=12)
    ended = threading.Event()

    def live():
        while not ended.wait(0.1):
            os.utime(tmp_path / LOCK)

    alive = threading.Thread(target=live)
    alive.start()
    with pytest.raises(UserError, match="process 12 on node7"), claim(str(tmp_path), lock=True):
        pass
    ended.set()
    alive.join()
    assert "is of process 12 on node7: waiting up to" in caplog.text
    with claim(str(tmp_path), lock=True):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_who_trains_touches_its_lock(tmp_path):
    with claim(str(tmp_path), lock=True):
        os.utime(tmp_path / LOCK, (1, 1))
        end = time.monotonic() + 60
        while (tmp_path / LOCK).stat().st_mtime == 1:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[1]", b'{"process": "x"}'])
def test_a_damaged_lock_holds_nobody_up_for_long(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with claim(str(tmp_path), lock=True):
        assert json.loads((tmp_path / LOCK).read_bytes())["process"] == os.getpid()


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_at_once_one_gets_it(tmp_path, stale):
    for _ in range(10):
        if stale:
            held(tmp_path, started="1", process=2**22 + 1)
        together, got, refused = threading.Barrier(8), [], []

        def begin(together=together, got=got, refused=refused):
            lock = run_folder._Lock(tmp_path / LOCK)
            together.wait()
            try:
                lock.acquire()
                got.append(lock)
            except UserError:
                refused.append(lock)

        threads = [threading.Thread(target=begin) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(got), len(refused)) == (1, 7)
        got[0].release()
        assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_no_longer_ones_own_is_left(tmp_path):
    with claim(str(tmp_path), lock=True):
        (tmp_path / LOCK).write_bytes(b"of another")
    assert (tmp_path / LOCK).read_bytes() == b"of another"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="file/run: cannot be made"),
        claim(str(tmp_path / "file/run"), True),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_evaluation_that_fails_takes_no_training_s_folder_away(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(LookupError), claim(str(folder), lock=False):
        (folder / LOCK).touch()
        raise LookupError
    assert [p.name for p in folder.iterdir()] == [LOCK]
