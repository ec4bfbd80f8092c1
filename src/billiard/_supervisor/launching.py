"""What the engine asks of a way to make worker processes, and what it is told of them. There are two: `template_launcher` and
`context_launcher`.

A launcher starts a worker (asynchronously), says when it has started and when it has exited, and keeps the pid from being
reused until `reap`: a signal sent before cannot hit a stranger. Starting again what was started already does nothing, so an
interrupted order may be repeated.
"""

from __future__ import annotations

from .._core.state import Worker
from .._typing import Any, Final, Protocol
from .._wire.far_end import FarEnd
from .._wire.pickling import MainSnapshot
from .._wire.scoreboard import Scoreboard

# what became known; numbers that the template's own messages (SPAWN, REAP) do not have
ALL_LOST: Final = 0  # the launcher itself died, and all its workers with it
STARTED: Final = 3  # with the worker's ident and its pid
EXITED: Final = 4  # ident, exit status or -signum; None: nobody knows
NOT_STARTED: Final = 5  # ident, errno
NO_FD: Final = -1  # ask `events` for this one after `start`: what is known at once is told by no descriptor

Event = tuple[int, int, Any]


class Launcher(Protocol):
    """What the engine asks of a way to make processes."""

    snapshot: MainSnapshot  # of `__main__`, as its workers know it

    def start(self, worker: Worker, far_end: FarEnd, scoreboard: Scoreboard) -> None:
        """Have a process made that serves `far_end`. Raises OSError when it cannot be."""

    def lost(self) -> None:
        """ALL_LOST was dealt with: the next `start` begins anew."""

    def hear_of_end(self) -> None:
        """The end of a worker is about to come, and must be told even if somebody stopped whoever tells of it (SIGSTOP)."""

    def close_in_forked_child(self) -> None:
        """In a forked child of the parent: close what is the parent's, disturb nothing."""

    def applied(self, count: int) -> None:
        """The first `count` of the last `events` were dealt with."""

    def events(self, fd: int) -> list[Event]:
        """What became known by `fd` being readable. Safe to ask again."""

    def reap(self, worker: Worker) -> None:
        """Everything about this worker is settled: its pid may be reused."""

    def close(self) -> None:
        """All workers are reaped, or were sent SIGKILL: give up whatever is left."""
