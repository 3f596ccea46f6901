"""A run that loses a rank, or in which one fails, ends on all ranks with the first error shown."""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from detectron2.utils import comm
from torch.distributed import DistError

from .guardian import DOUBT, GRACE, LIMIT, LINGER, Failure, Meeting, become_guardian

logger = logging.getLogger(__name__)


class EndedBySignal(SystemExit):
    """A signal that asks to end came while there was no training to stop in an orderly way."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return (
            f"ended by {signal.Signals(self.number).name}; there was no training under way to save"
        )


class Watchdog:
    """The rank's side: a guardian process, and a thread that listens to it.

    Nothing of it is in the way of a step. A rank that hangs in a collective is ended by the thread, and one
    that does not even run threads by the guardian.

    Args:
        meeting: where the guardians of all ranks find each other.
        report: shows a person the failure that ended the run; called where somebody should see it, that is
            by the rank that failed or noticed, and by one rank of every other machine.
        expected: errors whose message says all; others are shown with their traceback.
    """

    def __init__(
        self,
        meeting: Meeting,
        report: Callable[[str], None],
        expected: tuple[type[BaseException], ...],
    ) -> None:
        self.meeting = meeting
        self.report = report
        self.expected = expected
        self._first: Failure | None = None
        self._known = threading.Event()
        self._ending = threading.Event()
        self._released = threading.Event()
        self._last_word = threading.Lock()
        self._pipe: Connection
        self._child = 0

    def start(self) -> None:
        """Forks the guardian; all ranks together, once they have a process group."""
        self._pipe, theirs = multiprocessing.Pipe()
        parent = os.getpid()
        with warnings.catch_warnings():
            # Threads make a fork risky for a child that uses their locks. The guardian does not, and
            # loader workers are forked from the same threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._child = os.fork()
        if self._child == 0:
            become_guardian(theirs, parent, self.meeting, comm.get_rank(), comm.get_world_size())
        theirs.close()
        if not self._pipe.poll(2 * LIMIT):
            raise RuntimeError(f"the watchdog cannot reach {self.meeting}")
        comm.synchronize()  # every rank has a first sign of life in the store
        self._pipe.send(("watch",))
        threading.Thread(target=self._listen, name="watchdog", daemon=True).start()

    def finish(self) -> None:
        """Announces the clean end of this rank. Rank 0 stays until all others have ended too."""
        self._ending.set()
        self._send("leave")
        while not self._released.wait(0.1):
            if self._first is not None:
                self._end(self._first)
        os.waitpid(self._child, 0)

    def fail(self, error: BaseException) -> NoReturn:
        """Ends this rank because of an error; the others hear of it, unless an earlier one was its cause."""
        self._ending.set()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(
                number, signal.SIG_IGN
            )  # launchers send it to ranks whose neighbour has ended
        follows = is_collective_failure(error) or isinstance(error, EndedBySignal)
        self._send("doubt" if follows else "fail", self._describe(error))
        self._known.wait(DOUBT + LIMIT)
        host = socket.gethostname()
        own = Failure(comm.get_rank(), host, self._describe(error), comm.get_rank())
        first = self._first or own
        unexpected = not isinstance(error, (*self.expected, SystemExit, KeyboardInterrupt))
        if unexpected and (first.rank, first.lost) == (comm.get_rank(), False):
            traceback.print_exception(error)
        self._end(first, _exit_code(error))

    def _describe(self, error: BaseException) -> str:
        if isinstance(error, KeyboardInterrupt):
            return "interrupted from the keyboard"
        if isinstance(error, (*self.expected, SystemExit)):
            return str(error)
        return f"{type(error).__name__}: {error}"

    def _listen(self) -> None:
        while True:
            try:
                message: tuple[Any, ...] = (
                    self._pipe.recv() if self._pipe.poll(LIMIT) else ("silence",)
                )
            except (EOFError, OSError):
                message = ("silence",)
            if message[0] == "bye":
                self._released.set()
                return
            if message[0] == "error":
                self._learn(message[1])
            elif message[0] == "silence" and self._ending.is_set():
                self._released.set()
                return
            elif message[0] == "silence":
                where = f"{self.meeting.address}:{self.meeting.port}"
                text = f"{self.meeting.keeper}, to be found at {where}, does not answer"
                self._released.set()  # there is nobody left to wait for
                self._learn(Failure(0, self.meeting.address, text, comm.get_rank(), lost=True))
                return

    def _learn(self, failure: Failure) -> None:
        self._first = failure
        self._known.set()
        threading.Thread(target=self._end_the_stuck, args=(failure,), daemon=True).start()

    def _end_the_stuck(self, failure: Failure) -> None:
        # The main thread's own error, if it comes to have one, ends it in the better way.
        if not self._ending.wait(GRACE):
            self._end(failure)

    def _end(self, failure: Failure, code: int = 1) -> NoReturn:
        with (
            self._last_word
        ):  # main and thread may both come here; the first to do so ends the process
            logger.error(
                "%s; this rank stops, continue with --resume", failure, extra={"off_screen": True}
            )
            text = self._report_text(failure)
            if text is not None:
                self.report(text)
            self._send("leave")
            self._released.wait(LINGER + 2)
            if failure.lost:
                os.kill(self._child, signal.SIGKILL)  # it may wait for a store out of reach
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _report_text(self, failure: Failure) -> str | None:
        """What this rank shows, if it is the one to do so on its machine."""
        rank, size = comm.get_rank(), comm.get_local_size()
        if failure.by == rank:
            return str(failure) if failure.lost else failure.message
        # A rank that was lost has told of it through its guardian, which is nobody to show things.
        told_by_a_living = failure.by != failure.rank or not failure.lost
        if told_by_a_living and failure.by // size == rank // size:
            return None
        machine = range(size * (rank // size), size * (rank // size + 1))
        return str(failure) if rank == min(r for r in machine if r != failure.rank) else None

    def _send(self, *message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError:  # the guardian has been killed
            self._released.set()


def is_collective_failure(error: BaseException | None) -> bool:
    """Whether the error is that of talking to other ranks, which usually follows from the end of one."""
    if isinstance(error, DistError):
        return True
    return isinstance(error, RuntimeError) and any(
        x in str(error) for x in ("gloo", "NCCL", "c10d")
    )


def _exit_code(error: BaseException) -> int:
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
