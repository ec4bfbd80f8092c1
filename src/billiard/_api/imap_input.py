"""The input of a lazy map, taken chunk by chunk: in the threads of those who ask for results (see `imap`).

User code runs in here, the input's own. Whatever cuts that short, no item is lost, and none is taken twice.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator

from .._typing import Any
from .._wire import errors, frames, pickling
from . import outcome
from .map_results import Chunk


class Input:
    """The items of an `imap`, as chunks. In one thread at a time; after an exception it goes on where it was.

    Hence no generator, which an exception of a signal's handler would end, and the iteration with it.
    """

    def __init__(self, items: Iterator[Any], size: int, make: Callable[[Any, Any, int], Chunk]) -> None:
        """`make(group, items, index of the first)` a chunk of up to `size` items."""
        self._items = items
        self._size = size
        self._make = make
        self._taken: Any = []  # items that are in no chunk that was submitted
        self._chunk: Chunk | None = None  # the one that was made of them
        self._ended = False
        self.given = 0  # chunks that were submitted
        self.error: Exception | None = None  # what the input raised, until it is told

    def peek(self, group: Any) -> Chunk | None:
        """The next chunk, the same one until `advance`; None at the end of the input. `group`: of the chunk, see `Group`."""
        if self._chunk is not None:
            return self._chunk
        taken, size = self._taken, self._size
        if not taken or len(taken) < size:
            self._take()
            taken = self._taken
            if not taken:
                return None
        first = self.given * size
        try:
            chunk = self._make(group, taken, first)
        except Exception as exc:
            # an item that cannot be pickled is a call that has failed: the iteration goes on behind it
            chunk = _failed(group, pickling.confirm_error(exc, self._make, group, taken, first))
        self._chunk = chunk
        return chunk

    def end(self, error: Exception) -> None:
        """Take no more of it: `error` says why."""
        self._ended, self.error, self._taken, self._chunk = True, error, [], None

    def advance(self) -> None:
        """The chunk has been submitted: on to the next."""
        self._chunk, self._taken, self.given = None, [], self.given + 1

    def _take(self) -> None:
        if self._ended:
            return
        one = self._size == 1
        more = None if one else itertools.islice(self._items, self._size - len(self._taken))
        try:
            # No call, and no loop that turns: no handler runs but in the input's own code. So what is raised here was raised
            # there, and the items that came before it are stored.
            if one:
                for item in self._items:
                    self._taken = (item,)
                    return
            else:
                self._taken += more
        except Exception as exc:
            self._ended, self.error = True, exc  # it is told after the results of what the input gave before
            if _raised_by_a_handler(exc):
                self._ended, self.error = False, None  # not the input's error, and meant for now
                raise
            self._taken = []  # as in multiprocessing: the error stands for the chunk in which it was raised
        else:
            self._ended = len(self._taken) < self._size


def _failed(group: Any, error: Exception) -> Chunk:
    chunk = Chunk(group, frames.CALL, 0, None, 0, 0)
    tb = error.__traceback__
    chunk.body, chunk.state = errors.parent_made(error, error.__cause__), outcome.FAILURE
    error.__traceback__ = tb  # it leads to the method that would not pickle
    return chunk


def _raised_by_a_handler(exc: BaseException) -> bool:
    """Whether a signal's handler did, which interrupted the input's own code."""
    codes = {getattr(signal.getsignal(signum), "__code__", None) for signum in signal.valid_signals()}
    tb = exc.__traceback__
    while tb is not None:
        if tb.tb_frame.f_code in codes:
            return True
        tb = tb.tb_next
    return False
