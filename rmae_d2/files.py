"""Files that are either whole or not there."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
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
    draft = f"{name}.{secrets.token_hex(4)}.tmp"
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
        raise UserError(
            f"{name}: could not be written ({error!s:.120}); {free_space(name)}"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a file stands in place of the folder
            os.unlink(draft)


def _link(draft: str, name: str) -> bool:
    """Gives a draft its name unless the name is taken; False where the file system has no links."""
    try:
        os.link(draft, name)
    except FileExistsError:
        return True
    except OSError:
        return os.path.exists(name)
    return True


def check_output(path: str | os.PathLike[str], *, folder: bool, name: str = "--output") -> None:
    """Refuses a place that cannot be written to, before any work is done; leaves nothing behind there.

    Args:
        path: of what will be written. Remote ones are not looked at.
        folder: whether that is a folder or a file; what is missing above it will be made.
        name: of the option, for the message.

    Raises:
        UserError: something of the other kind is there, or no file can be written there.
    """
    if "://" in os.fspath(path):
        return
    target = Path(path).expanduser().absolute()
    place = target if folder else target.parent
    try:
        if not folder and target.is_dir():
            raise UserError(f"{name} {target}: a folder is there, where a file is to be written")
        nearest = next(p for p in (place, *place.parents) if p.exists())
        if not nearest.is_dir():
            raise UserError(f"{name} {target}: {nearest} is a file, where a folder is needed")
        with tempfile.TemporaryFile(dir=nearest) as probe:
            probe.write(b"0")  # so that a full disk shows
        if not folder and target.exists():
            target.open("ab").close()
    except OSError as error:
        raise UserError(
            f"{name} {target}: cannot be written ({error.strerror}); give a place that this user may "
            "write to, with room on the disk"
        ) from error


def free_space(path: str) -> str:
    """How much room there is where a file was to be written, in words."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return "its folder does not exist"
    return f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB are free there"
