"""The small process beside each rank that says whether the rank lives, and hears of the others.

A process and not a thread, for a thread stands still while the rank holds the interpreter's lock (reading
a large annotation file does so for minutes), and is dead when the rank is. All guardians meet in the store
that the ranks' process group keeps already, with keys of their own:

  host0, host1 ...  where the ranks are
  beat0, beat1 ...  a count that goes up while the rank lives; ``left`` once it has ended in an orderly way
  error             the first failure; whoever writes first wins

Rank 0's guardian watches all others, theirs watch rank 0's: the store gets few requests a second a rank.
"""

import json
import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

from torch.distributed import PrefixStore, TCPStore

#: Seconds between two looks at everything.
TICK = 0.5
#: Seconds without a sign of life after which a rank, or the store, is given up.
LIMIT = 25.0
#: Seconds that a failed collective waits for its cause, usually another rank's death, to be known.
DOUBT = 8.0
#: Seconds for a rank to end by itself once the first failure is known, and for rank 0 to let others read it.
GRACE, LINGER = 4.0, 8.0

_LEFT = "left"
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Failure:
    """What ended a run.

    Args:
        rank: which failed or was lost.
        host: where it ran.
        message: what a person should read.
        by: the rank that noticed.
        lost: gone without a word.
    """

    rank: int
    host: str
    message: str
    by: int
    lost: bool = False

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}){' was lost' if self.lost else ''}: {self.message}"


@dataclass(frozen=True)
class Meeting:
    """Where guardians meet: the store of the process group, and who keeps it up."""

    address: str
    port: int
    keeper: str
    namespace: str

    def connect(self) -> PrefixStore:
        store = TCPStore(
            self.address,
            self.port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=LIMIT),
        )
        return PrefixStore(self.namespace, store)


class Guardian:
    """Runs in a forked child of the rank; see the top of the file.

    The rank sends ``("watch",)``, ``("fail", message)``, ``("doubt", message)`` (a failure that may follow
    from another's) and ``("leave",)``. It gets ``("tick",)``, ``("error", Failure)`` and ``("bye",)``.

    Args:
        pipe: to the rank.
        parent: the rank's process id.
        screen: a file descriptor, for the last word where the rank itself is stuck.
    """

    def __init__(
        self, pipe: Connection, parent: int, screen: int, meeting: Meeting, rank: int, size: int
    ) -> None:
        self.pipe = pipe
        self.parent = parent
        self.screen = screen
        self.meeting = meeting
        self.rank = rank
        self.host = socket.gethostname()
        self.hosts = [self.host] * size
        self.watched = range(1, size) if rank == 0 else range(1)
        self.count = 0
        self.watching = False
        self.first: Failure | None = None
        self.known_since = 0.0
        self.leaving_since: float | None = None
        self.seen: dict[int, tuple[str, float]] = {}
        self.doubt: tuple[float, list[str], str] | None = None

    def run(self) -> None:
        """Until the rank is gone, or has left and need not be waited for."""
        try:
            self.store = self.meeting.connect()
            self.store.set(f"host{self.rank}", self.host)
            self._beat()
            while self._step():
                pass
        except RuntimeError:  # of the store
            self._without_store()

    def _step(self) -> bool:
        # A guardian that is stuck in the store would outlive its rank.
        signal.alarm(round(2 * LIMIT))
        command = self._listen()
        if os.getppid() != self.parent:
            if self.leaving_since is None:
                self._publish(
                    self._lost(self.rank, "its process is gone (killed, or out of memory?)")
                )
                self.store.set(f"beat{self.rank}", _LEFT)
            return False
        if command:
            self._obey(*command)
        if self.leaving_since is None:
            self._beat()
        self._read_error()
        if self.watching and self.first is None:
            self._watch()
            self._settle_doubt()
        if self._may_go():
            self.pipe.send(("bye",))
            return False
        self._tell(("tick",))
        self._kill_the_stuck()
        return True

    def _listen(self) -> tuple[Any, ...] | None:
        try:
            return self.pipe.recv() if self.pipe.poll(TICK) else None
        except (EOFError, OSError):  # the rank is going; the parent's id will tell
            time.sleep(TICK)
            return None

    def _obey(self, command: str, message: str = "") -> None:
        if command == "watch":
            size = len(self.hosts)
            self.hosts = [
                x.decode() for x in self.store.multi_get([f"host{r}" for r in range(size)])
            ]
            self.watching = True
        elif command == "fail":
            self._publish(Failure(self.rank, self.host, message, self.rank))
        elif command == "doubt":
            self.doubt = time.monotonic() + DOUBT, self._beats(range(len(self.hosts))), message
        elif command == "leave":
            self.leaving_since = time.monotonic()
            self.store.set(f"beat{self.rank}", _LEFT)

    def _beat(self) -> None:
        self.count += 1
        self.store.set(f"beat{self.rank}", str(self.count))

    def _beats(self, ranks: range) -> list[str]:
        return [beat.decode() for beat in self.store.multi_get([f"beat{r}" for r in ranks])]

    def _watch(self) -> None:
        now = time.monotonic()
        for rank, beat in zip(self.watched, self._beats(self.watched), strict=True):
            known, since = self.seen.get(rank, ("", now))
            if beat != known:
                self.seen[rank] = beat, now
            elif beat != _LEFT and now - since > LIMIT:
                self._publish(self._lost(rank, f"no sign of life for {LIMIT:.0f} s"))

    def _settle_doubt(self) -> None:
        if self.doubt is None or time.monotonic() < self.doubt[0]:
            return
        _, before, message = self.doubt
        now = self._beats(range(len(before)))
        still = [r for r, x in enumerate(now) if x == before[r] != _LEFT and r != self.rank]
        if still:
            self._publish(self._lost(still[0], f"no sign of life for {DOUBT:.0f} s"))
        else:
            self._publish(Failure(self.rank, self.host, message, self.rank))

    def _lost(self, rank: int, message: str) -> Failure:
        return Failure(rank, self.hosts[rank], message, self.rank, lost=True)

    def _publish(self, failure: Failure) -> None:
        self.store.compare_set("error", "", json.dumps(asdict(failure)))
        self._read_error()

    def _read_error(self) -> None:
        if self.first is None and self.store.check(["error"]):
            self._know(Failure(**json.loads(self.store.get("error"))))

    def _know(self, failure: Failure) -> None:
        self.first, self.known_since = failure, time.monotonic()
        self._tell(("error", failure))

    def _may_go(self) -> bool:
        """Rank 0 keeps the store, where no torchrun does: it goes last, or soon where something failed."""
        if self.leaving_since is None:
            return False
        if self.rank != 0 or not self.watching:
            return True
        late = self.first is not None and time.monotonic() - self.leaving_since > LINGER
        return late or all(beat == _LEFT for beat in self._beats(self.watched))

    def _tell(self, message: tuple[Any, ...]) -> None:
        # A rank that does not read must not block its guardian.
        if select.select([], [self.pipe], [], 0)[1]:
            try:
                self.pipe.send(message)
            except OSError:  # it is going
                return

    def _kill_the_stuck(self) -> None:
        if self.first is None or time.monotonic() - self.known_since < GRACE + LINGER + 5:
            return
        text = f"error: {self.first}; rank {self.rank} does not end by itself and is killed\n"
        os.write(self.screen, text.encode())
        os.kill(self.parent, signal.SIGKILL)
        self.leaving_since = self.leaving_since or time.monotonic()

    def _without_store(self) -> None:
        """The store is gone, and with it whoever kept it."""
        if self.leaving_since is not None:
            self._tell(("bye",))
            return
        if self.first is None:
            where = f"{self.meeting.address}:{self.meeting.port}"
            message = f"{self.meeting.keeper}, to be found at {where}, has died or is out of reach"
            self._know(self._lost(0, message))
        while os.getppid() == self.parent:
            command = self._listen()
            if command and command[0] == "leave":
                self._tell(("bye",))
                return
            self._kill_the_stuck()


def become_guardian(
    pipe: Connection, parent: int, meeting: Meeting, rank: int, world_size: int
) -> None:
    """Turns a just forked child into a guardian; does not return."""
    try:
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        # Sockets of the process group held open here would hide the rank's death from its peers.
        screen = os.dup(2)
        keep = {0, 1, 2, screen, pipe.fileno()}
        for name in os.listdir("/dev/fd"):
            if int(name) not in keep:
                with suppress(OSError):  # the folder's own
                    os.close(int(name))
        # A store that goes down makes torch print a stack here; the rank's own message says more.
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        Guardian(pipe, parent, screen, meeting, rank, world_size).run()
    finally:
        os._exit(0)
