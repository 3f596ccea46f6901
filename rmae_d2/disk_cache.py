"""What was fetched over a network, kept in a folder of bounded size; least recently used goes first.

::

    $RMAE_D2_CACHE                 else $XDG_CACHE_HOME/rmae_d2, else ~/.cache/rmae_d2
        3f/3f9a...                 a hash of the content, then the content: images, jsons, ranges of shards
        a0/a07c....pth             a whole file as it is, for readers that want a path

Any number of processes share it without locks: an entry appears whole, by a rename, and its name holds what
it is of, its version too. fsspec has three caches and none of this kind: simplecache and filecache have no
bound and keep whole files, blockcache's record of what it has is one process's, and none notices damage.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable
from functools import cache

from .errors import UserError

logger = logging.getLogger(__name__)

_DIGEST = 16
#: Processes that fill it at once without passing the bound, as each looks only after so much of its own.
_PROCESSES = 8


class DiskCache:
    """The folder, and how large it may be. Threads and processes may share it.

    Args:
        folder: made when something is put there.
        limit: bytes, files alone counted.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._unseen = limit  # bytes that this process has written since it last looked
        self._failed = False

    def get(self, key: str) -> bytes | None:
        """What was put under a key; None where it is not there, or not as it was written."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                digest, content = file.read(_DIGEST), file.read()
            if _digest(content) != digest:
                return None
            os.utime(path)
        except OSError:
            return None
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keeps content, where it is less than an eighth of the limit; what fails is told once."""
        if len(content) > self.limit // _PROCESSES:
            return
        try:
            self._write(self._path(key), len(content), (_digest(content), content))
        except OSError as error:
            if not self._failed:
                self._failed = True
                text = "%s: nothing is kept there (%s); RMAE_D2_CACHE names another folder"
                logger.warning(text, self.folder, error)

    def file(self, key: str, size: int, pieces: Iterable[bytes], suffix: str = ".file") -> str:
        """The path of a whole file, which is written where none of its size is there.

        Args:
            pieces: of its content, asked for only then.
            suffix: of the path.

        Raises:
            UserError: it is larger than the limit, or cannot be written.
        """
        path = f"{self._path(key)}{suffix}"
        with contextlib.suppress(OSError):
            if os.path.getsize(path) == size:
                os.utime(path)
                return path
        if size > self.limit:
            raise UserError(
                f"{size / 2**30:.1f} GiB do not fit into the cache {self.folder} of {self.limit / 2**30:.1f} "
                "GiB: raise RMAE_D2_CACHE_SIZE, in GiB, or copy the file to a disk and name it there"
            )
        try:
            self._write(path, size, pieces)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written ({error!s:.120}); RMAE_D2_CACHE names another folder"
            ) from error
        return path

    def _path(self, key: str) -> str:
        name = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return os.path.join(self.folder, name[:2], name)

    def _write(self, path: str, size: int, pieces: Iterable[bytes]) -> None:
        self._unseen += size
        if self._unseen > self.limit // _PROCESSES**2:
            self._make_room(size)
            self._unseen = size
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=os.path.dirname(path))
        try:
            with open(handle, "wb") as file:
                for piece in pieces:
                    file.write(piece)
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise

    def _make_room(self, size: int) -> None:
        """Removes what was used longest ago; drafts of processes that were killed are among it."""
        entries = []
        for parent, _, files in os.walk(self.folder):
            for name in files:
                with contextlib.suppress(OSError):  # another process has removed it
                    path = os.path.join(parent, name)
                    status = os.stat(path)
                    entries.append((status.st_mtime_ns, status.st_size, path))
        wanted = max(self.limit - self.limit // _PROCESSES - size, 0)
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= wanted:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


def disk_cache() -> DiskCache:
    """That of this user, as the environment has it now.

    Raises:
        UserError: a size that is none.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.environ.get("RMAE_D2_CACHE") or os.path.join(home, "rmae_d2")
    return _of(folder, os.environ.get("RMAE_D2_CACHE_SIZE") or "10")


@cache
def _of(folder: str, size: str) -> DiskCache:
    try:
        limit = int(float(size) * 2**30)
        if limit < 0:
            raise OverflowError
    except (ValueError, OverflowError) as error:
        text = (
            f"RMAE_D2_CACHE_SIZE={size!r} is not a size: give GiB, such as 10, or 0 to keep nothing"
        )
        raise UserError(text) from error
    return DiskCache(folder, limit)
