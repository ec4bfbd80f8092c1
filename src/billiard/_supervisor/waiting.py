"""How a driver waits for news: it looks, naps, spins, sleeps, in this order.

    look    the poll set, at once
    nap     All workers have work for a while: what comes meanwhile is taken together. Being woken by each result costs a
            processor that a worker would use: with calls of 1 ms a twelfth of all of them.
    spin    A caller is blocked, and the answer may be there sooner than a sleeper is woken (see billiard._wire.spin).
    sleep   until a descriptor is ready, or the next deadline.

It also notices that nobody could run for a while (the machine was suspended), which is no call's running time.
"""

from __future__ import annotations

import threading
import time

from .._core import preemption
from .._core.core import Core
from .._core.state import NEVER_S
from .._typing import Any, Final
from .._wire.spin import SpinWait
from .poll_set import Events, PollSet

NAP_MAX_S: Final = 0.002
NAP_MIN_S: Final = 0.0002
HOLD_S: Final = 0.0015  # while callers wait, the GIL is kept for so long ...
LET_GO_S: Final = 0.00005  # ... and then let go of for long enough that somebody takes it
HELD_SPIN_S: Final = 0.000015  # ... and kept for so much of a spin: those who wait for it may be those who would give out work
LATE_S: Final = 0.25  # a poll that overslept by this much, without the process computing, was suspended
WATCH_SUSPENSION_S: Final = 1.0  # with limited calls running, poll at least this often to notice a suspension


class Waiting:
    """When to sleep on the poll set of one pool, for how long, and who does."""

    def __init__(self, core: Core, poll_set: PollSet, lock: Any) -> None:
        self._core = core
        self._poll_set = poll_set
        self._lock = lock
        self.sleepers: dict[int, float] = {}  # threads that sleep on the poll set, and until when
        self.told_deadline: float | None = None  # when an outer loop was last told to come; None: it never asked
        self._spin = SpinWait()
        self._awake_at = 0.0  # when a thread of ours last woke because its time was up
        self._let_go_at = 0.0  # when one who waits for news last let others have the GIL for a while

    def wait_for_events(self, timeout: float, spin: bool = False) -> Events:
        """What the poll set reports within `timeout` seconds (-1: until the next deadline)."""
        if self._poll_set.waiting_callers and time.monotonic() - self._let_go_at > HOLD_S:
            self._let_go(LET_GO_S)
        events = self._poll_set.look()
        if events or timeout == 0.0:
            return events
        nap_s = self._core.spare_s() / 2
        if nap_s > NAP_MIN_S:
            return self._napped(min(nap_s, NAP_MAX_S), timeout)
        if not spin:
            return self._slept(timeout)
        if (seconds := self._spin.seconds()) and (events := self._spun(seconds)):
            return events
        began = time.monotonic()
        events = self._slept(timeout)
        self._spin.slept(time.monotonic() - began)
        return events

    def _napped(self, nap_s: float, timeout: float) -> Events:
        deadline = self._core.timers.next()
        if deadline is not None:
            nap_s = min(nap_s, deadline - time.monotonic())
        if timeout > 0.0:
            nap_s = min(nap_s, timeout)
        if nap_s > 0.0:
            self._let_go(nap_s)
        return self._poll_set.look()

    def _spun(self, seconds: float) -> Events:
        look, poll, clock = self._poll_set.look, self._poll_set.poll, time.monotonic
        now = clock()
        until, held_until = now + seconds, now + HELD_SPIN_S if self._poll_set.waiting_callers else 0.0
        while now < until:
            events = look() if now < held_until else poll(0.0)
            now = clock()
            if events:
                self._spin.found()
                return events
        self._spin.in_vain()
        return []

    def _let_go(self, seconds: float) -> None:
        """Let others have the GIL. For less than LET_GO_S it would only seem so: who waits for it is woken, comes too
        late, and begins anew to wait for the 5 ms after which he may demand it."""
        time.sleep(seconds)
        self._let_go_at = time.monotonic()

    def _slept(self, timeout: float) -> Events:
        me = threading.get_ident()
        self.sleepers[me] = NEVER_S  # before the look at the timers: whoever adds one after it will wake us
        try:
            deadline = self._core.timers.next()
            if deadline is not None or timeout > 0.0:
                return self._slept_bounded(me, timeout, deadline)
            return self._poll_set.poll(-1.0)
        finally:
            self.sleepers.pop(me, None)
            self._let_go_at = time.monotonic()
            if self._poll_set.closed:
                with self._lock:
                    self.end()

    def end(self) -> None:
        """Nobody has to wait any more: close the poll set, or have the last one close it who sleeps on it. Under the engine's
        lock; repeatable."""
        if self.sleepers.keys() <= {threading.get_ident()}:  # this thread does not, though a signal's handler may ask here
            self._poll_set.close()
        else:
            self._poll_set.wake_for_good()

    def overslept(self) -> bool:
        """Whether all who sleep, and an outer loop, would sleep past the next deadline, so that one must be woken.

        It is not enough to wake one when the deadline is set: the kernel lets a sleeper sleep on when somebody else has taken
        the wake-up by then, as a caller does who turns meanwhile. So whoever turned asks again when he leaves.
        """
        deadline = self._core.timers.next()
        if deadline is None:
            return False
        if self.told_deadline is not None and deadline < self.told_deadline:
            return True  # it is woken, and asks again
        if not self.sleepers:
            return False
        now = time.monotonic()
        # one whose time is up wakes by itself, or is what an exception left behind
        earliest = min((until for until in list(self.sleepers.values()) if until >= now), default=None)
        return earliest is not None and earliest > deadline

    def _slept_bounded(self, me: int, timeout: float, deadline: float | None) -> Events:
        now = time.monotonic()
        if timeout < 0.0:
            timeout = NEVER_S
        if deadline is not None and deadline - now < timeout:
            timeout = max(0.0, deadline - now)
        limited = any(preemption.LIMIT in worker.due for worker in list(self._core.worker_set.workers.values()))
        if limited and timeout > WATCH_SUSPENSION_S:
            timeout = WATCH_SUSPENSION_S
        self.sleepers[me] = now + timeout
        if not limited:
            return self._poll_set.poll(timeout)
        cpu_s = time.process_time()
        events = self._poll_set.poll(timeout)
        if not events:
            self.awake(now + timeout, cpu_s)
        return events

    def awake(self, due: float, cpu_s: float) -> None:
        """This thread was to wake at `due`. If it is late, this process has not computed (`cpu_s`: its processor time before),
        and no other thread of ours was awake, then the machine, or we and our workers, stood still: nobody could run."""
        now = time.monotonic()
        late = now - max(due, self._awake_at)
        self._awake_at = now
        if late > LATE_S and time.process_time() - cpu_s < 0.1 * late:
            with self._lock:
                self._core.preemption.exclude_suspension(now, late)
