"""Files written whole or not at all, text in any encoding, and names for which there is no file."""

import codecs
import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .at_hand import is_at_hand, open_at_hand
from .errors import UserError
from .members import is_member, open_member
from .path_handlers import path_manager

#: Files read in parallel: network storage has high latency but serves many requests at once.
READERS = 16


@contextlib.contextmanager
def atomic_file(
    path: str | os.PathLike[str], *, durable: bool = True, replace: bool = True
) -> Iterator[IO[bytes]]:
    """Opens a binary file that gets its name if the block succeeds, and leaves no trace if it fails.

    Written next to the target, flushed to disk, then renamed. Remote paths are written directly, because the
    storage's own put is either atomic or not.

    Args:
        path: local, or anything Detectron2's PathManager opens.
        durable: wait for the disk; otherwise a power cut may leave a truncated file.
        replace: False silently keeps an existing file of that name.

    Raises:
        UserError: if the disk is full or not writable, naming file and free space. Existing files are
            left untouched. Other errors of the block pass through.
    """
    name = os.fspath(path)
    if "://" in name:
        with path_manager().open(name, "wb") as remote:
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
            raise  # about other files read in the block, not this one
        why = f"({error!s:.120}); {free_space(name)}"
        if isinstance(error, FileNotFoundError) and os.path.isdir(os.path.dirname(draft) or "."):
            why = "for something has deleted its draft meanwhile"
        raise UserError(f"{name}: could not be written {why}") from error
    finally:
        with contextlib.suppress(OSError):  # a file has replaced the folder
            os.unlink(draft)


def is_being_written(draft: str | os.PathLike[str]) -> bool:
    """Whether a draft of `atomic_file`, or of 0.1, belongs to another live process on this machine."""
    match = re.search(r"\.(?:tmp)?(\d+)(?:-[0-9a-f]{8}\.tmp)?$", os.fspath(draft))
    pid = int(match[1]) if match else os.getpid()
    return pid != os.getpid() and started(pid) is not None


def started(pid: int) -> str | None:
    """Start time of a local process, in comparable form; None if there is none, "" if unknown."""
    if sys.platform == "win32":  # os.kill would end the process there
        return ""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass  # it belongs to another user
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in "ZX" else fields[19]


def _link(draft: str, name: str) -> bool:
    """Gives a draft its name unless the name is taken; False if the file system does not support links."""
    try:
        os.link(draft, name)
    except FileExistsError:
        return True
    except OSError:
        return os.path.exists(name)
    return True


class NotAFileError(OSError):
    """A folder, FIFO, socket or device where a file was expected."""


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_file(path: str | os.PathLike[str]) -> None:
    """Checks a file before opening it: opening a FIFO blocks forever, reading a device may do anything.

    Paths that are missing, held in memory, or not local are left to whoever opens them.

    Raises:
        NotAFileError: if something else has that name; ``strerror`` says what.
    """
    if is_at_hand(os.fspath(path)):
        return  # without network access
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError:
        return
    if kind != stat.S_IFREG:
        said = f"it is {_KINDS.get(kind, 'something else')}, not a file"
        raise NotAFileError(errno.EINVAL, said, os.fspath(path))


def leads_out(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Whether a file in a folder, or a subfolder leading to it, is a link to somewhere outside."""
    inside = os.path.join(os.path.realpath(folder), "")
    return not os.path.realpath(path).startswith(inside)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Creates a folder and its parents as needed.

    Raises:
        UserError: if it cannot be created.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        name = os.fspath(path)
        raise UserError(f"{name} cannot be made ({error!s:.120}); {free_space(name)}") from error


def check_output(path: str | os.PathLike[str], *, folder: bool, name: str = "--output") -> None:
    """Rejects an output path that cannot be written, before any work is done; leaves nothing behind.

    Args:
        path: the output path. Remote ones are not checked.
        folder: whether it is a folder or a file; missing parents will be created.
        name: name of the option, for the message.

    Raises:
        UserError: if something of the other kind exists there, or no file can be written.
    """
    if "://" in os.fspath(path):
        return
    target = Path(path).expanduser().absolute()
    place = target if folder else target.parent
    try:
        if not folder:
            check_file(target)
        nearest = next(p for p in (place, *place.parents) if p.exists())
        if not nearest.is_dir():
            raise UserError(f"{name} {target}: {nearest} is a file, where a folder is needed")
        with tempfile.TemporaryFile(dir=nearest) as probe:
            probe.write(b"0")  # to detect a full disk
        if not folder and target.exists():
            target.open("ab").close()
    except OSError as error:
        raise UserError(
            f"{name} {target}: cannot be written ({error.strerror}); give a place that this user may "
            "write to, with room on the disk"
        ) from error


def free_space(path: str) -> str:
    """Describes the free space at a file's destination."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return "its folder does not exist"
    return f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB are free there"


#: Byte order marks of non-UTF-8 text from other programs. UTF-32's little-endian mark begins like UTF-16's.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
}


def read_text(path: str | os.PathLike[str]) -> str:
    """Reads the text of a file in UTF-8, with or without byte order mark, or UTF-16.

    Args:
        path: local, or anything Detectron2's PathManager opens.

    Raises:
        UserError: if it has another encoding or is not text; says what it seems to be.
        OSError: if the file cannot be opened.
    """
    return decode_text(read_bytes(path), path)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Reads the bytes of a file, local or anything Detectron2's PathManager opens.

    Raises:
        UserError: if a FIFO, a folder or the like has that name.
        OSError: if it cannot be opened.
    """
    name = os.fspath(path)
    if "://" not in name:
        try:
            check_file(name)
        except NotAFileError as error:
            raise UserError(f"{name}: {error.strerror}") from error
        return Path(name).read_bytes()
    with opened(name) as remote:
        return remote.read()


def opened(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a file for reading: local, within another one, or anything Detectron2's PathManager opens."""
    name = os.fspath(path)
    if (content := open_at_hand(name)) is not None:
        return content
    if "://" not in name:
        return open(name, "rb")
    if is_member(name):
        return open_member(name)
    remote: IO[bytes] = path_manager().open(name, "rb")
    return remote


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file of that name exists: local, or where Detectron2's PathManager looks."""
    name = os.fspath(path)
    if "://" not in name:
        return os.path.isfile(name)
    return bool(path_manager().isfile(name))


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder of that name exists: local, or where Detectron2's PathManager looks."""
    name = os.fspath(path)
    if "://" not in name:
        return os.path.exists(name)
    return bool(path_manager().exists(name))


def decode_text(raw: bytes, path: str | os.PathLike[str]) -> str:
    """Decodes bytes like `read_text`; the path is for its message."""
    try:
        return raw.decode(_encoding(raw))
    except UnicodeDecodeError as error:
        raise UserError(f"{os.fspath(path)} {_what_it_is(raw, error)}") from error


def _encoding(raw: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if raw.startswith(mark):
            return encoding
    # Without a mark, every other byte of plain UTF-16 text is 0.
    if raw[1:2] == b"\0" and raw[:1] != b"\0":
        return "utf-16-le"
    return "utf-16-be" if raw[:1] == b"\0" and raw[1:2] != b"\0" else "utf-8"


def _what_it_is(raw: bytes, error: UnicodeDecodeError) -> str:
    for start, kind in _ARCHIVES.items():
        if raw.startswith(start):
            return f"is {kind}, not text: unpack it first"
    if b"\0" in raw:
        return "is not text (it has zero bytes): is it another file, or an archive to be unpacked?"
    line = raw.count(b"\n", 0, error.start) + 1
    return (
        f"is not in UTF-8 (line {line}, byte {error.start}: {raw[error.start]:#04x}); it seems to be in "
        "Latin-1 or Windows-1252: save it as UTF-8"
    )
