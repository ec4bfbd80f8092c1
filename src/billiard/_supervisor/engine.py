"""The engine: one core, its workers' channels, one poll set, and the turn that ties them together.

    submit -> backlog -> assign -> write ------ channel ------> worker
                                                                  |
    settled <- results <- receive <------------ channel <---------+
       |                  exits   <- template's control socket, or a pidfd
       +-> waiters are woken, callbacks go to the callback runner

Its parts: `core` (the rules), `poll_set`, `channels`, `processes`, `waiting` (when to sleep), `driver` (who turns),
`callback_runner` (user code). None of them knows the engine, but for what the driver calls `Drivable`.

In here: who takes the lock, when, and who looks again after letting it go. What is then done under it stands in `turning`, how
all of it ends in `ending`, which extends that and is extended here.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable

from .._core.core import Core
from .._core.state import NEVER_S, Job, Worker
from .._core.worker_set import PoolState
from .._typing import Any, Final
from .._worker.signals import SOFT_SIGNAL
from . import log
from .driver import Driver
from .ending import Ending
from .fork_safety import remember
from .launching import Launcher
from .poll_set import PollSet
from .target import Target
from .waiting import Waiting
from .worker_link import Sentinel

OWN_WAIT_S: Final = 0.05  # for a thread that may be writing with buffers whose owner wants them back
_SIGNALS: Final = signal.valid_signals()  # once: asked for at each, they are nine tenths of what it costs to terminate a call
LOOK_EVERY: Final = 64  # submissions to busy workers between two looks at what can be given out and what has come back


class Engine(Ending):
    """Runs jobs on worker processes.

    `notify(kind, subject, value)` is called, under the lock, for each of the core's notifications; user code that this leads to
    belongs on `callback_runner`. `threaded`: have a supervisor thread, and one for callbacks. `name`: of these threads.
    """

    def __init__(
        self, core: Core, make_launcher: Callable[[PollSet], Launcher], notify: Callable[[str, Any, Any], None], threaded: bool,
        name: str,
    ) -> None:  # fmt: skip
        super().__init__(core, notify, threaded, name)
        self.waiting = Waiting(core, self.poll_set, self._lock)
        core.preemption.soft_signal = SOFT_SIGNAL
        core.dispatch.rescues = threaded  # or an outer loop that asks for deadlines: see `next_deadline`
        self._since_look = 0
        if threaded:
            log.prepare()
        self.driver = Driver(self, self.poll_set.waiting_callers, f"{name}-supervisor")
        remember(self)
        try:
            self.processes.launcher = make_launcher(self.poll_set)
        except BaseException:
            self.poll_set.close()
            raise

    def start(self) -> None:
        """Order the first workers, and start the supervisor thread if this engine has one."""
        with self._lock:
            self._carry_out(time.monotonic())
        if self.threaded:
            self.driver.start()

    @property
    def pool_state(self) -> PoolState:
        """Of the pool: whether it takes calls, ends, or is broken."""
        return self.core.worker_set.pool_state

    def fileno(self) -> int:
        """A descriptor that is readable when `turn` has something to do."""
        return self.poll_set.fileno()

    def next_deadline(self) -> float | None:
        """When `turn` must be called at the latest, in seconds of the monotonic clock; None: no such time.

        Whoever asks is told, by `fileno` being readable, when it becomes an earlier one.
        """
        if self.closed:
            return None
        if self._unfinished or (self.callback_runner.pending and not self.threaded):  # the latter: cut short before them
            return 0.0
        deadline = self.core.next_deadline()
        if not self.threaded:
            self.waiting.told_deadline, self.core.dispatch.rescues = NEVER_S if deadline is None else deadline, True
        return deadline

    # -- submitting

    def submit(self, job: Job) -> None:
        """Take a job over. Never blocks; callable from a signal handler."""
        dispatch = self.core.dispatch
        dispatch.backlog.append(job)
        self._since_look += 1
        if dispatch.idle:
            self.kick()
        elif self._since_look >= LOOK_EVERY:
            # Nobody is idle, so what was submitted can wait for company: one write for many calls. And what came back is
            # looked at here: the supervisor thread would have to wait for the GIL, which we hold.
            self._since_look = 0
            if self.threaded:
                self.driver.caller_turned()
                self._quick_turn()
            else:
                self.kick()
        elif self.core.worker_set.pool_state:
            self.wake()
        if self.closed:
            self._settle_late()

    def submit_all(self, jobs: Iterable[Job]) -> None:
        """Take many jobs over at once."""
        self.core.dispatch.backlog.extend(jobs)
        self.kick()
        if self.core.worker_set.pool_state:
            self.wake()
        if self.closed:
            self._settle_late()

    def kick(self) -> None:
        """Give out and write what can be, unless somebody is at it who will see it anyway."""
        dispatch = self.core.dispatch
        while not self.interrupted():
            held: list[bool] = []  # see billiard._supervisor
            try:
                held.extend(map(self._lock.acquire, (False,)))
                if not held[0]:
                    return
                self.core.assign(time.monotonic())
                self.channels.write_all()
            except BaseException:
                # cut short, perhaps before what was given out is known as unwritten: the next turn looks at everything
                self._unfinished = True
                self.wake()
                raise
            finally:
                try:
                    if held and held[0]:
                        self._lock.release()
                    if dispatch.unwritten or self.core.outbox.orders or self.waiting.overslept():
                        # orders: a worker was given its last call, and its replacement is to start now
                        self.wake()
                except BaseException:
                    self.wake()  # needlessly, perhaps
                    raise
            # jobs may have come between our last look and our letting go
            if not (dispatch.backlog and (dispatch.idle or dispatch.open)):
                return

    def _look_again(self) -> None:
        """This thread has let go of the lock: who came with a job meanwhile was turned away, and relies on us."""
        dispatch = self.core.dispatch
        if dispatch.backlog and (dispatch.idle or dispatch.open):
            self.kick()

    def own(self, job: Job) -> None:
        """`job.call` is a copy now, and what it was made of may change: see to it that nothing but the copy is sent."""
        held: list[bool] = []  # see billiard._supervisor
        if self.interrupted():
            return  # what this has interrupted is written with the caller's own buffers
        try:
            # Another thread may be writing with what it read before the copy was there. Only for a while, or a signal's
            # handler that submits would wait for ever for what it interrupted; that goes on with the old memory then.
            held.extend(map(self._lock.acquire, (True,), (OWN_WAIT_S,)))
            worker = job.holder
            if worker is not None and worker.link is not None:
                worker.link.channel.own()
        finally:
            if held and held[0]:
                self._lock.release()
        self.kick()  # whoever was turned away meanwhile

    def _quick_turn(self) -> None:
        """A turn, unless somebody is at one; whoever drives runs the callbacks."""
        held: list[bool] = []  # see billiard._supervisor
        if self.interrupted():
            return
        try:
            try:
                held.extend(map(self._lock.acquire, (False,)))
                if held[0] and not self.closed:
                    self._process(self.waiting.wait_for_events(0.0), time.monotonic())
            finally:
                if held and held[0]:
                    self._lock.release()
            self._look_again()
            self.wake_for_deadline()
            self._tell_interrupted()
        except BaseException:
            self.wake()  # cut short: whoever polls must look, since what was read already is not news
            raise

    def wake_for_deadline(self) -> None:
        """This thread turns no more: see to it that somebody does when the next deadline comes."""
        if self.waiting.overslept():
            self.wake()

    # -- the turn

    def turn(self, timeout: float = 0.0, spin: bool = False) -> None:
        """Poll for at most `timeout` seconds (-1: until the next deadline), then deal with everything that happened.

        With `spin`, stay awake for a moment before sleeping: somebody is blocked until something happens (see `waiting`).
        """
        if self.interrupted():
            return
        try:
            events = self.waiting.wait_for_events(0.0 if self._unfinished or self.terminate_wanted else timeout, spin)
        except (ValueError, OSError):
            if self.closed:  # another thread has seen the end
                return
            raise
        except BaseException:
            self.wake()  # this thread may have been the only one to wake in time
            raise
        try:
            with self._lock:
                if not self.closed:  # else another thread saw the end first, and what was polled is stale
                    self._process(events, time.monotonic())
            self._look_again()
        except BaseException:
            self.wake()  # cut short: whoever polls next must not wait for news
            raise
        if self.waiting.sleepers and not self.driver.is_leader:
            self.wake_for_deadline()
        if self.callback_runner.pending:
            self.callback_runner.run_here()

    def turn_beside(self, timeout: float) -> None:
        """A `turn` of one who may have interrupted another turn of this thread."""
        self.turn(timeout)
        self._tell_interrupted()

    def notice_suspension(self, due: float, cpu_s: float) -> None:
        """See `Waiting.notice_suspension`."""
        self.waiting.notice_suspension(due, cpu_s)
        self._look_again()

    def turn_if_due(self) -> bool:
        """A `turn`, if there is something that whoever drives should have seen to. Whether there was."""
        due = self.core.next_deadline()
        try:
            found = (due is not None and due <= time.monotonic()) or self.terminate_wanted or bool(self.poll_set.look())
        except (ValueError, OSError):
            if self.closed:  # another thread has seen the end
                return False
            raise
        if found:
            self.turn(0.0)
        return found

    def _tell_interrupted(self) -> None:
        """This thread may have interrupted itself as the leader, which looked at its target before something was done here, and
        is about to poll for what will never come."""
        if self.driver.is_leader:
            self.wake()

    # -- waiting, changing

    def sentinel_of(self, worker: Worker) -> Sentinel | None:
        """What tells that the process of `worker` has ended; None when it has been seen to, and where the system has no such
        descriptors."""
        self.refuse_in_forked_copy()  # where the lock may be held by a thread that was not copied
        try:
            with self._lock:  # nobody reaps it beside us, and gives its pid to a stranger
                return self.processes.sentinel_of(worker)
        finally:
            self._look_again()

    def signal_worker(self, worker: Worker, signum: int) -> None:
        """Send `signum` to the process of `worker`, or to nobody when it has ended."""
        self.refuse_in_forked_copy()
        if worker.pid is not None:  # under the lock: nobody reaps it before the signal, and gives its pid to a stranger
            self.change(lambda: self.processes.kill(worker, signum))

    def wait(self, target: Target, timeout: float | None = None) -> bool:
        """Drive until `target` is settled. False when `timeout` seconds were too few.

        Raises RuntimeError where that can never be: in a process that was forked off the pool's, and in a signal handler that
        interrupted the pool in the middle of its work.
        """
        if self.closed and not target.state:
            self.refuse_in_forked_copy()
        return self.driver.wait(target, timeout)

    def must_not_wait(self) -> bool:
        """A callback or hook may end its own pool, but not wait for itself; nor a signal handler for what it interrupted."""
        me = threading.current_thread()
        return me is self.driver.thread or me is self.callback_runner.thread or self.interrupted()

    def terminate_job(self, job: Job, signum: int) -> None:
        """End one job, queued or running, and no other. SIGUSR1 is delivered to one that is running like its soft limit."""
        signum = _checked_signal(signum)
        self.refuse_in_forked_copy()
        self.change(lambda: self.core.preemption.terminate(job, signum, time.monotonic()))

    def terminate_worker(self, worker: Worker, signum: int) -> None:
        """End the job that `worker` is on; if it is on none, the worker."""
        signum = _checked_signal(signum)
        self.refuse_in_forked_copy()
        job = worker.current_job
        if job is not None:
            self.terminate_job(job, signum)
        else:
            self.change(lambda: self.core.preemption.terminate_worker(worker, signum, time.monotonic()))

    def answer(self, job: Job, run: bool) -> None:
        """Tell the worker that asks whether to begin `job` (``synack``)."""
        self.change(lambda: self.channels.answer(job, run))

    def change(self, decide: Callable[[], None]) -> None:
        """Run `decide` (a change to the core) under the lock, and carry out what follows from it. From a signal handler that
        interrupted the holder of the lock: later, as soon as that one is through."""
        if self.interrupted():
            self._postponed.append(decide)
            self.wake()
            return
        try:
            with self._lock:
                rest, self._unfinished = self._unfinished, True
                decide()
                self._carry_out(time.monotonic())
                self._unfinished = rest
            if self._unfinished or self.waiting.overslept():
                self.wake()
            self._tell_interrupted()
            self._look_again()
        except BaseException:
            self.wake()
            raise


def _checked_signal(signum: int) -> int:
    """What the kernel would refuse has to be refused at the call: in a turn it would be everybody's error, again and again."""
    if not isinstance(signum, int) or isinstance(signum, bool):
        raise TypeError(f"signum must be a signal's number, such as signal.SIGTERM, not {signum!r}")
    if signum not in _SIGNALS:
        raise ValueError(f"signum must be a signal's number, such as signal.SIGTERM, not {signum}")
    return int(signum)
