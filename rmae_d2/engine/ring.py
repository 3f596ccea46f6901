"""Ranks that watch each other: if one fails, is killed or hangs, all end and report the first cause.

PyTorch's elastic agents end the ranks of their own machine once one of them has ended. They tell other
machines nothing and do not notice a rank that hangs, and ``srun`` has no agents. So each rank has two TCP
connections, one from the rank before it and one to the rank after it. They carry:

  a byte every two seconds   the rank before is running. Its timer's signal handler writes the byte, in C: a
                             thread would be blocked while the rank holds the interpreter's lock, which takes
                             minutes when a large annotation file is read
  JSON, then the end         the failure that ends the run; every rank passes it on, in both directions
  ``bye``, then the end      the rank has ended cleanly
  the end alone              the rank was killed
"""

import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from detectron2.utils import comm

from ..errors import UserError
from ..signals import SAVING

logger = logging.getLogger(__name__)

#: Seconds between two heartbeats, and without one, after which a rank is given up.
BEAT, LIMIT = 2, 15
#: Seconds to wait for the cause of a failed collective, usually another rank's end, to become known.
SETTLE_SECONDS = 8

_BEATS = bytes(range(32))  # a heartbeat is the number of a signal
_BYE = b"bye"


class EndedBySignal(SystemExit):
    """A signal asked for the end while no training was running that could be stopped cleanly."""


@dataclass(frozen=True)
class Failure:
    """What ended a run: ``rank`` on ``host`` failed, or was ``lost``, i.e. killed or silent for too long."""

    rank: int
    host: str
    message: str
    lost: bool = False

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}){' was lost' if self.lost else ''}: {self.message}"


class Ring:
    """One rank's part of the ring. From `join` to `leave`, the end of another rank ends this process.

    Args:
        address: where other machines reach rank 0's.
        port: a port there.
        report: shows the user the message of the failure that ended the run.
    """

    def __init__(self, address: str, port: int, report: Callable[[str], None]) -> None:
        self.address = address
        self.port = port
        self.report = report
        self.host = socket.gethostname()
        self._thread = threading.Thread(target=self._watch, name="ring", daemon=True)
        self._leaving = threading.Event()
        self._last_word = threading.Lock()

    def join(self) -> None:
        """Connect this rank with its neighbours; called in all main threads, once a process group exists.

        Raises:
            OSError: a neighbour cannot be reached.
        """
        rank, size = comm.get_rank(), comm.get_world_size()
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(("", 0), family=family, dualstack_ipv6=dual) as door:
            own = self.address if rank == 0 else self._own_address()
            everyone = comm.all_gather((self.host, own, door.getsockname()[1]))
            after = socket.create_connection(everyone[(rank + 1) % size][1:], timeout=30)
            door.settimeout(30)
            before, _ = door.accept()
        for neighbour in (before, after):
            neighbour.setblocking(False)
        self._before, self._after = before, after
        self._ranks = {before: (rank - 1) % size, after: (rank + 1) % size}
        self._hosts = [host for host, *_ in everyone]
        # A loader worker that outlives its rank would keep the connections open.
        os.register_at_fork(after_in_child=self._close)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, False)
        signal.set_wakeup_fd(after.fileno(), warn_on_full_buffer=False)
        signal.setitimer(signal.ITIMER_REAL, BEAT, BEAT)
        self._thread.start()

    def leave(self) -> None:
        """Wait until every rank gets here, then take this one out of the ring."""
        if dist.get_backend() == "nccl":
            dist.barrier(device_ids=[torch.cuda.current_device()])
        else:
            dist.barrier()
        self._leaving.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._say(_BYE)
        self._thread.join()
        self._close()

    def fail(self, error: BaseException) -> NoReturn:
        """End this rank and all others because of an error, unless another rank's error caused it."""
        # Agents send a signal to ranks whose neighbour has ended.
        for number in SAVING:
            signal.signal(number, signal.SIG_IGN)
        if is_collective_failure(error) or isinstance(error, EndedBySignal):
            time.sleep(SETTLE_SECONDS)  # the cause ends this process when it arrives
        if isinstance(error, KeyboardInterrupt):
            message = "interrupted from the keyboard"
        elif isinstance(error, (UserError, SystemExit)):
            message = str(error)
        else:
            traceback.print_exception(error)
            message = f"{type(error).__name__}: {error}"
        self._end(Failure(comm.get_rank(), self.host, message))

    def _own_address(self) -> str:
        """This machine's address in the network that leads to rank 0's."""
        found = socket.getaddrinfo(self.address, self.port, type=socket.SOCK_DGRAM)
        family, kind, _, _, peer = found[0]
        with socket.socket(family, kind) as probe:
            probe.connect(peer)  # sends nothing
            return str(probe.getsockname()[0])

    def _watch(self) -> None:
        received = {self._before: b"", self._after: b""}
        quiet = 0  # in rounds, because a clock would run on while this process is suspended
        with selectors.DefaultSelector() as selector:
            for neighbour in received:
                selector.register(neighbour, selectors.EVENT_READ)
            while not self._leaving.is_set():
                ready = [key.fileobj for key, _ in selector.select(timeout=1)]
                quiet = 0 if self._before in ready else quiet + 1
                if quiet > LIMIT:
                    self._lose(self._before, f"no sign of life for {LIMIT} s")
                for neighbour in [x for x in received if x in ready]:
                    data = b""
                    with suppress(OSError):  # a reset counts as the end
                        data = neighbour.recv(1 << 16)
                    received[neighbour] += data.translate(None, _BEATS)
                    if not data:
                        selector.unregister(neighbour)
                        self._take_leave(neighbour, received[neighbour])

    def _take_leave(self, neighbour: socket.socket, words: bytes) -> None:
        """Handle a neighbour that has closed its connection after sending ``words``."""
        if not words:
            self._lose(neighbour, "its process is gone (killed, or out of memory?)")
        if words != _BYE:
            self._end(Failure(**json.loads(words)))

    def _lose(self, neighbour: socket.socket, message: str) -> NoReturn:
        rank = self._ranks[neighbour]
        self._end(Failure(rank, self._hosts[rank], message, lost=True))

    def _end(self, failure: Failure) -> NoReturn:
        # Both the main thread and the ring may get here; the first one ends the process.
        with self._last_word:
            try:
                self._say(json.dumps(asdict(failure)).encode())
                text = f"{failure}; this rank stops, continue with --resume"
                logger.error(text, extra={"off_screen": True})
                logging.shutdown()
                sys.stdout.flush()
                self.report(str(failure) if failure.lost else failure.message)
            finally:
                os._exit(1)

    def _say(self, words: bytes) -> None:
        for neighbour in (self._before, self._after):
            with suppress(OSError):  # it is gone
                neighbour.sendall(words)
                neighbour.shutdown(socket.SHUT_WR)

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._before.close()
        self._after.close()


def is_collective_failure(error: BaseException | None) -> bool:
    """Whether an error concerns communication between ranks, which usually follows another rank's end."""
    named = any(name in str(error) for name in ("gloo", "NCCL", "c10d"))
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and named)
