"""Who drives the engine: one driver at a time, and nobody waits for a driver who may sleep. Among the callers it is done as the
pattern Leader/Followers has it.

    supervisor thread   drives when no caller does. While callers drive it naps: it would be woken by every result, only
                        to fight for the GIL. It is back 20 ms after the last caller left, or at the next deadline. A
                        caller may be kept from driving, by a signal's handler that interrupted it: while one drives for
                        long, the supervisor looks now and then after what that one should have seen to.
    a blocked caller    (`get`, `join`, ...) drives until it has what it waits for, so `apply` costs no change of thread: it
                        is the leader. A second caller waits on a lock of its own and takes over when the first leaves.
    ... inside another  A signal handler, or a callback in `turn`: the wait that it interrupted goes on only when it is
                        through. It drives beside whoever does.
    an outer loop       (``threads=False``) calls `turn` when `fileno()` is readable or `next_deadline()` has come.

The engine's lock is held only while events are applied, never while polling. Submitters do not wait for it: they append
to the backlog and try; whoever holds it looks at the backlog again after letting go. So submitting is safe in a signal
handler that interrupted the holder itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .._typing import Any, Final, Protocol
from . import log
from .poll_set import LONGEST_S
from .target import Target, moment_in

CALLERS_GONE_S: Final = 0.020  # after the last caller left, the supervisor thread drives
MOST_NAPS: Final = 10  # after one caller: on a clock that a test has stopped, CALLERS_GONE_S would never be over
LOOK_AFTER_S: Final = 0.1  # how often it looks whether the caller that drives sees to what there is
BESIDE_S: Final = 0.010  # ... and sees to it itself, once that one was found not to; so late it is with a deadline at most
LOOK_INSIDE_S: Final = 0.020  # how often a wait inside another one looks at its target: nobody wakes it
_FOREVER: Final = -1.0


class Drivable(Protocol):
    """What is driven."""

    @property
    def end(self) -> Target: ...
    def turn(self, timeout: float, spin: bool) -> None: ...
    def turn_beside(self, timeout: float) -> None: ...
    def turn_if_due(self) -> bool: ...
    def notice_suspension(self, due: float, cpu_s: float) -> None: ...
    def next_deadline(self) -> float | None: ...
    def wake_for_deadline(self) -> None: ...
    def release(self, patience_s: float | None) -> None: ...
    @property
    def interrupted(self) -> Callable[[], bool]: ...


class Driver:
    """Shares one `turn` among the supervisor thread, blocked callers and an outer loop."""

    def __init__(self, drivable: Drivable, waiting: dict[object, Any], name: str) -> None:
        """`waiting`: where to note each caller that waits while another drives, with the lock that it sleeps on."""
        self._drivable = drivable
        self._turn = drivable.turn
        self._next_deadline = drivable.next_deadline
        self._interrupted = drivable.interrupted
        self._name = name
        self._leader = threading.Lock()  # held by the caller that drives
        self._leader_ident = 0  # its thread, set before it looks at its target and polls
        self._leader_turns = 0  # ever begun; while this stands still the leader polls, or was interrupted
        self._late_since = -1  # as many there were when the leader was found not to see to something
        self._waiting = waiting
        self._inside: dict[int, None] = {}  # threads that are in `wait`
        self._last_left = 0.0
        self._napped_after, self._naps = 0.0, 0
        self._parked = False
        self._park = threading.Lock()
        self._park.acquire()
        self._stopping = False
        self.thread: threading.Thread | None = None

    # -- a blocked caller

    def wait(self, target: Target, timeout: float | None) -> bool:
        """Drive, or wait for the one who does, until `target` is settled. False when `timeout` seconds were too few."""
        deadline = None if timeout is None else moment_in(timeout)
        me, inside = threading.get_ident(), self._inside
        if me in inside or self._interrupted():
            return self._wait_inside(target, deadline)
        try:
            inside[me] = None
            while not target.state:
                held: list[bool] = []  # see billiard._supervisor
                try:
                    held.extend(map(self._leader.acquire, (False,)))
                    if held[0]:
                        return self._lead(target, deadline)
                finally:
                    if held and held[0]:
                        # here and first: entering a function is a point where a signal's handler may raise, and the lock
                        # would stay taken by nobody
                        self._leader_ident = 0
                        try:
                            self._leader.release()
                            self._hand_over()
                        except BaseException:
                            self._hand_over()
                            raise
                if not self._sleep(target, deadline):
                    return bool(target.state)
            return True
        finally:
            inside.pop(me, None)

    def _wait_inside(self, target: Target, deadline: float | None) -> bool:
        """In a signal handler, or in a callback that `turn` runs: this thread waits already, perhaps as the leader, and that
        wait goes on only after this one. So drive beside whoever does, and look often: being woken is the others' right."""
        drivable = self._drivable
        while not target.state:
            if drivable.interrupted():
                raise RuntimeError(
                    "a signal handler has interrupted the pool in the middle of its work, which can go on only when the handler"
                    " returns: it cannot wait for the pool"
                )
            rest = LOOK_INSIDE_S if deadline is None else min(LOOK_INSIDE_S, deadline - time.monotonic())
            drivable.turn_beside(max(rest, 0.0))
            if rest <= 0:
                return bool(target.state)
        return True

    def _lead(self, target: Target, deadline: float | None) -> bool:
        # before the first look at the target: see `led_elsewhere`
        self._leader_ident = threading.get_ident()
        turn = self._turn
        while not target.state:
            self._leader_turns += 1
            if deadline is None:
                turn(_FOREVER, True)
                continue
            timeout = deadline - time.monotonic()
            if timeout <= 0:
                turn(0.0, False)  # a timeout of 0 asks what is known now, and that takes a look
                return bool(target.state)
            turn(timeout, True)
        return True

    def _hand_over(self) -> None:
        """The leader has left: see to it that somebody drives. Repeatable."""
        self._last_left = time.monotonic()
        if self._waiting:
            for lock in list(self._waiting.values()):
                _release(lock)  # somebody who waits takes over
                return
        if self._parked:
            _release(self._park)  # it naps on, but not for ever
        # ... or it sleeps on the poll set, and a wake-up that was meant for it was taken by the leader
        self._drivable.wake_for_deadline()

    def _sleep(self, target: Target, deadline: float | None) -> bool:
        """Sleep until the target is settled, or the leader leaves. False when the time was up."""
        key = object()
        lock = threading.Lock()
        lock.acquire()
        stays = False

        def wake() -> None:
            _release(lock)

        try:
            self._waiting[key] = lock
            target.watch(wake)
            in_time = True
            if not target.state and self._leader.locked():
                if deadline is None:
                    lock.acquire()
                else:
                    in_time = lock.acquire(timeout=min(max(0.0, deadline - time.monotonic()), LONGEST_S))
                    in_time = in_time or time.monotonic() < deadline
            stays = in_time and not target.state
            return in_time
        finally:
            try:
                self._waiting.pop(key, None)
                target.unwatch(wake)
                if not stays and not self._leader.locked():
                    # the leader may have left it to us, and we leave too; the supervisor may be parked, and would be for ever
                    self._hand_over()
            except BaseException:
                self._waiting.pop(key, None)
                self._hand_over()
                raise

    @property
    def led_elsewhere(self) -> bool:
        """Whether another thread drives. It may have looked at its target before this thread applied the result, and be
        about to poll for what will never come: it has to be woken."""
        return self._leader_ident not in (0, threading.get_ident())

    @property
    def is_leader(self) -> bool:
        """Whether this thread drives, and goes on to."""
        return self._leader_ident == threading.get_ident()

    # -- the supervisor thread

    def start(self) -> None:
        """Start the supervisor thread."""
        self.thread = threading.Thread(target=self._supervise, name=self._name, daemon=True)
        self.thread.start()

    def _supervise(self) -> None:
        failures = 0
        while not self._stopping:
            try:
                if not self._nap():
                    self._turn(_FOREVER, False)
                failures = 0
                if self._drivable.end.state:
                    self._drivable.release(0.0)  # a callback may wait for us
            except BaseException as exc:  # also what another thread throws into this one: without it no limit holds
                # the rules keep what is undone for the next turn; a turn that never succeeds must not spin
                log.error("%s: a turn failed and is repeated", self._name, exc_info=exc)
                failures += 1
                self._park.acquire(timeout=min(0.01 * 2**failures, 1.0))

    def _nap(self) -> bool:
        """Sleep while callers drive. True: it slept, look again whether they do; False: drive now."""
        now = time.monotonic()
        rest = self._last_left + CALLERS_GONE_S - now
        if self._last_left != self._napped_after:
            self._napped_after, self._naps = self._last_left, 0
        if rest > 0 and self._naps < MOST_NAPS:
            self._naps += 1
            # callers come and go: a nap of fixed length costs them nothing, being woken by each would
            deadline = self._next_deadline()
            if deadline is not None:
                rest = min(rest, deadline - now)
            if rest <= 0:
                return False
            self._park.acquire(timeout=rest)
            return True
        if not self._leader.locked():
            return False
        # one caller drives for long: it wakes us when it leaves
        turns, patience_s, cpu_s = self._leader_turns, self._patience_s(now), time.process_time()
        self._parked = True
        # else it left before it could see that we are parked
        called = not self._leader.locked() or self._park.acquire(timeout=patience_s)
        self._parked = False
        if not called:
            self._drivable.notice_suspension(now + patience_s, cpu_s)
            if turns == self._leader_turns and self._drivable.turn_if_due():
                self._late_since = turns
        return True

    def _patience_s(self, now: float) -> float:
        """For how long to leave everything to the caller that drives."""
        if self._late_since == self._leader_turns:
            return BESIDE_S
        deadline = self._next_deadline()
        return LOOK_AFTER_S if deadline is None else min(max(deadline - now, 0.0) + BESIDE_S, LOOK_AFTER_S)

    def caller_turned(self) -> None:
        """A caller is busy with us and turns now and then: no need for the supervisor yet."""
        self._last_left = time.monotonic()

    def wake_supervisor(self) -> None:
        """End its nap, if it naps. What makes it poll is not this: see Engine.wake."""
        self._last_left = 0.0
        _release(self._park)

    def stop_later(self) -> None:
        """The supervisor thread ends when it next looks; somebody else sees to that."""
        self._stopping = True

    def stop(self, wake: Callable[[], None]) -> None:
        """End the supervisor thread; from that thread itself, only say so."""
        self._stopping = True
        thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            self.wake_supervisor()
            wake()
            thread.join()
            self.thread = None


def _release(lock: Any) -> None:
    try:
        lock.release()
    except RuntimeError:
        pass  # released already
