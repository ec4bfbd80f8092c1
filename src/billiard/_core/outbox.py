"""What the core wants done and told: orders for the driver, notifications for the pool's owner.

    order         worker, number                   what is to be done
    SPAWN         0                                make its process
    RETIRE        its exit status                  tell it to leave after the calls it holds
    KILL          signal                           send it
    INTERRUPT     call                             send the soft limit's signal, which is for this call

    notification  subject, value                   what is told
    UP            worker, None                     it is ready
    DOWN          worker, exit status or -signum   its process has ended
    ACCEPTED      job, (pid, monotonic seconds)    its worker took it: the driver's, for jobs that want it
    SOFT, HARD    job, limit in seconds            it was over that limit

Each stays in its queue until it has been dealt with. Cut short in between, it is dealt with once more.
"""

from __future__ import annotations

from collections import deque

from .._typing import Any, Final
from .state import Worker

SPAWN: Final = "spawn"
RETIRE: Final = "retire"
KILL: Final = "kill"
INTERRUPT: Final = "interrupt"

UP: Final = "up"
DOWN: Final = "down"
ACCEPTED: Final = "accepted"
SOFT: Final = "soft"
HARD: Final = "hard"


class Outbox:
    """The queues of one pool."""

    __slots__ = ("notifications", "orders", "signals")

    def __init__(self) -> None:
        self.orders: deque[tuple[str, Worker, int]] = deque()  # SPAWN, RETIRE
        self.signals: deque[tuple[str, Worker, int]] = deque()  # KILL, INTERRUPT: these come first
        self.notifications: deque[tuple[str, Any, Any]] = deque()
