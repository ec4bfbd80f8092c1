"""The semaphore that bounds how many jobs a pool holds.

May: count and wait. May not: know about jobs or pools.
"""

from __future__ import annotations

import threading


class LaxBoundedSemaphore(threading.Semaphore):
    """A semaphore whose bound can move, and that forgives a release too many instead of raising.

    A worker that dies just after sending its result releases twice: once for the result, once for its death.
    """

    def __init__(self, value: int = 1, verbose: object = None) -> None:
        super().__init__(value)
        self._initial_value = value
        self._value: int
        self._cond: threading.Condition

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._value} of {self._initial_value}>"

    def grow(self) -> None:
        """One slot more."""
        with self._cond:
            self._initial_value += 1
            self._value += 1
            self._cond.notify()

    def shrink(self) -> None:
        """One slot less; waits until one is free."""
        # The bound last: lowered before, it would have a release forgotten that comes while this still waits.
        self.acquire()
        with self._cond:
            self._initial_value -= 1

    def release(self, n: int = 1) -> None:
        """Give back a slot; above the bound this does nothing."""
        with self._cond:
            if self._value < self._initial_value:
                self._value = min(self._value + n, self._initial_value)
                self._cond.notify(n)

    def clear(self) -> None:
        """Free every slot, so that nobody waits on a pool that is closing."""
        with self._cond:
            self._value = max(self._value, self._initial_value)
            self._cond.notify_all()
