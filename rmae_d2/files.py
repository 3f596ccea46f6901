"""Files that are either whole or not there."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from typing import IO

from .errors import UserError


@contextlib.contextmanager
def atomic_file(
    path: str | os.PathLike[str], *, durable: bool = True, replace: bool = True
) -> Iterator[IO[bytes]]:
    """An open binary file that gets its name when the block ends well, and leaves no trace when it does not.

    Written beside the target, flushed to the disk, then renamed. For a remote path the storage's own put is
    atomic or not, so it is written as it is.

    Args:
        path: local, or anything Detectron2's PathManager opens.
        durable: wait for the disk; without, a power cut may leave a short file.
        replace: False leaves a file of that name as it is, without a word.

    Raises:
        UserError: where the disk is full or not writable, naming file and free space. Nothing that was there
            before is touched. Other errors of the block pass through.
    """
    name = os.fspath(path)
    if "://" in name:
        from detectron2.utils.file_io import PathManager

        with PathManager.open(name, "wb") as remote:
            yield remote
        return
    draft = f"{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with open(draft, "xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if replace or not _link(draft, name):
            os.replace(draft, name)
    except OSError as error:
        if error.errno is None or error.filename not in (None, name, draft):
            raise  # of other files that are read in the block, not of this one
        why = f"({error!s:.120}); {free_space(name)}"
        if isinstance(error, FileNotFoundError) and os.path.isdir(os.path.dirname(draft) or "."):
            why = "for something has deleted its draft meanwhile"
        raise UserError(f"{name}: could not be written {why}") from error
    finally:
        with contextlib.suppress(OSError):  # a file stands in place of the folder
            os.unlink(draft)


def is_being_written(draft: str | os.PathLike[str]) -> bool:
    """Whether a draft of :func:`atomic_file`, or of 0.1, is of another process of this machine that lives."""
    match = re.search(r"\.(?:tmp)?(\d+)(?:-[0-9a-f]{8}\.tmp)?$", os.fspath(draft))
    pid = int(match[1]) if match else os.getpid()
    return pid != os.getpid() and started(pid) is not None


def started(pid: int) -> str | None:
    """When a process of this machine began, in a form to compare; None for none, "" where nobody says."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass  # another user's
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in "ZX" else fields[19]


def _link(draft: str, name: str) -> bool:
    """Gives a draft its name unless the name is taken; False where the file system has no links."""
    try:
        os.link(draft, name)
    except FileExistsError:
        return True
    except OSError:
        return os.path.exists(name)
    return True


def free_space(path: str) -> str:
    """How much room there is where a file was to be written, in words."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return "its folder does not exist"
    return f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB are free there"
