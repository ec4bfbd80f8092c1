"""One turn's work, and the parts that it is done with.

    poll set -> frames, exits, wake-ups -> deadlines -> decide -> orders -> writing -> notifications, ends, callbacks

May not: take the engine's lock, which whoever calls holds; poll, wait, or run user code.

A turn may be cut short by an exception between any two bytecodes (Ctrl-C, a raising SIGALRM handler). Nothing is lost
then, because every step leaves its cause in place until it has been dealt with: frames are applied before they are
consumed, events before they are dropped, orders before they are popped; and each may be applied twice. `_unfinished` says
that such a rest exists, and the next turn then looks at everything instead of at what the poll reports.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable

from .._core.core import Core
from .._core.state import Cause
from .._core.worker_set import PoolState
from .._typing import Any
from ..common import TERM_SIGNAL
from .callback_runner import CallbackRunner
from .channels import Channels
from .driver import Driver
from .poll_set import IN, OUT, PollSet
from .processes import Processes
from .target import Waitable


class Turning:
    """The parts of one engine, and what is done with them under its lock."""

    # made by those who extend this
    driver: Driver
    end: Waitable

    def __init__(self, core: Core, notify: Callable[[str, Any, Any], None], threaded: bool, name: str) -> None:
        self.core = core
        self.threaded = threaded
        self.poll_set = PollSet()
        self.channels = Channels(core, self.poll_set)
        self.processes = Processes(core, self.poll_set, self.channels)
        self.callback_runner = CallbackRunner(threaded, f"{name}-callbacks")
        self.wake = self.poll_set.wake
        self.terminate_wanted = False
        # It knows its owner: a signal handler may have interrupted that very thread, and would wait for itself.
        lock: Any = threading.RLock()
        self._lock = lock
        #: Whether this thread is in the middle of the pool's work: then we are in a signal handler (or a `__del__`), and that
        #: work goes on only when the handler returns. Nothing can be changed or waited for until then.
        self.interrupted: Callable[[], bool] = lock._is_owned
        self._notify = notify
        self._unfinished = False  # a turn was cut short: look at everything, and at once
        self._postponed: deque[Callable[[], None]] = deque()  # changes that a signal handler wanted in the midst of a turn
        self._all_killed = False  # all workers were

    def _process(self, events: list[tuple[int, int]], now: float) -> None:
        """One turn's work: `events` are what the poll set has reported."""
        poll_set, by_fd = self.poll_set, self.poll_set.by_fd
        everything = self._unfinished
        self._unfinished = True
        self.core.dispatch.turned(now)
        if everything:
            self.core.worker_set.mark_dirty()
            events = [(fd, IN | OUT) for fd in list(by_fd)]
        for fd, mask in events:
            worker = by_fd.get(fd)
            if worker is not None:
                self.channels.on_channel(worker, mask)
            elif fd == poll_set.wake_fd:
                poll_set.woken()
            else:
                self.processes.on_launcher(fd, now)
        if self.processes.exits:
            for worker in list(self.processes.exits):
                self.processes.reap(worker, now)
        deadline = self.core.timers.next()
        if deadline is not None and deadline <= now:
            self._run_timers(now)
        if self.terminate_wanted:
            self._begin_termination(now)
        while self._postponed:
            self._postponed.popleft()()
        self._carry_out(now)
        self._unfinished = False

    def _run_timers(self, now: float) -> None:
        for worker, kind in self.core.timers.due(now):
            # a call that finished in time must not be struck because its result has not been read
            if worker.link is not None and not worker.link.channel.closed_by_peer:
                self.channels.drain(worker)
            self.core.on_timer(worker, kind, now)

    def _carry_out(self, now: float) -> None:
        """Let the core decide, and do all that follows from it."""
        core = self.core
        core.decide(now)
        orders, signals = core.outbox.orders, core.outbox.signals
        while orders or signals:
            # the signals first: a template that forks the replacement hears of the death only when it has
            queue = signals or orders
            self.processes.obey(*queue[0], now)
            queue.popleft()
        if core.dispatch.unwritten:
            self.channels.write_all()
        if core.worker_set.pool_state is PoolState.BROKEN:
            self._end_broken(now)
        self._tell()
        self._notify_settled()
        unneeded = self.channels.functions.unneeded
        while unneeded:
            self.channels.forget_function(unneeded[0])
            unneeded.popleft()
        if self.callback_runner.pending:
            self.callback_runner.hand_over()
            if self.callback_runner.pending and self.threaded:
                self.wake()  # its thread could not be made
        if core.worker_set.pool_state and self.end.state:
            self.end.wake_all()
        if self.driver.led_elsewhere:
            self.wake()

    def _tell(self) -> None:
        notifications = self.core.outbox.notifications
        while notifications:
            self._notify(*notifications[0])
            notifications.popleft()

    def _notify_settled(self) -> None:
        settled = self.core.dispatch.settled
        while settled:
            settled[0].notify_settled()  # type: ignore[attr-defined]  # only the API's jobs are watched, and these have it
            settled.popleft()

    # -- all workers at once

    def _begin_termination(self, now: float) -> None:
        """Strike every worker, and settle what has no result. Repeatable."""
        self.core.worker_set.terminate()
        self._kill_all(TERM_SIGNAL, Cause.POOL_TERMINATED, now)
        self.terminate_wanted = False

    def _end_broken(self, now: float) -> None:
        """It cannot keep workers alive: those it has go too. Repeatable."""
        if not self._all_killed:
            self._kill_all(signal.SIGKILL, Cause.RESTARTS, now)

    def _kill_all(self, signum: int, cause: Cause, now: float) -> None:
        for worker in list(self.core.worker_set.workers.values()):
            if worker.link is None:
                self.core.worker_set.exited(worker, None, now)
            elif not worker.link.exited:
                self.core.preemption.kill_now(worker, signum, cause, now)
        self._all_killed = True  # not before: cut short, it would never be repeated, and the pool never end
        signals = self.core.outbox.signals
        while signals:
            self.processes.obey(*signals[0], time.monotonic())
            signals.popleft()
