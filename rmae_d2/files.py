"""Files that are either whole or not there, and names of which there is no file."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
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


class NotAFileError(OSError):
    """A folder, FIFO, socket or device stands where a file was to be read."""


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_file(path: str | os.PathLike[str]) -> None:
    """Before a file is opened: to open a FIFO waits for ever, to read a device may do anything.

    What is not there, or not local, is left to whoever opens it.

    Raises:
        NotAFileError: there is something else of that name; ``strerror`` says what.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError:
        return
    if kind != stat.S_IFREG:
        said = f"it is {_KINDS.get(kind, 'something else')}, not a file"
        raise NotAFileError(errno.EINVAL, said, os.fspath(path))


def leads_out(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Whether a file in a folder, or a folder above it in there, is a link to somewhere outside."""
    inside = os.path.join(os.path.realpath(folder), "")
    return not os.path.realpath(path).startswith(inside)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder and those above it, where they are not there.

    Raises:
        UserError: where it cannot be made.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        name = os.fspath(path)
        raise UserError(f"{name} cannot be made ({error!s:.120}); {free_space(name)}") from error


def free_space(path: str) -> str:
    """How much room there is where a file was to be written, in words."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return "its folder does not exist"
    return f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB are free there"
