"""What a pool tells its user: hooks and callbacks, each when it is due, and the answer to a worker that asks whether to begin.

`_notify` is called by the engine under its lock, once or more for the same fact, and only queues. What it queues runs where
user code may: on the thread for callbacks, or in `turn`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from .._core import outbox
from .._core.state import FATE, Cause, Worker
from .._supervisor import log
from .._supervisor.callback_runner import call_hook
from .._supervisor.engine import Engine
from .._typing import Any
from .._wire import frames
from .._wire.exit_status import is_expected
from ..common import human_status
from .end_delay import EndDelay
from .results import ApplyResult, ResultHandle
from .worker_handle import WorkerHandle


class Notifying:
    """The methods of a pool that notify its user."""

    # the pool's, made in its constructor
    _engine: Engine
    _handles: dict[int, WorkerHandle]
    _down_with_status: bool
    on_process_up: Callable[..., Any] | None
    on_process_down: Callable[..., Any] | None
    on_timeout_set: Callable[..., Any] | None
    on_timeout_cancel: Callable[..., Any] | None
    synack: bool
    _is_celerys: bool
    _end_delay: EndDelay

    def _notify(self, kind: str, subject: Any, value: Any) -> None:
        run_later = self._engine.callback_runner.add
        if kind == outbox.ACCEPTED:
            if self.synack and not self._hears_of_start(subject):
                self._answer(subject)  # now: a callback that is slow, or waits for another call, must not keep it from starting
            run_later(subject.accept, *value)
        elif kind == outbox.SOFT:
            run_later(subject.handle_timeout, True)
        elif kind == outbox.HARD:
            run_later(subject.handle_timeout, False)
        elif kind == outbox.UP and self.on_process_up is not None and subject.pid is not None:
            run_later(self._tell_up, self._handle(subject))
        elif kind == outbox.DOWN:
            handle = self._handle(subject)
            self._handles.pop(subject.ident, None)
            if self._is_celerys:
                run_later(log_exit, handle, subject.struck_by is not None)
            if self.on_process_down is not None and subject.pid is not None:
                run_later(self._tell_down, handle)

    def _handle(self, worker: Worker) -> WorkerHandle:
        handle = self._handles.get(worker.ident)
        if handle is None:
            handle = self._handles[worker.ident] = WorkerHandle(worker, self._engine)
        return handle

    def _tell_up(self, handle: WorkerHandle) -> None:
        if self.on_process_up is not None:
            call_hook(self.on_process_up, handle)

    def _tell_down(self, handle: WorkerHandle) -> None:
        if self.on_process_down is not None:
            call_hook(self.on_process_down, *((handle.pid, handle.exitcode) if self._down_with_status else (handle,)))

    def _accepted(self, job: ApplyResult, pid: int, time_accepted: float) -> None:
        """A worker took `job`. Where user code runs."""
        if not self._hears_of_start(job):
            return
        if self.synack and job._cancelled:
            self._answer(job)
            return
        try:
            if self.on_timeout_set is not None and (job.soft_s is not None or job.hard_s is not None):
                call_hook(self.on_timeout_set, job, job.soft_s, job.hard_s)
            if job.callbacks is not None:
                job.safe_apply_callback(job.callbacks.accept, pid, time_accepted)
        finally:
            if self.synack:
                self._answer(job)

    def _hears_of_start(self, job: ApplyResult) -> bool:
        """Whether user code runs when a worker took `job`: with `synack` it does before the job may begin."""
        limited = job.soft_s is not None or job.hard_s is not None
        accept = job.callbacks.accept if job.callbacks is not None else None
        return (self.on_timeout_set is not None and limited) or accept is not None

    def send_ack(self, response: int, job: Any, i: Any, fd: Any) -> None:
        """Answer a worker that asks whether to begin a call (``synack=True``). `response`: `billiard.pool.ACK` or `NACK`."""
        if isinstance(job, ApplyResult):  # billiard 4 calls it with a number
            self._engine.answer(job, response == frames.ACK)

    def _answer(self, job: ApplyResult) -> None:
        self.send_ack(frames.NACK if job._cancelled else frames.ACK, job, None, None)

    def _ended(self, job: ResultHandle) -> None:
        """`job` has ended. Where user code runs."""
        if job.state == FATE and job.body.cause is Cause.TERMINATED:
            self._end_delay.wait()
        if self.on_timeout_cancel is not None and (job.soft_s is not None or job.hard_s is not None):
            call_hook(self.on_timeout_cancel, job)
        if self._is_celerys and job.callbacks is not None and job.state == FATE and job.body.cause is Cause.POOL_TERMINATED:
            # Told of it, Celery would store a failure and acknowledge the message. Untold, the message stays with the broker,
            # which gives the task to another worker.
            job.callbacks.error = None


def log_exit(process: Any, ordered: bool) -> None:
    """Log the exits that nobody ordered and that do not belong to a worker's normal life, as Celery's operators expect it."""
    if not is_expected(process.exitcode, ordered=ordered):
        log.error("Process %r pid:%r exited with %r", process.name, process.pid, human_status(process.exitcode))


def weak_notify(pool: Notifying) -> Callable[[str, Any, Any], None]:
    """The pool's `_notify`, without keeping the pool alive: a forgotten pool ends."""
    ref = weakref.ref(pool)

    def notify(kind: str, subject: Any, value: Any) -> None:
        pool = ref()
        if pool is not None:
            pool._notify(kind, subject, value)

    return notify


def takes_pid_and_exitcode(hook: Callable[..., Any] | None) -> bool:
    """Whether `hook` wants (pid, exitcode) and not just a handle."""
    if hook is None:
        return False
    import inspect  # costs 10 ms: only who has the hook pays

    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):
        return False
    try:
        signature.bind(None)
    except TypeError:
        return True
    return False
