"""The legacy pool: construct and shut down. What it takes on is in `submitting.py`, its workers' life in `worker_set.py`.

May: everything Celery's AsynPool expects of its base class, in the order it expects it.
May not: start a thread. An outer loop reads results, writes jobs, and calls `maintain_pool`.

Attributes that AsynPool assigns after construction (`on_process_up`, `_quick_put`, ...) are read from `self` each time.
"""

from __future__ import annotations

import fcntl
import os
import queue
import select
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize

from .._stdlib.context import _default_context
from .._typing import Any
from ..common import restart_state
from ..exceptions import SoftTimeLimitExceeded
from . import gc_freeze, log, seams
from .handlers import CLOSE, RUN, SIGKILL, TERMINATE, ResultHandler, Supervisor, TaskHandler, TimeoutHandler
from .locks import LaxBoundedSemaphore
from .results import LOST_WORKER_TIMEOUT
from .seams import new_lock
from .submitting import Submitting
from .worker_set import WorkerSet

#: How long workers may take to leave at ``terminate`` before they are killed.
TERMINATE_GRACE_S = 5.0

#: Satisfies every worker that waits for its results to be counted.
COUNTED_ALL = 0x7FFFFFFF

_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_F_GETPIPE_SZ = getattr(fcntl, "F_GETPIPE_SZ", 1032)

#: Known to Celery only, which passes them to whatever pool it makes.
_CELERYS_OWN = frozenset({"proc_alive_timeout", "sched_strategy"})

_NUMBERS = (
    "processes",
    "maxtasksperchild",
    "timeout",
    "soft_timeout",
    "lost_worker_timeout",
    "max_memory_per_child",
    "max_restarts",
    "max_restart_freq",
)


class LegacyPoolBody(Submitting, WorkerSet):
    """All of a legacy pool but its place in the class hierarchy, which `choose.py` gives it."""

    Supervisor: Any = Supervisor
    TaskHandler: Any = TaskHandler
    TimeoutHandler: Any = TimeoutHandler
    ResultHandler: Any = ResultHandler
    SoftTimeLimitExceeded = SoftTimeLimitExceeded

    _quick_put: Any
    _quick_get: Any
    _poll_result: Any

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        lost_worker_timeout: float | None = None,
        max_restarts: int | None = None,
        max_restart_freq: float = 1,
        on_process_up: Callable[..., Any] | None = None,
        on_process_down: Callable[..., Any] | None = None,
        on_timeout_set: Callable[..., Any] | None = None,
        on_timeout_cancel: Callable[..., Any] | None = None,
        threads: bool = True,
        semaphore: Any = None,
        putlocks: bool = False,
        allow_restart: bool = False,
        synack: bool = False,
        on_process_exit: Callable[..., Any] | None = None,
        context: Any = None,
        max_memory_per_child: int | None = None,
        enable_timeouts: bool = False,
        **kwargs: Any,
    ) -> None:
        given = locals()
        _check(given, kwargs)
        if threads:
            raise ValueError(
                f"{type(self).__name__} overrides hooks of the pool for event loops, so it has none: threads=False"
            )
        self._ctx = context or _default_context.get_context()
        self.synack = synack
        self._setup_queues()
        self._taskqueue: queue.Queue[Any] = queue.Queue()
        self._cache = {}
        self._state = RUN
        self.timeout, self.soft_timeout = timeout, soft_timeout
        self._maxtasksperchild = maxtasksperchild
        self._max_memory_per_child = max_memory_per_child
        self._initializer, self._initargs = initializer, initargs
        self._on_process_exit = on_process_exit
        self.lost_worker_timeout = lost_worker_timeout or LOST_WORKER_TIMEOUT
        self.on_process_up, self.on_process_down = on_process_up, on_process_down
        self.on_timeout_set, self.on_timeout_cancel = on_timeout_set, on_timeout_cancel
        self.threads = threads
        self.readers: dict[Any, Any] = {}
        self.allow_restart = allow_restart
        for name, value in (("initializer", initializer), ("on_process_exit", on_process_exit)):
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be a callable")
        self.enable_timeouts = bool(enable_timeouts or timeout is not None or soft_timeout is not None)
        self._processes = self.cpu_count() if processes is None else processes
        self.max_restarts = max_restarts or round(self._processes * 100)
        self.restart_state = restart_state(max_restarts, max_restart_freq or 1)
        self._Process = self._ctx.Process
        self._pool, self._poolctrl, self._on_ready_counters = [], {}, {}
        self._reaped, self._unreplaced, self._born_first = {}, [], self._processes
        self.putlocks = putlocks
        self._putlock = LaxBoundedSemaphore(self._processes) if semaphore is None else semaphore
        for i in range(self._processes):
            self._create_worker_process(i)
        self._make_handlers()

    def _make_handlers(self) -> None:
        self._worker_handler = self.Supervisor(self)
        self._task_handler = self.TaskHandler(self._taskqueue, self._quick_put, self._outqueue, self._pool, self._cache)
        # There whether limits are enabled or not: a limit given with one job must hold on every pool.
        self._timeout_handler = self.TimeoutHandler(self._pool, self._cache, self.soft_timeout, self.timeout)
        self._timeout_handler_mutex = new_lock()
        self._timeout_handler_started = False
        self._start_timeout_handler()
        self.check_timeouts = self._timeout_handler.handle_event
        self._result_handler = self.create_result_handler()
        self.handle_result_event = self._result_handler.handle_event
        self._terminate = Finalize(
            self,
            self._terminate_pool,
            args=(
                self._taskqueue,
                self._inqueue,
                self._outqueue,
                self._pool,
                self._worker_handler,
                self._task_handler,
                self._result_handler,
                self._cache,
                self._timeout_handler,
                self._help_stuff_finish_args(),
            ),
            exitpriority=15,
        )

    def __repr__(self) -> str:
        state = ("running", "closing", "terminating")[getattr(self, "_state", TERMINATE)]
        return f"<{type(self).__name__}: {state}, {len(getattr(self, '_pool', ()))} workers>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    # -- construction hooks

    def _setup_queues(self) -> None:
        """Make the pipes all workers share. A subclass with pipes of its own sets the five attributes to None."""
        self._inqueue, self._outqueue = self._ctx.SimpleQueue(), self._ctx.SimpleQueue()
        self._quick_put = self._inqueue._writer.send
        self._quick_get = self._outqueue._reader.recv
        self._poll_result = self._poll_outqueue

    def _poll_outqueue(self, timeout: float | None) -> tuple[bool, Any]:
        if self._outqueue._reader.poll(timeout):
            return True, self._quick_get()
        return False, None

    def create_result_handler(self, **extra_kwargs: Any) -> Any:
        """The object that takes results in."""
        handler = self.ResultHandler(
            self._outqueue,
            self._quick_get,
            self._cache,
            self._poll_result,
            self._join_exited_workers,
            self._putlock,
            self.restart_state,
            self.check_timeouts,
            self.on_job_ready,
            on_ready_counters=self._on_ready_counters,
            **extra_kwargs,
        )
        handler.maxtasks = self._maxtasksperchild
        handler.on_leaving = self._replace_leaving
        return handler

    def _start_timeout_handler(self) -> None:
        """Nothing to start: the outer loop keeps the time."""

    def on_job_ready(self, job: int, i: int | None, obj: Any, inqW_fd: int | None) -> None:
        """For subclasses: a result has arrived."""

    def send_ack(self, response: int, pid: int, job: int, fd: int | None) -> None:
        """For subclasses with synack: answer a worker that wants to start a job."""

    def on_partial_read(self, job: Any, worker: Any) -> None:
        """For subclasses: `worker` died with an unknown part of `job` read."""

    # -- shut down

    def close(self) -> None:
        """Take no new jobs."""
        if self._state != RUN:
            return
        log.debug("closing pool")
        self._state = CLOSE
        if self._putlock is not None:
            self._putlock.clear()
        self._worker_handler.close()
        self._taskqueue.put(None)

    def join(self) -> None:
        """Let every worker finish and leave, taking in their results."""
        assert self._state in (CLOSE, TERMINATE), "close or terminate the pool first"
        self._worker_handler.stop()
        _make_room(self._pool)
        self._stop_task_handler(self._task_handler)
        self._end_deaf_workers()
        self._result_handler.stop()
        self._let_leave()
        gc_freeze.unfreeze(self)

    def _end_deaf_workers(self) -> None:
        """End the workers that wait for the rest of a message, which nobody writes any more. What tells them to leave they
        would take for a part of it, and wait for ever. The message's job never starts; its broker delivers it again."""
        running = {pid for job in self._cache.values() for pid in job.worker_pids()}
        for process in self._pool:
            if process._is_alive() and process.send_job_offset.unfinished and process.pid not in running:
                process.terminate_controlled()

    def _let_leave(self) -> None:
        """Wait for workers that were told to stop. Nobody reads results any more: what they still send is thrown away.

        A worker may still be sending the result of a job that was discarded, or waiting for it to be counted.
        """
        for counter in self._on_ready_counters.values():
            counter.value = COUNTED_ALL
        self._end_deaf_workers()  # of those that were busy
        # Not one that is being started, where a signal's handler has interrupted that: it finds that it is told to stop.
        while left := [process for process in self._pool if process._popen is not None and process.exitcode is None]:
            results: set[Any] = {process.outqR_fd for process in left if not process.outq._reader.closed}
            sentinels = {process._popen.sentinel for process in left}
            for fd in results.intersection(wait([*results, *sentinels], timeout=0.5)):
                os.read(fd, 1 << 16)
        for process in self._pool:
            if process._popen is not None:
                process.join()

    def terminate(self) -> None:
        """End every worker, whatever it is doing."""
        log.debug("terminating pool")
        self._state = TERMINATE
        self._worker_handler.terminate()
        try:
            self._terminate()
        finally:
            gc_freeze.unfreeze(self)

    @staticmethod
    def _stop_task_handler(task_handler: Any) -> None:
        task_handler.stop()

    @classmethod
    def _set_result_sentinel(cls, outqueue: Any, pool: list[Any]) -> None:
        """For subclasses; no reader here needs to be woken."""

    def _help_stuff_finish_args(self) -> tuple[Any, ...]:
        return (self._inqueue, self._task_handler, self._pool)

    @classmethod
    def _help_stuff_finish(cls, *args: Any) -> None:
        """For subclasses: take back what no worker will read any more."""

    @classmethod
    def _terminate_pool(
        cls,
        taskqueue: Any,
        inqueue: Any,
        outqueue: Any,
        pool: list[Any],
        worker_handler: Any,
        task_handler: Any,
        result_handler: Any,
        cache: dict[int, Any],
        timeout_handler: Any,
        help_stuff_finish_args: tuple[Any, ...],
    ) -> None:
        """The finalizer; runs once, at `terminate` or when the interpreter ends. Holds no reference to the pool."""
        worker_handler.terminate()
        task_handler.terminate()
        taskqueue.put(None)
        _expect_no_more(pool)
        cls._help_stuff_finish(*help_stuff_finish_args)
        cls._set_result_sentinel(outqueue, pool)
        if timeout_handler is not None:
            timeout_handler.terminate()
        # After this no worker is added; one that was added meanwhile is ended like the others.
        worker_handler.stop()
        alive = [process for process in pool if hasattr(process, "terminate") and process._is_alive()]
        for process in alive:
            process._controlled_termination = True  # an exit that was ordered is not worth a line in the log
            process.terminate()
        _make_room(pool)
        cls._stop_task_handler(task_handler)
        # Before the last results are taken in: the subclass does that until no worker is left, for ever if need be.
        _see_off(alive)
        result_handler.stop()
        if timeout_handler is not None:
            timeout_handler.stop()
        for process in alive:
            process.join()
        for queue_ in (inqueue, outqueue):
            if queue_:
                queue_.close()


def _check(given: dict[str, Any], others: dict[str, Any]) -> None:
    for name in others:
        if name not in _CELERYS_OWN:
            raise TypeError(f"Pool() got an unexpected keyword argument {name!r}")
    for name in _NUMBERS:
        if isinstance(given[name], bool):
            raise TypeError(f"{name} must be a number, not a bool")
    if given["processes"] is not None and given["processes"] < 0:
        raise ValueError("Number of processes must be at least 0")
    limit = given["maxtasksperchild"]
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"maxtasksperchild must be a positive integer, not {limit!r}")


def _expect_no_more(workers: list[Any]) -> None:
    """Have nobody wait for the rest of a half-written job: the subclass, which takes back what no worker will read, would do
    so for ever. A worker that comes to it first leaves, as it has to anyway."""
    for worker in workers:
        if getattr(getattr(worker, "send_job_offset", None), "unfinished", False) is True and not worker.inq._reader.closed:
            os.set_blocking(worker.inq._reader.fileno(), False)


def _make_room(workers: list[Any]) -> None:
    """Have the message that tells a worker to stop find room in its pipe, which jobs may have filled. Its writer waits for
    room, and nobody makes any if the worker is dead, or itself waits for room for a result."""
    for worker in workers:
        writer = getattr(getattr(worker, "inq", None), "_writer", None)
        if not isinstance(writer, Connection) or writer.closed:
            continue
        poller = select.poll()
        poller.register(writer, select.POLLOUT)
        try:
            if not poller.poll(0):
                fcntl.fcntl(writer, _F_SETPIPE_SZ, 2 * fcntl.fcntl(writer, _F_GETPIPE_SZ))
        except OSError as exc:  # more than this user may have
            log.debug("no room to tell %s to stop: %r", worker, exc)


def _see_off(workers: list[Any]) -> None:
    """Wait for workers that were told to go, and kill those that will not."""
    deadline = time.monotonic() + TERMINATE_GRACE_S
    pause_s = 0.0005
    # Asked of each process, not of its sentinel, which a child of the worker may hold open for long.
    while left := [worker for worker in workers if worker.exitcode is None]:
        if time.monotonic() >= deadline:
            for worker in left:
                log.warning("worker %s did not leave within %s s and is killed", worker.pid, TERMINATE_GRACE_S)
                seams.kill(worker.pid, SIGKILL)
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.02)
