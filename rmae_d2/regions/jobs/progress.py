"""How far a region job is: a bar on a terminal, lines in a log."""

import logging
import sys
import time
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)

_LOG_SECONDS = 30.0


class Progress:
    """Images done, as a bar on a terminal, else as a line in the log every half a minute."""

    def __init__(self, total: int, done: int) -> None:
        """Sets the scale.

        Args:
            total: images of the share.
            done: those that earlier runs did.
        """
        self._total = total
        self._done = done
        self._shards: dict[int, tuple[int, int, int]] = {}
        self._sums = [0, 0, 0]  # images, bytes, failures of this run
        self._start = self._logged = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=done, unit="img", dynamic_ncols=True, smoothing=0.05
            )

    def __enter__(self) -> "Progress":
        self._redirect = logging_redirect_tqdm() if self._bar is not None else None
        if self._redirect is not None:
            self._redirect.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._log()
        if self._redirect is not None:
            self._redirect.__exit__(kind, *rest)

    def shard(self, number: int, images: int, num_bytes: int, failures: int) -> None:
        """So much of a shard is done; less than before when it starts again."""
        counts = (images, num_bytes, failures)
        before = self._shards.get(number, (0, 0, 0))
        self._shards[number] = counts
        for i in range(3):
            self._sums[i] += counts[i] - before[i]
        if self._bar is not None:
            self._bar.set_postfix_str(self._details(), refresh=False)
            self._bar.update(images - before[0])
        elif time.monotonic() - self._logged > _LOG_SECONDS:
            self._log()

    def _details(self) -> str:
        images, num_bytes, failures = self._sums
        return f"{num_bytes / max(1, images - failures):,.0f} B/img, {failures} failed"

    def _log(self) -> None:
        self._logged = time.monotonic()
        images = self._sums[0]
        rate = images / max(self._logged - self._start, 1e-9)
        left = self._total - self._done - images
        eta = tqdm.format_interval(left / rate) if rate else "?"
        logger.info(
            "%d of %d images, %.1f img/s, %s left, %s",
            self._done + images, self._total, rate, eta, self._details(),
        )  # fmt: skip
