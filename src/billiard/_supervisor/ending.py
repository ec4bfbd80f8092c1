"""How a pool ends.

    close        takes no more jobs; the core lets the workers go when there are none
    terminate    every worker is struck, and what has no result has none
    broken       the same, with SIGKILL: no worker can be kept alive
    release      all workers are gone: threads, template and descriptors go
    abandon      all at once, with SIGKILL, waiting for no call, callback or thread

In the last two, whatever a worker still holds ends too: nobody waits for what nobody will hear of.

In a child that somebody forks (`close_in_forked_child`) what is the parent's is closed, and nothing disturbed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from .._core.core import Core
from .._core.state import Cause, Fate
from .._typing import Any, Final
from .target import Waitable
from .turning import Turning

_TURN_WAIT_S: Final = 1.0  # for another thread's turn, when all is given up
_ORPHANS_WAIT_S: Final = 1.0  # they were sent SIGKILL, and nobody would reap them later


class _End(Waitable):
    """The end of an engine, as something to wait for: no worker is left, and nobody is to be told of anything (an exception
    may have come between a worker's end and the telling). Or everything was given up, and nothing is to come."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending

    @property
    def state(self) -> int:  # type: ignore[override]  # read only
        core = self._ending.core
        undone = core.dispatch.backlog or core.dispatch.settled or core.outbox.notifications
        return int(self._ending.closed or (core.worker_set.over and not undone))


class Ending(Turning):
    """How the parts of one engine end."""

    def __init__(self, core: Core, notify: Callable[[str, Any, Any], None], threaded: bool, name: str) -> None:
        super().__init__(core, notify, threaded, name)
        self.end = _End(self)
        self.closed = False
        self._pid = os.getpid()

    def close_later(self) -> None:
        """Take no more jobs; end when there are none. Callable from anywhere, a signal handler included."""
        self.core.worker_set.close()
        self.wake()

    def terminate_later(self) -> None:
        """End now. Callable from anywhere, a signal handler and `__del__` included."""
        self.terminate_wanted = True
        self.wake()
        self.driver.wake_supervisor()

    def _give_up_workers(self) -> None:
        """Nobody will hear of the workers that are left, so they and what they hold end here: one that was made for a call
        which came when the end had been seen, or all of a pool that ends with its program. Repeatable."""
        now = time.monotonic()
        self.core.worker_set.terminate()
        self._kill_all(signal.SIGKILL, Cause.POOL_TERMINATED, now)
        for worker in list(self.core.worker_set.workers.values()):
            self.processes.give_up(worker, now)
        self.core.worker_set.terminate()  # once more, for what they had not begun

    def release(self, patience_s: float | None = None) -> None:
        """All workers are gone: end threads, template and descriptors. Repeatable. Waits for a callback that runs, for
        `patience_s` seconds (None: as long as it takes)."""
        if self.in_forked_copy():
            return
        self.driver.stop(self.wake)
        with self._lock:
            if not self.closed:
                if self.core.worker_set.workers:
                    self._give_up_workers()
                self.processes.launcher.close()
                self.processes.reap_orphans(_ORPHANS_WAIT_S)
                self.closed = True
            self.poll_set.close()
        self._settle_late(patience_s)

    def _settle_late(self, patience_s: float | None = None) -> None:
        """What was handed over when nobody would see it any more ends too, or whoever waits for it would wait for ever: a
        thread may have been between its look at the pool's state and its submission, or still be reading a map's input."""
        if self.in_forked_copy():
            return
        with self._lock:
            self.core.worker_set.fail_backlog(Fate(Cause.POOL_TERMINATED))
            self._tell()
            self._notify_settled()
            if self.callback_runner.pending:
                self.callback_runner.hand_over()
        self.callback_runner.stop(patience_s)

    def in_forked_copy(self) -> bool:
        """Whether this process is not the pool's, but was forked off it."""
        return self._pid != os.getpid()

    def refuse_in_forked_copy(self) -> None:
        """Raise RuntimeError in a process that was forked off the pool's: it would wait for ever."""
        if self.in_forked_copy():
            raise RuntimeError(
                f"this pool belongs to process {self._pid}, of which this one is a fork: nothing comes back here; make one here"
            )

    def abandon(self) -> None:
        """End at once, waiting for nothing but the processes that are killed."""
        if self.closed or self.in_forked_copy():
            return
        held: list[bool] = []  # see billiard._supervisor
        if self.interrupted():
            return  # by a `__del__`; the interpreter's exit ends the template
        try:
            # another thread may be in the midst of a turn; one that never ends must not keep the interpreter
            held.extend(map(self._lock.acquire, (True,), (_TURN_WAIT_S,)))
            if held[0]:
                self.driver.stop_later()
                self.driver.wake_supervisor()
                self.closed = True
                self._give_up_workers()
                self._notify_settled()  # a map that has a callback, or an unordered iterator, knows its end by that alone
                self.processes.launcher.close()
                self.processes.reap_orphans(_ORPHANS_WAIT_S)
                self.poll_set.close()
        finally:
            if held and held[0]:
                self._lock.release()

    def close_in_forked_child(self) -> None:
        """In a child that some other code forked: close what belongs to the parent, disturb nothing."""
        if self.closed:
            return
        self.closed = True
        for worker in list(self.core.worker_set.workers.values()):
            if worker.link is not None:
                worker.link.close_in_forked_child()
                worker.scoreboard = None  # what its calls are on, nobody here can see any more
        launcher = getattr(self.processes, "launcher", None)
        if launcher is not None:
            launcher.close_in_forked_child()
        self.poll_set.close_in_forked_child()
