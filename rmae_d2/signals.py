"""Signals that save a run, and signal blocking, as far as the system supports them; Windows has few."""

import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager

# SIGTERM is sent by clusters, SIGUSR1 is common for sbatch --signal, SIGUSR2 is submitit's.
_NAMES = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT")

#: Signals that save a run and end it.
SAVING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


@contextmanager
def blocked(numbers: Collection[signal.Signals]) -> Iterator[None]:
    """Blocks signals; processes started inside inherit the block, so none interrupts their setup."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
