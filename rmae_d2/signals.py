"""Signals that save a run, and blocks of signals, as far as the system has them; Windows has few."""

import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager

# SIGTERM is a cluster's, SIGUSR1 what people give sbatch --signal, SIGUSR2 submitit's.
_NAMES = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT")

#: Signals that save a run and end it.
SAVING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


@contextmanager
def blocked(numbers: Collection[signal.Signals]) -> Iterator[None]:
    """Processes started inside inherit the block, so that no signal finds them half set up."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
