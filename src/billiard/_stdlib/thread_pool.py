"""``multiprocessing``'s pool of threads, whose ``join()`` after ``terminate()`` ends.

May import: the standard library.  A thread cannot be stopped in the middle of a task.  The standard library's ``join()``
waits for it all the same, for as long as the task takes, although ``terminate()`` was to abandon it.
"""

from multiprocessing import pool as mp_pool
from time import monotonic

from .._typing import Any

__all__ = ["ThreadPool"]

#: How long ``join()`` waits, after ``terminate()``, for threads that are in a task.
GRACE_S = 1.0


class ThreadPool(mp_pool.ThreadPool):
    """A pool of threads, with the methods of :class:`multiprocessing.pool.Pool`."""

    _state: str
    _pool: list[Any]

    def join(self) -> None:
        """Wait until the threads have ended; after ``terminate()``, leave behind those that are still in a task.

        They are daemons: they end with their task, or with the program.
        """
        if self._state == mp_pool.TERMINATE:
            deadline = monotonic() + GRACE_S
            for thread in self._pool:
                thread.join(max(0.0, deadline - monotonic()))
            self._pool[:] = [thread for thread in self._pool if not thread.is_alive()]
        super().join()
