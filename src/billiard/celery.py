"""Public module: Celery's prefork pool on the engine, without Celery's own event-loop pool in between.

    CELERY_CUSTOM_WORKER_POOL=billiard.celery:TaskPool celery -A app worker -P custom

Needs Celery, which billiard itself does not: import it only where Celery is installed.
"""

from __future__ import annotations

import gc

from celery.concurrency import prefork

from celery import signals

from ._celery.task_pool import CeleryPool

__all__ = ["TaskPool"]


class TaskPool(prefork.TaskPool):  # type: ignore[misc]  # Celery has no types
    """Celery's `TaskPool`, with a pool of ours at its heart.

    Options, initializer, signals, shutdown and statistics are Celery's own code. Brokers with an event loop
    (Redis, AMQP, SQS) drive the pool from it; for the others it has a thread.
    """

    Pool = CeleryPool
    BlockingPool = CeleryPool

    def on_start(self) -> None:
        """Make the pool. With the start method "fork" this forks the template of all workers to come."""
        signals.worker_before_create_process.send(sender=self)
        gc.collect()  # what is garbage now would be copied into every worker
        super().on_start()

    def restart(self) -> None:
        """Replace all workers, each after the task it is on. The new ones are made of the parent as it is now: Celery's
        ``pool_restart`` reloads modules first, which workers forked from the first pool's template would not see."""
        old = self._pool
        if not old.allow_restart:
            raise ValueError("a restart needs worker_pool_restarts=True")
        self.on_start()
        self._pool.succeed(old)
