"""What bounds the calls in flight (``putlocks``), where the user brought no semaphore.

A slot is a token in a queue written in C. An exception of a signal handler can come before or after a token moves, not in
between; in the midst of `threading.Semaphore` it leaves a lock taken, and nobody gets a slot any more.
"""

from __future__ import annotations

import queue
from collections import deque


class Slots:
    """So many free slots. Also a semaphore, for whoever takes `Pool._putlock` for one."""

    def __init__(self, count: int) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(count):
            self.release()

    def acquire(self, blocking: bool = True) -> bool:
        """Take a slot, waiting for it if `blocking`. Whether there was one."""
        try:
            self._free.get(blocking)
        except queue.Empty:
            return False
        return True

    def release(self) -> None:
        """One slot more."""
        self._free.put(None)


class Slot:
    """A call's slot, once it got one. Given back once, when the call has ended, and at the latest with this object."""

    __slots__ = ("_free", "_held")

    def __init__(self, slots: Slots) -> None:
        self._free = slots._free
        self._held: list[None] = []

    def acquire(self, blocking: bool = True) -> bool:
        """Take it, waiting until one is free if `blocking`. Whether one was."""
        try:
            self._held.extend(map(self._free.get, (blocking,)))
        except queue.Empty:
            return False
        return True

    def release(self) -> None:
        """Give it back, if it was not yet."""
        deque(map(self._free.put, map(self._held.pop, [-1] * len(self._held))), 0)

    def __del__(self) -> None:
        if hasattr(self, "_held"):  # else an exception came before
            self.release()
