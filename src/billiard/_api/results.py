"""The handles of submitted work: ApplyResult for one call, MapResult for a map."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from .._core.state import FATE, PENDING, Job, share_keys
from .._supervisor.driver import moment_in
from .._typing import TYPE_CHECKING, Any
from .._wire import frames, pickling
from ..einfo import ExceptionInfo
from ..exceptions import TimeoutError
from . import outcome

if TYPE_CHECKING:
    from .pool import Pool

_read = pickling.read
job_counter = itertools.count()


class NotReadyError(ValueError, AssertionError):
    """`successful()` before there is a result: multiprocessing raises ValueError, billiard an AssertionError."""


class Callbacks:
    """The rare part of a handle: what the user wants to be told. Most handles have none."""

    # defaults on the class: only what was asked for is set
    success: Callable[[Any], Any] | None = None
    error: Callable[[ExceptionInfo], Any] | None = None
    accept: Callable[[int, float], Any] | None = None
    timeout: Callable[..., Any] | None = None
    propagate: tuple[type[BaseException], ...] = ()
    slot: Any = None  # the semaphore to release at the end
    told = False

    def __init__(self, success: Any = None, error: Any = None, accept: Any = None, timeout: Any = None) -> None:
        if success is not None:
            self.success = success
        if error is not None:
            self.error = error
        if accept is not None:
            self.accept = accept
        if timeout is not None:
            self.timeout = timeout


class Handle(Job):
    """What ApplyResult and MapResult share: waiting, getting, telling."""

    correlation_id: Any = None
    callbacks: Callbacks | None = None
    _pool: Pool
    _func: Any
    _job: int
    _wakers: tuple[Callable[[], None], ...] = ()

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

    # -- the engine's side: under its lock, repeatable, no user code

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when the call has ended; at once if it has."""
        self._wakers = (*self._wakers, wake)
        self.watched = True
        if self.state:
            wake()

    def announce(self) -> None:
        for wake in self._wakers:
            wake()
        if self.callbacks is not None:
            self._pool._engine.announcer.pending.append(self)  # not `add`: it is its own guard against a second time

    # -- where user code runs

    def tell(self) -> None:
        """Run the callbacks that are due at the end, once."""
        callbacks = self.callbacks
        if callbacks is None or callbacks.told:
            return
        callbacks.told = True
        try:
            if callbacks.slot is not None:
                callbacks.slot.release()
            self._pool._ended(self)
        finally:
            callback = callbacks.success if self._resolve() else callbacks.error
            if callback is not None:
                try:
                    callback(self.body)
                except Exception as exc:
                    self._callback_raised(callback, exc)

    def safe_apply_callback(self, fun: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> None:
        """Call `fun`; what it raises is logged, unless `callbacks_propagate` names it or it is no Exception."""
        if fun is None:
            return
        try:
            fun(*args, **kwargs)
        except Exception as exc:
            self._callback_raised(fun, exc)

    def _callback_raised(self, fun: Callable[..., Any], exc: Exception) -> None:
        if isinstance(exc, MemoryError) or (self.callbacks is not None and isinstance(exc, self.callbacks.propagate)):
            raise exc
        from .._supervisor.announcer import log_callback_error

        log_callback_error(fun, exc)


class ApplyResult(Handle):
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

    def terminate(self, signum: int) -> None:
        """End this call and no other: it never starts if it has not, it is struck with `signum` if it runs.

        `get` then raises Terminated. A task that survives a signal it could catch is killed half a second later.
        """
        self._pool._engine.terminate_job(self, signum)

    def accepted(self) -> bool:
        """Whether a worker has begun the call."""
        return self._accepted_at is not None or self.state in (frames.RESULT, outcome.VALUE) or self._running()

    def _running(self) -> bool:
        worker = self.holder
        board = worker.board if worker is not None else None
        return board is not None and not self.state and board.see().current >= self.number

    def worker_pids(self) -> list[int]:
        """The pid of the worker that runs the call, in a list; empty when none does."""
        if self._accepted_pid is not None:
            return [self._accepted_pid]
        worker = self.holder
        return [worker.pid] if worker is not None and worker.pid is not None and self._running() else []

    def discard(self) -> None:
        """The result is not wanted: a call that has not started never will."""
        self._cancel()

    def _cancel(self) -> None:
        """Keep the call from starting; with `synack` also when a worker has taken it but not begun. Else no effect."""
        self._cancelled = True
        if not self._running() and not self.state:
            import signal

            self._pool._engine.terminate_job(self, signal.SIGTERM)

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


class Chunk(Job):
    """Some consecutive items of a map, sent as one call."""

    queued = False  # of imap_unordered: it has ended, and is in the queue of those ...
    fetched = False  # ... and was taken from it
    _accepted_pid: int | None = None  # maps have no accept callback: the board is asked
    call: Any
    _wakers: tuple[Callable[[], None], ...] = ()

    def __init__(self, group: Any, kind: int, function_id: int, call: Any, size: int, first: int) -> None:
        self.group = group
        self.kind = kind
        self.function_id = function_id
        self.call = call
        self.size = size
        self.first = first  # index in the whole input of its first item
        if group.told_of_chunks:
            self.watched = True

    def _running(self) -> bool:
        return ApplyResult._running(self)  # type: ignore[arg-type]  # it needs what every Job has

    def announce(self) -> None:
        for wake in self._wakers:
            wake()
        self.group.chunk_settled(self)

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when the chunk has ended; at once if it has."""
        self._wakers = (*self._wakers, wake)
        self.watched = True
        if self.state:
            wake()

    def resolve(self) -> bool:
        """See billiard._api.outcome."""
        item = None
        if isinstance(getattr(self.body, "item", None), int) and self.state == FATE:
            item = self.first + self.body.item
        return outcome.resolve(self, self.group._func, self.group._job, item)

    @property
    def is_one_item(self) -> bool:
        """Whether it was sent as a plain call: the body is then the value, and not a list of values."""
        return self.kind & frames.KIND == frames.CALL

    def handle_timeout(self, soft: bool = False) -> None:
        """Maps have no timeout callback."""


for _kind, _names in (
    (ApplyResult, ("_pool", "_func", "_job", "kind", "function_id", "call", "size", "callbacks", "correlation_id", "_wakers")),
    (Chunk, ("group", "kind", "function_id", "call", "size", "first", "queued", "fetched")),
):
    share_keys(_kind, *_names, "number", "holder", "state", "body", "watched", "soft_s", "hard_s", "least_s")


class MapResult(Handle):
    """All calls of one map. `get` returns the list of their values; if any failed, the first error in input order."""

    def __init__(self, pool: Any, func: Any, forget: int, callbacks: Callbacks | None) -> None:
        """`forget`: number of a function that travels for this map alone, or 0."""
        self._pool = pool
        self._func = func
        self._forget = forget
        self._job = next(job_counter)
        self._state = PENDING
        self._chunks: list[Chunk] = []
        self._open = 0  # chunks before this index have ended
        self._submitted = False
        self.callbacks = callbacks
        # Usually nobody needs to know of the last chunk's end before they ask, and then it is enough to look. Telling
        # the map of each chunk would cost a tenth of a tiny call.
        self.told_of_chunks = callbacks is not None or forget != 0

    def begin(self, chunks: list[Chunk]) -> None:
        """These are its calls, and they are submitted."""
        self._chunks, self._submitted = chunks, True
        if self._over:
            self._finish()

    @property
    def state(self) -> int:
        if not self._state and not self.told_of_chunks and self._over:
            self._finish()
        return self._state

    @state.setter
    def state(self, state: int) -> None:
        self._state = state

    @property
    def _over(self) -> bool:
        """Whether all chunks have ended. Repeatable, and in several threads at once: `_open` may fall back, no more."""
        chunks, index = self._chunks, self._open
        while index < len(chunks) and chunks[index].state:
            index += 1
        self._open = index
        return self._submitted and index >= len(chunks)

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when all calls have ended; at once if they have."""
        self._wakers = (*self._wakers, wake)
        self.told_of_chunks = True
        for chunk in self._chunks[self._open :]:
            chunk.watched = True
        # only now: a chunk that ended before it was watched is seen here
        if self._state or self._over:
            self._finish()

    def chunk_settled(self, chunk: Chunk) -> None:
        """Under the engine's lock, repeatable."""
        if not self._state and self._over:
            self._finish()

    def _finish(self) -> None:
        if self._forget:
            self._pool._engine.functions.unneeded.append(self._forget)
            self._forget = 0
        if not self._state:
            self.body, self._state = None, frames.RESULT
        self.announce()

    def get(self, timeout: float | None = None) -> Any:
        """The list of all values; see `ApplyResult.get`. Raises the first error in input order, after everything has ended."""
        deadline = None if timeout is None else moment_in(timeout)
        self._read_large_chunks(deadline)
        try:
            return super().get(_rest(deadline))
        finally:
            del self  # as in `Handle.get`

    def _read_large_chunks(self, deadline: float | None) -> None:
        """Read them while the workers are on the next. Small ones are read at the end, at half the price."""
        for chunk in list(self._chunks):
            if chunk.is_one_item or not (chunk.state or self._pool._engine.wait(chunk, _rest(deadline))):
                break
            chunk.resolve()

    def _resolve(self) -> bool:
        if self.state != frames.RESULT:
            return self.state == outcome.VALUE
        values: list[Any] = []
        for chunk in self._chunks:
            if chunk.state == frames.RESULT and chunk.kind == frames.CALL:
                # one plain value, the usual case with chunksize=1, at half the price; what fails is told below
                try:
                    values.append(_read(chunk.body))
                    continue
                except Exception as exc:
                    pickling.own_error(exc, _read, chunk.body)
            if not chunk.resolve():
                self.body, self.state = chunk.body, outcome.FAILURE
                break
            if chunk.is_one_item:
                values.append(chunk.body)
            else:
                values += chunk.body
        else:
            self.body, self.state = values, outcome.VALUE
        self._chunks = []
        return self.state == outcome.VALUE

    def terminate(self, signum: int) -> None:
        """End all calls of this map that have not ended, and no others."""
        for chunk in list(self._chunks):
            self._pool._engine.terminate_job(chunk, signum)

    def accepted(self) -> bool:
        """Whether every chunk has begun."""
        return all(ApplyResult._running(chunk) or chunk.state for chunk in self._chunks)  # type: ignore[arg-type]

    def worker_pids(self) -> list[int]:
        """The pids of the workers that run a chunk of this map."""
        return [pid for chunk in self._chunks for pid in ApplyResult.worker_pids(chunk)]  # type: ignore[arg-type]

    def discard(self) -> None:
        """The result is not wanted: chunks that have not started never will."""
        import signal

        for chunk in list(self._chunks):
            if not chunk.state and not ApplyResult._running(chunk):  # type: ignore[arg-type]
                self._pool._engine.terminate_job(chunk, signal.SIGTERM)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._job} chunks left:{len(self._chunks) - self._open} ready:{self.ready()}>"


def _rest(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
