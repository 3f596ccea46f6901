"""A run's folder: created, restricted to one training at a time, and removed if nothing came of the run.

Its ``run.lock`` says which process trains there, on which machine and since when. It is a plain file that
only one process can create, not a system lock, which many network storages lack. A process on this machine is
looked up; one on another machine is observed: while alive, it touches the file every ``BEAT`` seconds.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from ..errors import UserError
from ..files import started
from .run_events import stop_listening

logger = logging.getLogger(__name__)

LOCK = "run.lock"
#: Seconds between touches, and without one, after which another machine's process counts as dead.
BEAT, LIMIT = 10.0, 60.0
POLL = 1.0


class RunFolder:
    """The result of `claim`; call ``keep`` once training has begun."""

    def __init__(self) -> None:
        self.begun = False

    def keep(self) -> None:
        """From here on, a failure leaves the folder in place."""
        self.begun = True


@contextlib.contextmanager
def claim(folder: str, lock: bool) -> Iterator[RunFolder]:
    """Create the folder; called by all processes of a run together.

    If the block fails before ``keep``, the folder is removed again, unless it existed before.

    Args:
        folder: ``train.output_dir``.
        lock: whether to lock the folder for training while the block runs.

    Raises:
        UserError: in all processes, if another training is running there.
    """
    path = Path(folder).absolute()
    held = _Lock(path / LOCK) if lock and comm.is_main_process() else None
    made: list[Path] = []
    message = None
    if comm.is_main_process():
        try:
            made = _make(path)
            if held:
                held.acquire()
        except UserError as error:
            message = str(error)
        except OSError as error:
            message = f"{folder}: cannot be made ({error}). Choose another train.output_dir"
    made, message = comm.all_gather((made, message))[0]
    if message:
        raise UserError(message)
    run = RunFolder()
    try:
        yield run
    except BaseException:
        others = not lock and (path / LOCK).exists()  # another process has begun training there
        if made and not run.begun and not others:
            _take_back(made)
        raise
    finally:
        if held:
            held.release()


def _make(path: Path) -> list[Path]:
    """Create a folder; return what was created for it, the folder first, or nothing if it existed."""
    absent = [p for p in (path, *path.parents) if not p.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
        return []  # also if another start was faster, which then owns the folder
    return absent


def _take_back(made: list[Path]) -> None:
    stop_listening()
    shutil.rmtree(made[0], ignore_errors=True)
    for parent in made[1:]:
        with contextlib.suppress(OSError):  # somebody else has put something there
            parent.rmdir()


class _Lock:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = json.dumps(
            {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "started": started(os.getpid()),
                "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "machine": _machine(),
                "token": secrets.token_hex(8),
            }
        ).encode()
        self._ended = threading.Event()

    def acquire(self) -> None:
        while not self._create():
            found = self._read()
            if not found:  # only just being written, or just removed
                time.sleep(POLL)
                found = self._read()
            if found is not None:
                owner = _parse(found)
                if self._is_alive(found, owner):
                    raise UserError(self._refusal(owner))
                self._take_away(found)
        threading.Thread(target=self._touch, name="lock", daemon=True).start()

    def _create(self) -> bool:
        """Write the lock if there is none; of several simultaneous attempts, only one succeeds."""
        try:
            with open(self.path, "xb") as file:
                file.write(self._own)
        except FileExistsError:
            return False
        except OSError as error:
            with contextlib.suppress(OSError):  # partial file on a full disk
                self.path.unlink()
            folder = self.path.parent
            raise UserError(f"{folder}: nothing can be written there ({error!s:.120})") from error
        return True

    def release(self) -> None:
        self._ended.set()
        if self._read() == self._own:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _read(self) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return self.path.read_bytes()
        return None

    def _refusal(self, owner: dict[str, Any]) -> str:
        return (
            f"{self.path.parent}: a training is under way there, process {owner.get('process')} on "
            f"{owner.get('host')} since {owner.get('time')}. Wait for its end or stop it, or choose another "
            f"train.output_dir. (If it is no more, delete {self.path})"
        )

    def _is_alive(self, found: bytes, owner: dict[str, Any]) -> bool:
        pid = owner.get("process")
        if owner.get("machine") == _machine() and isinstance(pid, int):
            now = started(pid)
            if now != "":
                return now is not None and now == owner.get("started")
        logger.warning(
            "%s is of process %s on %s: waiting up to %g s for a sign that it lives",
            *(self.path, pid, owner.get("host"), LIMIT),
        )
        return self._is_touched(found)

    def _is_touched(self, found: bytes) -> bool:
        """Whether the lock is touched within the limit; False also if it disappears or is replaced."""
        begun, before = time.monotonic(), self._touched()
        while time.monotonic() - begun < LIMIT:
            time.sleep(POLL)
            now = self._touched()
            if now is None or self._read() != found:
                return False
            if now != before:
                return True
        return False

    def _touched(self) -> int | None:
        try:
            with open(self.path, "rb") as file:  # opening makes a network storage refresh
                return os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def _take_away(self, found: bytes) -> None:
        """Remove a stale lock.

        Only one process at a time may try: otherwise a slower one would remove a faster one's new lock.
        """
        turn = self.path.with_name(f"{LOCK}.{hashlib.sha256(found).hexdigest()[:8]}.tmp")
        begun = time.monotonic()
        while True:
            try:
                open(turn, "x").close()
                break
            except FileExistsError:
                if self._read() != found:
                    return
                if time.monotonic() - begun > LIMIT:  # left by a process that was killed here
                    turn.unlink(missing_ok=True)
                time.sleep(POLL / 10)
        if self._read() == found:
            self.path.unlink(missing_ok=True)
        turn.unlink(missing_ok=True)

    def _touch(self) -> None:
        try:
            with open(self.path, "rb") as file:
                while not self._ended.wait(BEAT):
                    with contextlib.suppress(OSError):  # storage that does not respond now
                        os.utime(file.fileno())
        except OSError:
            logger.warning("%s is gone: another training may begin in its folder", self.path)


def _machine() -> str:
    """A name never shared by two machines, or by containers that cannot see each other's processes."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _parse(found: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(found)
    except ValueError:
        owner = None
    return owner if isinstance(owner, dict) else {}
