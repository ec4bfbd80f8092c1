"""The engine as Celery's worker wants its pool: one descriptor and one deadline in kombu's hub, or a supervisor thread.

    hub  --readable(fileno)-->  turn  -->  callbacks of requests (on_accepted, on_success, on_failure, on_timeout)
     ^                           |
     +------ one timer <---------+---- next_deadline(), looked at after whatever may have moved it

May: know what Celery calls and what its callbacks do. May not: import Celery or kombu in the parent (`billiard.celery`
brings both), nor decide anything about jobs and workers, which is the core's.

Without a deadline of the engine's (no limits, nobody being struck) nothing is armed and an idle pool costs nothing: there
is no periodic maintenance.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from .._api import job_errors
from .._api.pool import TERMINATE, Pool
from .._api.results import ApplyResult, ResultHandle
from .._api.worker_handle import WorkerHandle
from .._core.state import FATE, Cause, Worker
from .._core.worker_set import PoolState
from .._typing import Any, Final
from .task_pool_child import initialize
from .task_pool_engine import CeleryEngine

_DECIDE_S: Final = 0.5  # within which workers say what they have begun; those that do not are stuck
_NEVER_STARTED: Final = (Cause.RESTARTS, Cause.UNSTARTABLE)


class CeleryPool(Pool):
    """`Pool` with the methods and manners that Celery expects of its prefork pool."""

    _engine_class = CeleryEngine
    _engine: CeleryEngine

    def __init__(self, processes: int, initializer: Callable[..., Any], initargs: Any = (), **kwargs: Any) -> None:
        self._hub: Any = None
        self._alarm: Any = None  # the hub's timer entry for our next deadline, and when it is due
        self._alarm_at = 0.0
        self._ending = False  # `join` or `terminate` drives now, and not the hub
        self._elders: list[CeleryPool] = []  # pools that this one has replaced, and that still have tasks
        self._succeeded = False  # this pool has been replaced, and ends when its tasks have
        self._strategy = kwargs.get("sched_strategy")
        self._accepted_by: Counter[int] = Counter()  # tasks by index of the worker that took them
        self._pids: dict[int, int] = {}  # of workers that are up: their index
        kwargs["on_process_up"] = self._count_in
        kwargs.setdefault("proc_alive_timeout", None)  # by which a pool knows that it is Celery's
        super().__init__(processes, initialize, (initializer, *initargs), **kwargs)

    # -- the event loop

    def register_with_event_loop(self, hub: Any) -> None:
        """Have `hub` drive this pool. Called again after each loss of the broker's connection, with an emptied hub."""
        for elder in self._living_elders():
            elder.register_with_event_loop(hub)
        self._hub = hub
        hub.add_reader(self.fileno(), self._on_readable)
        if self._alarm is not None:
            # Celery cancels all timers that were made while it registered for a connection that is now lost
            self._alarm.cancel()
            self._alarm = None
        self._arm()

    def _on_readable(self) -> None:
        try:
            if not self._engine.closed:
                self._engine.turn(0.0)
        finally:
            # also when a callback raised SystemExit, by which Celery ends its worker: others may wait behind it
            self._arm()
        if self._succeeded and self._engine.end.state and not self._engine.closed:
            self._join()
        elif self._engine.pool_state is PoolState.BROKEN and self._hub is not None and not self._ending:
            # not from here: an exception that leaves a timer is logged by the hub, and that is all
            self._hub.call_soon(self._give_up)

    def _on_alarm(self) -> None:
        self._alarm = None
        # While the pool is joined Celery has a second thread fire the hub's timers; the joining one drives
        if not self._ending:
            self._on_readable()

    def _arm(self) -> None:
        """Have the hub call us at the engine's next deadline, unless it will call earlier anyway."""
        hub, engine = self._hub, self._engine
        if hub is None or self._ending or engine.closed:
            return
        deadline = 0.0 if engine.postponed or engine.callback_runner.pending else engine.next_deadline()
        if deadline is None:
            return
        if self._alarm is not None:
            if self._alarm_at <= deadline and not self._alarm.canceled:
                return
            self._alarm.cancel()
        self._alarm_at = deadline
        self._alarm = hub.call_at(deadline or time.monotonic(), self._on_alarm)

    def _give_up(self) -> None:
        """No worker can be kept alive: end Celery's worker too, instead of failing every task there is."""
        broken_by = self._engine.core.worker_set.broken_by
        if broken_by is not None:
            raise job_errors.pool_error(broken_by)

    # -- tasks

    def apply_async(self, *args: Any, **kwargs: Any) -> ApplyResult | None:  # type: ignore[override]  # see below
        """`Pool.apply_async`; None once the pool is closed. A task that comes while the worker shuts down is thus left
        unacknowledged, and its broker gives it to another worker."""
        if self._engine.closed or self._engine.pool_state in (PoolState.CLOSE, PoolState.TERMINATE):
            return None
        job = super().apply_async(*args, **kwargs)
        self._arm()
        return job

    def _accepted(self, job: ApplyResult, pid: int, time_accepted: float) -> None:
        self._accepted_by[self._pids.get(pid, -1)] += 1
        super()._accepted(job, pid, time_accepted)

    def _ended(self, job: ResultHandle) -> None:
        """Before the request's callback is called: make room for the next task, and see who has to be told."""
        if not self.threads and self._putlock is not None:
            # Celery acquires a slot before it submits, and leaves it to the pool to release it
            self._putlock.release()
        super()._ended(job)
        callbacks = job.callbacks
        if callbacks is not None and job.state == FATE and not job.body.started and job.body.cause in _NEVER_STARTED:
            callbacks.error = None  # as of what a terminated pool has not run: this worker ends too

    def flush(self) -> None:
        """The connection to the broker was lost, or the worker shuts down: forget every task that no worker has begun.

        Its broker delivers it again, and an acknowledgement would go to a connection that is no more. Those that were begun
        go on. Without an event loop Celery expects nothing of the kind.
        """
        for elder in self._living_elders():
            elder.flush()
        if self.threads or self._state == TERMINATE or self._engine.closed:
            return
        self._engine.withdraw()
        until = time.monotonic() + _DECIDE_S
        while (undecided := self._undecided()) and time.monotonic() < until and not self._engine.interrupted():
            # Not yet told of is not the same as not begun: forgotten, it would run here and once more where it is sent next.
            self._engine.hold_back(worker for worker, _ in undecided)
            self._engine.turn(0.005)
            self._engine.withdraw()
        for _, job in undecided:
            if job.callbacks is not None:
                job.callbacks.told = True
                job.callbacks.accept = job.callbacks.timeout = None

    def _undecided(self) -> list[tuple[Worker, ApplyResult]]:
        """The tasks that were given to a worker, and of which it has neither said that it took them nor how they ended."""
        return [
            (worker, job)
            for worker in list(self._engine.core.worker_set.workers.values())
            for job in list(worker.inflight.values())
            if isinstance(job, ApplyResult) and job._accepted_at is None and not job.state
        ]

    def terminate_job(self, pid: int, sig: int | None = None) -> None:
        for elder in self._living_elders():
            elder.terminate_job(pid, sig)
        super().terminate_job(pid, sig)
        self._arm()

    # -- the pool's life

    def grow(self, n: int = 1) -> None:
        super().grow(n)
        self._arm()

    def shrink(self, n: int = 1) -> None:
        super().shrink(n)
        self._arm()

    def maintain_pool(self) -> None:
        """What there is to maintain is done at once, by the turn; this only makes sure of one."""
        if not self._ending:
            self._on_readable()

    def close(self) -> None:
        if self._engine.pool_state is PoolState.RUN and hasattr(self._putlock, "clear"):
            self._putlock.clear()  # tasks that wait for a slot will not get one
        super().close()

    def join(self) -> None:
        self._engine.now_or_later(self._join)

    def _join(self) -> None:
        elders = self._living_elders()
        for pool in (*elders, self):
            pool._leave_hub()
        # Celery flushes before a warm shutdown joins, but not before a cold one does: driven now, the backlog would be run
        self.flush()
        for elder in elders:
            elder._join()
        super().join()

    def terminate(self) -> None:
        self._engine.terminate_later()
        self._engine.now_or_later(self._terminate)

    def _terminate(self) -> None:
        for elder in self._living_elders():
            elder.terminate()
        self._leave_hub()
        super().terminate()
        if self._engine.end.state:
            super().join()

    def succeed(self, elder: CeleryPool) -> None:
        """Take the place of `elder`, which takes no more tasks and ends when it has none."""
        self._elders = [*elder._living_elders(), elder]
        self._putlock = elder._putlock  # of which the elder's tasks hold slots
        size = elder._processes - self._processes
        self._engine.change(lambda: self._engine.core.worker_set.resize(size))
        if elder._hub is not None:
            self.register_with_event_loop(elder._hub)
        elder._succeeded, elder._elders = True, []
        elder._engine.close_later()  # not `close`, which would have those forget their turn who wait for a slot

    def _living_elders(self) -> list[CeleryPool]:
        self._elders = [elder for elder in self._elders if not elder._engine.closed]
        return list(self._elders)

    def _leave_hub(self) -> None:
        """Before the descriptor is closed: its number may be that of another file a moment later."""
        self._ending = True
        hub, self._hub = self._hub, None
        if hub is not None and not self._engine.closed:
            hub.remove_reader(self.fileno())
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    # -- what `celery inspect stats` shows

    def human_write_stats(self) -> dict[str, Any]:
        """How the tasks were spread over the workers."""
        counts = [count for _, count in sorted(self._accepted_by.items())]
        total = sum(counts)
        workers = list(self._engine.core.worker_set.workers.values())
        return {
            "total": total,
            "avg": f"{1 / len(counts):.2f}" if counts else "0.00",
            "all": ", ".join(f"{count / total:.2f}" for count in counts),
            "raw": ", ".join(map(str, counts)),
            "strategy": "fcfs" if self._strategy in ("fast", "fcfs") else "fair",
            "inqueues": {
                "total": sum(worker.active for worker in workers),
                "active": sum(bool(worker.inflight) for worker in workers),
            },
        }

    def _count_in(self, handle: WorkerHandle) -> None:
        alive = {worker.pid for worker in self._engine.core.worker_set.workers.values()}
        self._pids = {pid: index for pid, index in self._pids.items() if pid in alive}
        if handle.pid is not None:
            self._pids[handle.pid] = handle.index
