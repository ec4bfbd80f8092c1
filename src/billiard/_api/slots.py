"""What bounds the calls in flight (``putlocks``): as many slots as workers, or the semaphore that the user brought.

A slot is a token in a queue written in C. An exception of a signal handler can come before or after a token moves, not in
between; in the midst of `threading.Semaphore` it leaves a lock taken, and nobody gets a slot any more.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque

from .._typing import Any


class Slots:
    """So many free slots. Also a semaphore, for whoever takes `Pool._putlock` for one."""

    def __init__(self, count: int) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._owed: list[None] = []  # slots that `shrink` found taken: the next ones given back are gone
        for _ in range(count):
            self.grow()

    def grow(self) -> None:
        """One slot more."""
        self.release()

    def shrink(self) -> None:
        """One slot less: a free one at once, or the next that is given back."""
        if not self.acquire(blocking=False):
            self._owed.append(None)

    def acquire(self, blocking: bool = True) -> bool:
        """Take a slot, waiting for it if `blocking`. Whether there was one."""
        try:
            self._free.get(blocking)
        except queue.Empty:
            return False
        return True

    def release(self) -> None:
        """Give one back."""
        try:
            self._owed.pop()
        except IndexError:
            self._free.put(None)


class Slot:
    """A call's slot, once it got one. Given back once, when the call has ended, and at the latest with this object."""

    __slots__ = ("_free", "_held", "_owed")

    def __init__(self, slots: Slots) -> None:
        self._free, self._owed = slots._free, slots._owed
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
        if self._owed and self._held:
            with contextlib.suppress(IndexError):  # another call has paid meanwhile
                # in this order and in C, or a slot that was let go of would be neither owed nor free
                deque(zip(map(self._owed.pop, (-1,)), map(self._held.pop, (-1,)), strict=False), 0)
        deque(map(self._free.put, map(self._held.pop, [-1] * len(self._held))), 0)

    def __del__(self) -> None:
        if hasattr(self, "_held"):  # else an exception came before
            self.release()


def resize(slots: Any, by: int) -> None:
    """As many slots more, or less, as workers; of a semaphore that cannot be resized its owner knows why it has so many."""
    if by >= 0:
        for _ in range(by if hasattr(slots, "grow") else 0):
            slots.grow()
    elif hasattr(slots, "shrink"):
        # billiard's waits until one is free, perhaps for what only this thread can bring about
        waits = isinstance(slots, threading.Semaphore)
        for _ in range(-by):
            if waits:
                threading.Thread(target=slots.shrink, name="billiard-shrink", daemon=True).start()
            else:
                slots.shrink()
