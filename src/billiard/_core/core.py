"""The whole of the rules behind one door: what a driver calls, and in which order.

A driver's turn: tell the core what happened (`results`, `ready`, `exited`, ...), let it decide
(`came_up` for each deadline that is due, then `decide`), carry out its orders, write what it gave out, announce
what settled. Each of these may be repeated; what is pending stays in a queue until it was done.
"""

from __future__ import annotations

from .._typing import Final
from .._wire.exits import EX_RECYCLE
from .blows import Blows
from .dispatch import MAX_WINDOW, Dispatch
from .restarts import RestartIntensity
from .staff import Staff
from .state import NEVER_S, Worker
from .timers import Timers

RESPAWN: Final = "respawn"


class Core:
    """Jobs and workers of one pool."""

    def __init__(
        self,
        size: int,
        max_tasks_per_child: int | None = None,
        restarts: RestartIntensity | None = None,
        max_window: int = MAX_WINDOW,
    ) -> None:
        """`max_window`: calls that a worker may hold at once."""
        self.timers = Timers()
        self.dispatch = Dispatch(max_window)
        self.blows = Blows(self.dispatch, self.timers)
        self.staff = Staff(size, self.dispatch, self.blows, max_tasks_per_child, restarts)
        self._pool = Worker(0, -1, None)  # owns the deadlines that are no worker's

    def came_up(self, worker: Worker, kind: str, now: float) -> None:
        """A deadline is due. The driver has read everything that this worker sent."""
        if worker.due.get(kind, NEVER_S) > now:
            return  # one that came up just before it cleared it, or set it anew
        if worker is not self._pool:
            self.blows.came_up(worker, kind, now)
        self.timers.done(worker, kind, now)

    def decide(self, now: float) -> None:
        """Bring the number of workers to what it should be, and give out jobs."""
        self._staff(now)
        if self.dispatch.backlog or self.dispatch.limited or self.dispatch.unwritten:
            self.assign(now)
            self._staff(now)  # a worker was given its last call: its replacement must not wait for another event

    def _staff(self, now: float) -> None:
        if self.staff.restless:
            self.staff.staff(now)
            if self.staff.respawn_at > now:
                # again, since `not_spawned` may have been cut short before it
                self.timers.set(self._pool, RESPAWN, self.staff.respawn_at)

    def assign(self, now: float) -> None:
        """Give out jobs where there is room, and watch over what was given."""
        dispatch, blows = self.dispatch, self.blows
        if dispatch.idle:
            dispatch.last_turn = now  # while a worker had nothing to do, nobody was late for it
        dispatch.assign(now)
        for worker in dispatch.unwritten:
            blows.given(worker, now)
            if worker.quota == 0 and self.staff.used_up(worker):
                # its replacement starts now, while it works off what it holds
                self.staff.retire(worker, EX_RECYCLE)
        while dispatch.limited:
            worker, least_s = next(iter(dispatch.limited.items()))
            blows.given_limited(worker, least_s, now)
            del dispatch.limited[worker]

    def not_spawned(self, worker: Worker, error: OSError, now: float) -> None:
        """No process could be made for `worker`: try again a little later."""
        self.timers.set(self._pool, RESPAWN, self.staff.not_spawned(worker, error, now))

    def spare_s(self) -> float:
        """For how long every worker has something to do without hearing from us. Changes nothing."""
        return self.dispatch.spare_s(list(self.staff.workers.values()))

    def next_deadline(self) -> float | None:
        """When `came_up` is due next, in seconds of the monotonic clock. Changes nothing."""
        return self.timers.next()
