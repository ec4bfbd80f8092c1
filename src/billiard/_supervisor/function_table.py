"""The functions that calls name by a number: their pickles, and when each can be forgotten.

May not: decide when that is; whoever numbered a function says so (`unneeded`), and a turn carries it out.
"""

from __future__ import annotations

from collections import deque

from .._typing import Any
from .._wire import pickling
from .._wire.pickling import MainSnapshot


class FunctionTable:
    """The functions that calls name by a number, since a number is six times cheaper to pickle.

    Keyed by identity, with a reference kept, so that an id is never that of another object.
    """

    def __init__(self) -> None:
        self.ids: dict[int, int] = {}  # id(function) -> its number
        self.pickles: dict[int, bytes] = {}
        self.unneeded: deque[int] = deque()  # numbers that no further call names
        self._kept: list[Any] = []
        self._next = 1

    def add(self, func: Any, pickled: bytes, remember: bool = True) -> int:
        """Number a function. With `remember` False the same object gets another number the next time, and this one is to
        be forgotten when its last call has ended."""
        number, self._next = self._next, self._next + 1
        self.pickles[number] = pickled
        if remember:
            self._kept.append(func)
            self.ids[id(func)] = number
        return number

    def renew(self, snapshot: MainSnapshot) -> None:
        """The workers to come have today's `__main__`: a function that goes by another's name there goes to them by value."""
        for func in self._kept:
            if func.__module__ == "__main__" and not snapshot.has(func):
                number = self.ids[id(func)]
                try:
                    self.pickles[number] = pickling.dumps_whole(func, snapshot)
                except Exception:
                    self.pickles.pop(number, None)  # an error for its calls, not the other function's result

    def __len__(self) -> int:
        return len(self.ids)
