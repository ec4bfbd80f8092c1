"""The handle of one call, ApplyResult, and what it shares with that of a map (see billiard._api.map_results)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from .._core.state import Job, share_keys
from .._supervisor.callback_runner import log_callback_error
from .._supervisor.target import Waitable
from .._typing import TYPE_CHECKING, Any, Final
from ..common import TERM_SIGNAL
from ..einfo import ExceptionInfo
from ..exceptions import TimeoutError
from . import outcome
from .slots import Slot

if TYPE_CHECKING:
    from .pool import Pool

job_counter = itertools.count()
#: attributes that the core and the engine set on most jobs (see `share_keys`)
SHARED: Final = ("number", "holder", "state", "body", "watched", "soft_s", "hard_s", "least_s")


class NotReadyError(ValueError, AssertionError):
    """`successful()` before there is a result: multiprocessing raises ValueError, billiard an AssertionError."""

    __module__ = "billiard.pool"


class Callbacks:
    """The rare part of a handle: what the user wants to be told. Most handles have none."""

    # defaults on the class: only what was asked for is set
    success: Callable[[Any], Any] | None = None
    error: Callable[[ExceptionInfo], Any] | None = None
    accept: Callable[[int, float], Any] | None = None
    timeout: Callable[..., Any] | None = None
    propagate: tuple[type[BaseException], ...] = ()
    slot: Any = None  # to release at the end: our own at once, a user's semaphore where user code runs
    told = False

    # no __init__: a burst of calls with one callback each would spend a tenth of its time there


def callbacks_of(success: Any = None, error: Any = None, accept: Any = None, timeout: Any = None) -> Callbacks:
    """Callbacks of these functions, as far as they are given."""
    callbacks = Callbacks()
    if success is not None:
        callbacks.success = success
    if error is not None:
        callbacks.error = error
    if accept is not None:
        callbacks.accept = accept
    if timeout is not None:
        callbacks.timeout = timeout
    return callbacks


class Awaited(Waitable, Job):
    """A job whose end somebody may wait for. What tells of it runs under the engine's lock: repeatable, and no user code."""

    doubted = False  # see `outcome.own_error`

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when it has ended; at once if it has."""
        self.watched = True
        super().watch(wake)


class ResultHandle(Awaited):
    """What ApplyResult and MapResult share: waiting, getting, telling."""

    correlation_id: Any = None
    callbacks: Callbacks | None = None
    _pool: Pool
    _func: Any
    _job: int

    # -- the caller's side

    def ready(self) -> bool:
        """Whether the call has ended, well or not."""
        return self.state != 0

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has ended, for at most `timeout` seconds (None: as long as it takes)."""
        if not self.state:
            self._pool._engine.wait(self, timeout)

    def get(self, timeout: float | None = None) -> Any:
        """The value, waiting for it for at most `timeout` seconds (None: as long as it takes).

        Raises `billiard.TimeoutError` when the time is up, and whatever the call raised, or what became of it:
        WorkerLostError, TimeLimitExceeded, Terminated, PayloadError, TaskError, RestartFreqExceeded.
        """
        if not self.state and not self._pool._engine.wait(self, timeout) and not self.state:
            raise TimeoutError(f"no result of job {self._job} within {timeout}s")
        if self.state == outcome.VALUE or self._resolve():
            return self.body
        try:
            raise self.body.exception
        finally:
            del self  # the traceback keeps this frame, and would keep the pool with it

    def successful(self) -> bool:
        """Whether the call ended without an error. Raises ValueError (also an AssertionError) before it has ended."""
        if not self.state:
            raise NotReadyError(f"{self!r} not ready")
        return self._resolve()

    def _resolve(self) -> bool:
        return outcome.resolve(self, self._func, self._job)

    # -- the engine's side: see Awaited

    def notify_settled(self) -> None:
        if self._wakers is not None:
            self.wake_all()
        if self.callbacks is not None:
            if self.callbacks.slot.__class__ is Slot:
                self.callbacks.slot.release()  # a callback may wait for one
            self._pool._engine.callback_runner.pending.append(self)  # not `add`: it is its own guard against a second time

    # -- where user code runs

    def run_callbacks(self) -> None:
        """Run the callbacks that are due at the end, once."""
        callbacks = self.callbacks
        if callbacks is None or callbacks.told:
            return
        callbacks.told = True
        pool = self._pool
        try:
            if callbacks.slot is not None:
                callbacks.slot.release()
            if pool._is_celerys or pool.on_timeout_cancel is not None:  # to nobody else an end matters
                pool._ended(self)
        finally:
            callback = callbacks.success if self._resolve() else callbacks.error
            if callback is not None:
                try:
                    callback(self.body)
                except Exception as exc:
                    self._callback_raised(callback, exc)

    def safe_apply_callback(self, fun: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> None:
        """Call `fun`; what it raises is logged, unless it is a MemoryError, `callbacks_propagate` names it, or it is no
        Exception."""
        if fun is None:
            return
        try:
            fun(*args, **kwargs)
        except Exception as exc:
            self._callback_raised(fun, exc)

    def _callback_raised(self, fun: Callable[..., Any], exc: Exception) -> None:
        if isinstance(exc, MemoryError) or (self.callbacks is not None and isinstance(exc, self.callbacks.propagate)):
            raise exc
        log_callback_error(fun, exc)


class ApplyResult(ResultHandle):
    """One call."""

    call: Any
    _cancelled = False
    _accepted_at: float | None = None
    _accepted_pid: int | None = None

    def __init__(self, pool: Any, func: Any, kind: int, function_id: int, call: Any, size: int) -> None:
        # the attributes that every call needs; all others have defaults on the class
        self._pool = pool
        self._func = func
        self._job = next(job_counter)
        self.kind = kind
        self.function_id = function_id
        self.call = call
        self.size = size

    def terminate(self, signum: int = TERM_SIGNAL) -> None:
        """End this call and no other: it never starts if it has not, it is struck with `signum` (default: SIGTERM) if it runs.

        `get` then raises Terminated, unless the task swallows a signal that can be caught and returns; half a second later it
        is killed. SIGUSR1 interrupts a running task as its soft limit would. Raises TypeError or ValueError for what is no
        signal.
        """
        self._pool._engine.terminate_job(self, signum)
        self._pool._end_delay.stop()

    def accepted(self) -> bool:
        """Whether a worker has begun the call."""
        return self._accepted_at is not None or outcome.had_begun(self) or self._running()

    def worker_pids(self) -> list[int]:
        """The pid of the worker that runs the call, in a list; empty when none does."""
        return [self._accepted_pid] if self._accepted_pid is not None and not self.state else self._running_pids()

    def discard(self) -> None:
        """The result is not wanted: a call that has not started never will."""
        self._cancel()

    def _cancel(self) -> None:
        """Keep the call from starting; with `synack` also when a worker has taken it but not begun. Else no effect."""
        self._cancelled = True
        if not self._running() and not self.state:
            self._pool._engine.terminate_job(self, TERM_SIGNAL)

    # -- told by the worker or the limits; where user code runs

    def accept(self, pid: int, time_accepted: float) -> None:
        """The worker took the call at `time_accepted` (monotonic seconds)."""
        if self._accepted_at is None:
            self._accepted_pid, self._accepted_at = pid, time_accepted
            self._pool._accepted(self, pid, time_accepted)

    def handle_timeout(self, soft: bool = False) -> None:
        """A limit was exceeded: tell `timeout_callback(soft=..., timeout=...)`."""
        if self.callbacks is not None and self.callbacks.timeout is not None:
            limit_s = self.soft_s if soft else self.hard_s
            self.safe_apply_callback(self.callbacks.timeout, soft=soft, timeout=limit_s)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._job} ack:{self.accepted()} ready:{self.ready()}>"


share_keys(
    ApplyResult, "_pool", "_func", "_job", "kind", "function_id", "call", "size", "callbacks", "correlation_id", "_wakers",
    *SHARED,
)  # fmt: skip
