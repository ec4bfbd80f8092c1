"""Where user code of the parent runs: callbacks and hooks, one after the other, never under the pool's lock.

With threads one thread does it, started with the first thing to run. Without, or if none can be made, whoever has
driven does it after the turn. What a callback raises is logged; only what the pool was told to let through (`propagate`) leaves
a turn.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable

from .._typing import Any, Protocol
from . import log


class QueuedCallback(Protocol):
    """Something to run user code with."""

    def run_callbacks(self) -> None:
        """Run it, once: told again, do nothing."""


class _Call:
    """One call of user code."""

    __slots__ = ("arguments", "done", "function")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.done = False

    def run_callbacks(self) -> None:
        if not self.done:
            self.done = True
            self.function(*self.arguments)


class CallbackRunner:
    """Runs callbacks in the order given.

    `pending` takes them; `add` makes one of any call. What was handed over and not yet struck off is handed over again.
    """

    def __init__(self, threaded: bool, name: str) -> None:
        self._threaded = threaded
        self._name = name
        self.thread: threading.Thread | None = None
        self._runs = threading.Lock()  # held by the thread that runs callbacks
        self._queue: queue.SimpleQueue[list[QueuedCallback] | None] = queue.SimpleQueue()
        self.pending: deque[QueuedCallback] = deque()

    def add(self, function: Callable[..., Any], *args: Any) -> None:
        """Call it later: after `hand_over`, or in `run_here`."""
        self.pending.append(_Call(function, args))

    def hand_over(self) -> None:
        """Let the thread run what was added. One hand-over a turn, however many results it brought. Under the pool's lock."""
        if not self._threaded:
            return
        batch = list(self.pending)
        self._queue.put(batch)
        for _ in batch:  # no others: a map that its caller found to be over is added without the lock
            self.pending.popleft()
        if not self._runs.locked():  # or it is about to end, and looks once more
            # stored when it has started, here and by itself: cut short in between, one that never started would be trusted
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there are too many: from now on whoever turns does it
                self._threaded = False
                self.pending.extendleft(reversed(batch))
                return
            self.thread = self.thread or thread

    def run_here(self) -> None:
        """Run what was added, in this thread. An exception leaves what is behind it for the next time."""
        while self.pending and not self._threaded:
            taken: list[QueuedCallback] = []
            try:
                taken.extend(itertools.starmap(self.pending.popleft, ((),)))  # one call in C: taken and noted, or neither
                taken[0].run_callbacks()
                taken.clear()
            except IndexError:
                if not taken:  # another thread turns too
                    return
                raise
            finally:
                if taken:  # cut short, perhaps before it began; if it had begun, the second time does nothing
                    self.pending.appendleft(taken[0])

    def _run(self) -> None:
        while self._runs.acquire(blocking=False):  # else another one was started
            self.thread = threading.current_thread()
            while self._run_batch():
                pass
            self._runs.release()
            if self._queue.empty():
                return
            # a batch behind the end: whoever put it there saw us at work, and started nobody

    def _run_batch(self) -> bool:
        """Wait for a batch and run it. A function of its own, so that nothing told stays in a local until the next one
        comes: a callback leads to its call, the call to its pool, and a forgotten pool would never end."""
        batch = self._queue.get()
        if batch is None:
            return False
        for queued in batch:
            try:
                queued.run_callbacks()
            except BaseException as exc:  # a callback's SystemExit must not silence those behind it
                log_callback_error(getattr(queued, "function", queued), exc)
        return True

    def stop(self, patience_s: float | None = None) -> None:
        """Run what was handed over, then end the thread, waiting `patience_s` seconds for it (None: as long as it takes); from
        that thread itself, only say so. Without a thread, run what was added."""
        thread = self.thread
        if thread is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join(patience_s)
                if self.thread is thread and not thread.is_alive():
                    self.thread = None
        else:
            self.run_here()


def call_hook(hook: Callable[..., Any], *args: Any) -> None:
    """Call a pool's hook. What it raises is logged: no call is to blame for it, and none must suffer from it."""
    try:
        hook(*args)
    except Exception as exc:
        log_callback_error(hook, exc)


def log_callback_error(function: Any, exc: BaseException) -> None:
    """Say in the log that a callback raised."""
    log.error("Pool callback %r raised exception: %r", function, exc, exc_info=exc)
