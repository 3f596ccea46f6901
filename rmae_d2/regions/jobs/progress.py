"""How far a region job is: a bar on a terminal, lines in a log."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)

#: Called with the images, bytes and failures that this run has counted so far.
Show = Callable[[Sequence[int]], None]

_LOG_SECONDS = 30.0


@contextmanager
def progress(total: int, done: int = 0) -> Iterator[Show]:
    """Show images done: as a bar on a terminal, else as a line in the log every half a minute.

    Args:
        total: images of the share.
        done: those that earlier runs did.
    """
    if sys.stderr.isatty():
        options = {"unit": "img", "dynamic_ncols": True, "smoothing": 0.05}
        with logging_redirect_tqdm(), tqdm(total=total, initial=done, **options) as bar:

            def draw(counts: Sequence[int]) -> None:
                bar.set_postfix_str(_details(*counts), refresh=False)
                bar.update(done + counts[0] - bar.n)

            yield draw
        return
    start = logged = time.monotonic()
    last: Sequence[int] = (0, 0, 0)

    def log() -> None:
        nonlocal logged
        logged = time.monotonic()
        rate = last[0] / max(logged - start, 1e-9)
        eta = tqdm.format_interval((total - done - last[0]) / rate) if rate else "?"
        logger.info(
            "%d of %d images, %.1f img/s, %s left, %s",
            done + last[0], total, rate, eta, _details(*last),
        )  # fmt: skip

    def show(counts: Sequence[int]) -> None:
        nonlocal last
        last = counts
        if time.monotonic() - logged > _LOG_SECONDS:
            log()

    yield show
    log()


def _details(images: int, num_bytes: int, failures: int) -> str:
    return f"{num_bytes / max(1, images - failures):,.0f} B/img, {failures} failed"
