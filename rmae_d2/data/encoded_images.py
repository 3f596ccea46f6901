"""Encoded images available before a mapper asks for them: read ahead by threads, or cached in memory.

Neither changes a sample: mappers get the same bytes that they would have read.
"""

import mmap
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..at_hand import at_hand
from ..errors import RemoteError, UserError
from ..files import read_bytes

_HITS, _MISSES, _IMAGES, _BYTES, _FULL = range(5)
_CLAIMED = -1


class RamCache:
    """Encoded images in memory shared between this process and those it forks, such as a loader's workers.

    Uses anonymous shared memory: it is allocated as it is filled, and needs no room in /dev/shm, which is
    small in containers. Nothing is evicted; once it is full, further images are read without caching.

    Args:
        images: number of images in the data set; they are identified by index.
        limit: size in bytes.
    """

    def __init__(self, images: int, limit: int) -> None:
        self.limit = limit
        self._memory = mmap.mmap(-1, max(limit, 1))
        table = np.frombuffer(mmap.mmap(-1, 8 * (5 + 2 * images)), np.int64)
        self._counts, self._starts, self._sizes = np.split(table, [5, 5 + images])
        self._lock = multiprocessing.Lock()

    def get(self, index: int) -> bytes | None:
        """A cached image; None if absent."""
        with self._lock:  # its release also makes visible the content that was copied without it
            start, size = int(self._starts[index]), int(self._sizes[index])
            self._counts[_HITS if size > 0 else _MISSES] += 1
        return self._memory[start : start + size] if size > 0 else None

    def put(self, index: int, content: bytes) -> None:
        """Store an image, if there is room and it is not stored yet."""
        with self._lock:
            start = int(self._counts[_BYTES])
            if self._sizes[index] or not content:
                return
            if start + len(content) > self.limit:
                self._counts[_FULL] = 1
                return
            self._counts[_BYTES] += len(content)
            self._sizes[index] = _CLAIMED
        self._memory[start : start + len(content)] = content
        with self._lock:
            self._starts[index], self._sizes[index] = start, len(content)
            self._counts[_IMAGES] += 1

    def counts(self) -> dict[str, int | bool]:
        """``hits`` and ``misses`` of reads; ``images``, ``bytes`` and their ``limit``; whether ``full``."""
        with self._lock:
            hits, misses, images, used, full = self._counts.tolist()
        return {
            "hits": hits,
            "misses": misses,
            "images": images,
            "bytes": used,
            "limit": self.limit,
            "full": bool(full),
        }


def free_memory() -> int:
    """Bytes of memory still available on this machine or in this container.

    Raises:
        UserError: the system is not Linux.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError as error:
        raise UserError(
            "this system does not say how much memory is free: with dataloader.train.cache=ram set "
            "dataloader.train.cache_bytes, too, e.g. 8e9"
        ) from error
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    try:
        limit, used = (
            int(Path("/sys/fs/cgroup", name).read_text())
            for name in ("memory.max", "memory.current")
        )
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return min(free, max(limit - used, 0))


class EncodedImages:
    """Provides a stream's mapper with encoded images.

    Args:
        sample_of: maps a stream position to index and dataset dict.
        following: maps a batch's positions to those of the batch that the same process loads next.
        cache: None for no cache.
        ahead: number of images to read ahead, with as many threads.
    """

    def __init__(
        self,
        sample_of: Callable[[int], tuple[int, Mapping[str, Any]]],
        following: Callable[[Sequence[int]], Sequence[int]],
        cache: RamCache | None,
        ahead: int,
    ) -> None:
        self._sample_of, self._following = sample_of, following
        self._cache, self._ahead = cache, ahead
        self._batch: Sequence[int] = ()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None  # threads belong to one process
        self._coming: dict[int, Future[bytes]] = {}

    def begin(self, batch: Sequence[int]) -> None:
        """Set the positions that are being loaded now."""
        self._batch = batch

    @contextmanager
    def ready(
        self, index: int, dataset_dict: Mapping[str, Any], position: int | None
    ) -> Iterator[None]:
        """Context in which a dataset dict's image is available; if it is unreadable, readers say why.

        Args:
            position: position in the stream from which on images are read ahead; None for other images.

        Raises:
            RemoteError: a store or server does not respond.
        """
        path = dataset_dict.get("file_name")
        if not isinstance(path, str):
            yield
            return
        try:
            coming = None if position is None else self._look_ahead(position)
            content = coming.result() if coming else self._read(index, path)
        except RemoteError:
            raise
        except (OSError, UserError):
            yield
            return
        with at_hand(path, content):
            yield

    def _read(self, index: int, path: str) -> bytes:
        content = None if self._cache is None else self._cache.get(index)
        if content is None:
            content = read_bytes(path)
            if self._cache is not None:
                self._cache.put(index, content)
        return content

    def _look_ahead(self, position: int) -> Future[bytes] | None:
        """Start reading what follows a position; return the image at the position itself."""
        if not self._ahead or position not in self._batch:
            return None
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool, self._coming = (os.getpid(), ThreadPoolExecutor(self._ahead)), {}
        batch, window = self._batch, list(self._batch[self._batch.index(position) :])
        while len(window) <= self._ahead:
            batch = self._following(batch)
            window += batch
        window = window[: self._ahead + 1]
        for late in self._coming.keys() - set(window):
            self._coming.pop(late).cancel()
        for later in window:
            if later not in self._coming:
                index, sample = self._sample_of(later)
                path = sample.get("file_name")
                if isinstance(path, str):
                    self._coming[later] = self._pool[1].submit(self._read, index, path)
        return self._coming.pop(position, None)
