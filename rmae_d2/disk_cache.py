"""Data fetched over a network, kept in a folder of bounded size; the least recently used goes first.

::

    $RMAE_D2_CACHE                 else $XDG_CACHE_HOME/rmae_d2, else ~/.cache/rmae_d2
        3f/3f9a...                 a hash of the content, then the content: images, JSONs, ranges of shards
        a0/a07c....pth             a whole file as it is, for readers that need a path

Any number of processes share it without locks: an entry appears whole, by a rename, and its name identifies
its source, including the version. None of fsspec's three caches does this: simplecache and filecache have no
size limit and keep whole files, blockcache's index belongs to one process, and none detects damage.
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
#: Number of processes that can fill it at once within the limit: each checks only after writing its share.
_PROCESSES = 8


class DiskCache:
    """A cache folder with a size limit. Threads and processes may share it.

    Args:
        folder: created when something is first stored.
        limit: bytes, counting files only.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._unseen = limit  # bytes that this process has written since its last check
        self._failed = False

    def get(self, key: str) -> bytes | None:
        """Returns the content stored under a key; None if it is missing or damaged."""
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
        """Stores content of at most an eighth of the limit; failure is reported once."""
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
        """Returns the path of a whole file, writing it unless one of that size exists.

        Args:
            pieces: its content, read only if the file must be written.
            suffix: suffix of the path.

        Raises:
            UserError: if it is larger than the limit, or cannot be written.
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
        """Removes the least recently used files, including drafts of killed processes."""
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
    """Returns the cache of this user, as the environment currently defines it.

    Raises:
        UserError: if the size is invalid.
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
