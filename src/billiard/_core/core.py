"""The whole of the rules behind one facade: what a driver calls, and in which order.

A driver's turn: tell the core what happened (`results`, `ready`, `exited`, ...), let it decide
(`on_timer` for each deadline that is due, then `decide`), carry out its orders (see `outbox`), write what it gave out, notify
of what settled. Each of these may be repeated; what is pending stays in a queue until it was done.
"""

from __future__ import annotations

from .._typing import Final
from .._wire.exit_status import EX_RECYCLE
from .dispatch import MAX_WINDOW, Dispatch
from .outbox import Outbox
from .preemption import Preemption
from .restarts import RestartIntensity
from .state import NEVER_S, Worker
from .timers import Timers
from .worker_set import WorkerSet

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
        self.outbox = Outbox()
        self.preemption = Preemption(self.dispatch, self.timers, self.outbox)
        self.worker_set = WorkerSet(size, self.dispatch, self.preemption, self.outbox, max_tasks_per_child, restarts)
        self._pool = Worker(0, -1, None)  # owns the deadlines that are no worker's

    def on_timer(self, worker: Worker, kind: str, now: float) -> None:
        """A deadline is due. The driver has read everything that this worker sent."""
        if worker.due.get(kind, NEVER_S) > now:
            return  # one that came up just before it cleared it, or set it anew
        if worker is not self._pool:
            self.preemption.on_timer(worker, kind, now)
        self.timers.done(worker, kind, now)

    def decide(self, now: float) -> None:
        """Bring the number of workers to what it should be, and give out jobs."""
        if self.dispatch.suspects:
            self.dispatch.drop_suspects()
        self._reconcile(now)
        if self.dispatch.backlog or self.dispatch.limited or self.dispatch.unwritten:
            self.assign(now)
            self._reconcile(now)  # a worker was given its last call: its replacement must not wait for another event

    def _reconcile(self, now: float) -> None:
        if self.worker_set.dirty:
            self.worker_set.reconcile(now)
            if self.worker_set.respawn_at > now:
                # again, since `not_spawned` may have been cut short before it
                self.timers.set(self._pool, RESPAWN, self.worker_set.respawn_at)

    def assign(self, now: float) -> None:
        """Give out jobs where there is room, and watch over what was given."""
        dispatch, preemption = self.dispatch, self.preemption
        if dispatch.idle:
            dispatch.last_turn = now  # while a worker had nothing to do, nobody was late for it
        dispatch.assign(now)
        for worker in dispatch.unwritten:
            preemption.on_assigned(worker, now)
            if worker.quota == 0:
                # it was given all that it may have: its replacement starts now, while it works that off
                self.worker_set.retire(worker, EX_RECYCLE)
        while dispatch.limited:
            worker, least_s = next(iter(dispatch.limited.items()))
            preemption.watch_limit(worker, least_s, now)
            del dispatch.limited[worker]

    def not_spawned(self, worker: Worker, error: OSError, now: float) -> None:
        """No process could be made for `worker`: try again a little later."""
        self.timers.set(self._pool, RESPAWN, self.worker_set.not_spawned(worker, error, now))

    def spare_s(self) -> float:
        """For how long every worker has something to do without hearing from us. Changes nothing."""
        return self.dispatch.spare_s(list(self.worker_set.workers.values()))

    def next_deadline(self) -> float | None:
        """When `on_timer` is due next, in seconds of the monotonic clock. Changes nothing."""
        return self.timers.next()
