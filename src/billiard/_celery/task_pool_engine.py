"""The engine, for a parent whose signal handlers end tasks and pools.

Celery's SIGQUIT handler terminates jobs and joins the pool, in the main thread, between any two bytecodes: also while that
same thread is in the middle of a turn and holds the engine's lock. Waiting for the lock would wait for ever. What cannot
have it is put down here, and done as soon as the interrupted frame is through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .._core.state import Job, Worker
from .._supervisor.engine import Engine
from .._typing import Any


class CeleryEngine(Engine):
    """`Engine` whose blows may be ordered from a signal handler."""

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

    def terminate_job(self, job: Job, signum: int) -> None:
        """End one job, queued or running, and no other."""
        self.now_or_later(lambda: super(CeleryEngine, self).terminate_job(job, signum))

    def terminate_worker(self, worker: Worker, signum: int) -> None:
        """End the job that `worker` is on. A worker that is on none has finished it: there is nothing to end."""

        def end_its_job() -> None:
            job = worker.inflight.get(worker.board.see().current) if worker.board is not None else None
            if job is not None:
                super(CeleryEngine, self).terminate_job(job, signum)

        self.now_or_later(end_its_job)

    def withdraw(self) -> list[Job]:
        """Take back every job that no worker was given: it never starts, and nobody is told."""
        backlog = self.core.dispatch.backlog
        withdrawn: list[Job] = []

        def empty_the_backlog() -> None:
            while backlog:
                job = backlog.popleft()
                if job.holder is None and not job.state:
                    withdrawn.append(job)

        self.change(empty_the_backlog)
        return withdrawn
