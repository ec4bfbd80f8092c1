"""The engine, for a parent whose signal handlers end whole pools.

Celery's SIGQUIT handler terminates jobs and joins the pool, in the main thread, between any two bytecodes: also while that
same thread is in the middle of a turn. The engine puts off by itself what changes the core. Ending a pool is more than that:
it is put down here, and done as soon as the interrupted turn is through.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from .._core.state import Worker
from .._supervisor.engine import Engine
from .._typing import Any


class CeleryEngine(Engine):
    """`Engine` whose pool may be ended from a signal handler that interrupted it."""

    def __init__(self, *args: Any) -> None:
        self.postponed: deque[Callable[[], Any]] = deque()
        super().__init__(*args)

    def now_or_later(self, operation: Callable[[], Any]) -> None:
        """Do it now; or, from within an interrupted turn, right after that."""
        if self.interrupted():
            self.postponed.append(operation)
            self.wake()
        else:
            operation()

    def turn(self, timeout: float = 0.0, spin: bool = False) -> None:
        """One turn, and then what was put off during it."""
        super().turn(timeout, spin)
        self.catch_up()

    def catch_up(self) -> None:
        """Do what was put off."""
        while self.postponed:
            self.postponed.popleft()()

    def terminate_worker(self, worker: Worker, signum: int) -> None:
        """End the job that `worker` is on, as far as Celery knows. If it is on none, or on a later one, it has finished that:
        there is nothing to end."""
        first = min(worker.inflight, default=0)  # Celery has heard of the end of every job before it, and of no other
        job = worker.current_job
        if job is not None and job.number == first:
            self.terminate_job(job, signum)

    def hold_back(self, workers: Iterable[Worker]) -> None:
        """Have these workers begin nothing more of what they hold; it comes back to the backlog."""

        def recall() -> None:
            now = time.monotonic()
            for worker in workers:
                if not worker.recalled:
                    self.core.preemption.recall(worker, worker.current + 1, now)

        self.change(recall)

    def withdraw(self) -> None:
        """Take back every job that no worker was given: it never starts, and nobody is told."""
        self.change(self.core.dispatch.backlog.clear)
