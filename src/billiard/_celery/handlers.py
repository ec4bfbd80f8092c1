"""What a legacy pool does with messages and limits, under the names that handler threads once had.

May: keep a state, react to one message or one overrun limit. May not: start a thread; an outer event loop calls.

Four handlers, none of them a thread: Supervisor and TaskHandler are hardly more than a state that others read,
TimeoutHandler strikes workers, ResultHandler takes messages in. ``start`` does nothing, and ``stop`` therefore always
ends in ``on_stop_not_started``, where a subclass takes in the last results.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

from .. import common
from .._typing import Any
from .._wire.exit_status import spends_restart
from ..exceptions import TimeLimitExceeded
from . import log, seams
from .wire import ACK, DEATH, READY, Unreadable, failure
from .worker_signals import SIG_SOFT_TIMEOUT

RUN = 0
CLOSE = 1
TERMINATE = 2

SIGKILL = signal.SIGKILL

#: How long a worker that was told to go may take before it is killed.
GRACE_S = 0.1


class WorkersJoined(Exception):
    """Raised at shutdown when the last worker is gone: no result will come any more."""


class PoolThread:
    """A handler's state and the life of a thread it no longer is."""

    name = "handler"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._state = RUN
        self._was_started = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {('running', 'closing', 'terminating')[self._state]}>"

    def start(self) -> None:
        """Nothing to start: the outer loop runs this handler."""

    def is_alive(self) -> bool:
        """There is no thread."""
        return False

    def join(self, timeout: float | None = None) -> None:
        """There is no thread."""

    def stop(self, timeout: float | None = None) -> None:
        """Finish what is left to do."""
        self.on_stop_not_started()

    def on_stop_not_started(self) -> None:
        """For subclasses: the work that the thread would have done before its end."""

    def close(self) -> None:
        """Take no new work."""
        self._state = CLOSE

    def terminate(self) -> None:
        """Drop all work."""
        self._state = TERMINATE


class Supervisor(PoolThread):
    """Whether the pool may still replace workers."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        super().__init__()


class TaskHandler(PoolThread):
    """Knows the workers, so that they can be told to stop."""

    def __init__(self, taskqueue: Any, put: Any, outqueue: Any, pool: list[Any], cache: dict[int, Any]) -> None:
        self.taskqueue, self.put, self.outqueue = taskqueue, put, outqueue
        self.pool, self.cache = pool, cache
        super().__init__()

    def on_stop_not_started(self) -> None:
        self.tell_others()

    def tell_others(self) -> None:
        """One stop message for each worker."""
        if self.put is None:
            return
        try:
            for _worker in self.pool:
                self.put(None)
        except OSError:
            log.debug("task handler: the workers' pipe is closed")


class TimeoutHandler(PoolThread):
    """Strikes the worker whose job overran a limit."""

    def __init__(self, processes: list[Any], cache: dict[int, Any], t_soft: float | None, t_hard: float | None) -> None:
        self.processes, self.cache = processes, cache
        self.t_soft, self.t_hard = t_soft, t_hard
        self._scan: Iterator[None] | None = None
        super().__init__()

    def handle_event(self, *args: Any) -> None:
        """Look once for jobs over their limit."""
        if self._scan is None:
            self._scan = self.handle_timeouts()
        next(self._scan, None)  # at its end once this handler was terminated, and the last results are still to be taken in

    def handle_timeouts(self) -> Iterator[None]:
        """A generator that looks once for jobs over their limit each time it is advanced."""
        while self._state != TERMINATE:
            for job in list(self.cache.values()):
                accepted_at = getattr(job, "_time_accepted", None)
                if not accepted_at or job.ready():
                    continue
                running_s = time.monotonic() - accepted_at
                soft, hard = job._soft_timeout or self.t_soft, job._timeout or self.t_hard
                if hard and running_s >= hard:
                    self.on_hard_timeout(job)
                elif soft and running_s >= soft and not job._soft_struck:
                    job._soft_struck = True
                    self.on_soft_timeout(job)
            yield

    def on_soft_timeout(self, job: Any) -> None:
        """Interrupt the job's task with SoftTimeLimitExceeded."""
        job._soft_struck = True  # also where an event loop's timer calls: at shutdown a scan looks at the same jobs
        log.debug("soft time limit exceeded for %r", job)
        process, _index = self._process_by_pid(job._worker_pid)
        if process is None:
            return
        job.handle_timeout(soft=True)
        # Names the job it is meant for: by the time the signal arrives the worker may be on its next one.
        target = getattr(process, "soft_target", None)
        if target is not None:
            target.value = job._job + 1
        try:
            seams.kill(job._worker_pid, SIG_SOFT_TIMEOUT)
        except ProcessLookupError:
            pass

    def on_hard_timeout(self, job: Any) -> None:
        """Fail the job, and end its worker."""
        if job.ready():
            return
        process, _index = self._process_by_pid(job._worker_pid)
        if process is not None and self._has_answered(process):
            return
        log.debug("hard time limit exceeded for %r", job)
        job._set(job._job, (False, failure(TimeLimitExceeded(job._timeout or self.t_hard))))
        job.handle_timeout(soft=False)
        if process is not None:
            self._trywaitkill(process)

    def _has_answered(self, process: Any) -> bool:
        """Whether the worker has sent what was not read yet: the result of the job that it has accepted, for between these two
        it sends nothing. An event loop that is late comes to its timers first."""
        if any(other is not process and other.outq is process.outq for other in self.processes):
            return False  # a pipe for all of them: it may be anybody's, and there may always be something
        try:
            return process.outq._reader.poll(0) is True
        except OSError:
            return False

    def _process_by_pid(self, pid: int | None) -> tuple[Any, int | None]:
        for index, process in enumerate(self.processes):
            if process.pid == pid:
                return process, index
        return None, None

    def _trywaitkill(self, worker: Any) -> None:
        """End a worker: politely, with its children where it leads its own group, and for good after `GRACE_S`."""
        log.debug("timeout: sending TERM to %s", worker._name)
        leads_group = self._leads_group(worker.pid)
        try:
            if leads_group:
                os.killpg(worker.pid, common.TERM_SIGNAL)
            else:
                worker.terminate()
        except OSError:
            pass
        else:
            status = worker._popen.wait(timeout=GRACE_S)
            if status is not None and status is not False:  # 0 is an exit status too
                return
        log.debug("timeout: TERM timed out, now sending KILL to %s", worker._name)
        try:
            if leads_group:
                os.killpg(worker.pid, SIGKILL)
            else:
                seams.kill(worker.pid, SIGKILL)
        except OSError:
            pass

    @staticmethod
    def _leads_group(pid: int) -> bool:
        try:
            return os.getpgid(pid) == pid
        except (AttributeError, OSError):  # AttributeError: billiard 4's own tests play a system without it
            return False


class ResultHandler(PoolThread):
    """Takes the workers' messages in."""

    def __init__(
        self,
        outqueue: Any,
        get: Any,
        cache: dict[int, Any],
        poll: Any,
        join_exited_workers: Any,
        putlock: Any,
        restart_state: Any,
        check_timeouts: Any,
        on_job_ready: Any,
        on_ready_counters: dict[int, Any] | None = None,
    ) -> None:
        self.outqueue, self.get, self.poll = outqueue, get, poll
        self.cache = cache
        self.join_exited_workers = join_exited_workers
        self.putlock = putlock
        self.restart_state = restart_state
        self.check_timeouts = check_timeouts
        self.on_job_ready = on_job_ready
        self.on_ready_counters = {} if on_ready_counters is None else on_ready_counters
        #: After how many results a worker leaves; set by the pool.
        self.maxtasks: int | None = None
        #: Told the pid of a worker that takes no more jobs and is about to leave; set by the pool.
        self.on_leaving: Callable[[int], object] | None = None
        self._accepted_by: dict[tuple[int, int | None], int] = {}
        #: Consulted at each message: a subclass adds kinds of its own.
        self.state_handlers: dict[int, Callable[..., Any]] = {
            ACK: self._on_ack,
            READY: self._on_ready,
            DEATH: self._on_death,
        }
        super().__init__()

    def on_state_change(self, message: tuple[int, tuple[Any, ...]] | None) -> None:
        """Take in one message. None says that there are no more (see `Reaping._mark_end`)."""
        if message is None:
            return
        state, args = message
        try:
            handler = self.state_handlers[state]
        except KeyError:
            log.debug("unknown message from a worker: %r", message)
            return
        handler(*args)

    def _on_ack(self, job: int, i: int | None, time_accepted: float, pid: int, synqW_fd: int | None) -> None:
        self.restart_state.R = 0  # a worker that gets as far as a job has started well
        self._accepted_by[job, i] = pid
        item = self.cache.get(job)
        if item is not None:
            item._ack(i, time_accepted, pid, synqW_fd)

    def _on_ready(self, job: int, i: int | None, obj: Any, inqW_fd: int | None) -> None:
        if type(obj) is Unreadable:
            obj = obj.outcome()
        leaving = self._count(job, i)
        if self.on_job_ready is not None:
            # A worker that is about to be recycled has not become free: a job written to it would come back unread, to
            # wait for the replacement while other workers are idle.
            self.on_job_ready(job, i, obj, inqW_fd if leaving is None else None)
        item = self.cache.get(job)
        if item is not None and not item.ready():
            # Before the job is set, as ever: Celery's semaphore may start the next job from in here.
            try:
                if self.putlock is not None:
                    self.putlock.release()
            finally:  # what that job's start raises must not cost this one its result, which comes only once
                item._set(i, obj)
        # Last, because it forks: whoever waits for the result has it by now.
        if leaving is not None and self.on_leaving is not None:
            self.on_leaving(leaving)

    def _on_death(self, pid: int, exitcode: int) -> None:
        # Nothing to answer: the worker is on its way out, and a signal to its pid could meet whoever has it next.
        log.debug("worker %s leaves with %s", pid, exitcode)
        if self.on_leaving is not None and not spends_restart(exitcode):  # a failed one is judged when it is reaped
            self.on_leaving(pid)

    def _count(self, job: int, i: int | None) -> int | None:
        """Tell the worker that its result has arrived: a leaving one waits for that. Its pid, if this was its last."""
        pid = self._accepted_by.pop((job, i), None)
        counter = self.on_ready_counters.get(pid) if pid is not None else None
        if counter is None:
            return None
        done: int = counter.value + 1
        counter.value = done
        return pid if self.maxtasks is not None and done >= self.maxtasks else None

    def has_accepted(self, pid: int) -> bool:
        """Whether a worker holds a job."""
        return pid in self._accepted_by.values()

    def on_worker_exit(self, pid: int) -> None:
        """Forget what a dead worker had accepted."""
        for key in [key for key, owner in self._accepted_by.items() if owner == pid]:
            del self._accepted_by[key]

    def handle_event(self, fileno: int | None = None, events: int | None = None) -> None:
        """Take in one message, if there is one."""
        if self._state == RUN:
            self._process_result(0)

    def _process_result(self, timeout: float = 1.0) -> bool:
        """Take in one message within `timeout` seconds. False: there was none."""
        try:
            ready, message = self.poll(timeout)
        except (EOFError, OSError):
            return False
        if ready and message is not None:
            self.on_state_change(message)
        return bool(ready)

    def on_stop_not_started(self) -> None:
        self.finish_at_shutdown()

    def finish_at_shutdown(self, handle_timeouts: bool = False) -> None:
        """Take in results until no job is left, or no worker that could send one."""
        while self.cache and self._state != TERMINATE:
            if self.check_timeouts is not None:
                self.check_timeouts()
            if self._process_result(0.05):
                continue
            try:
                self.join_exited_workers(shutdown=True)
            except WorkersJoined:
                log.debug("result handler: all workers terminated")
                break
        while self.poll is not None and self._process_result(0):
            pass
