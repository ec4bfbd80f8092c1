"""What callers of a legacy pool hold, and what its handlers set.

May: keep one job's state, call its callbacks. May not: write to a worker or know a process.

A result lives in the pool's ``_cache`` from construction until it is both accepted and set, so that an ACK read after
its READY still finds it.
"""

from __future__ import annotations

import threading
import time
from abc import ABCMeta
from collections import deque
from collections.abc import Callable, Iterator

from .._api import imap as engine_imap
from .._api import map_results as engine_maps
from .._api import results as engine_results
from .._api.results import job_counter
from .._typing import Any, cast
from ..einfo import ExceptionWithTraceback
from ..exceptions import Terminated, TimeoutError
from . import log
from .seams import new_lock
from .wire import ACK, NACK, failure

LOST_WORKER_TIMEOUT = 10.0

Callback = Callable[..., Any] | None


def bare_error(einfo: Any) -> BaseException:
    """The error to raise for an ExceptionInfo. One made in this process wraps it, one that was pickled does not."""
    error: Any = einfo.exception
    bare: Any = error.exc if isinstance(error, ExceptionWithTraceback) else error
    return cast(BaseException, bare)


class ApplyResult(metaclass=ABCMeta):
    """The result of one ``apply_async``."""

    # Set by whoever writes the job to a worker; by the pool when the worker died.
    _worker_lost: Any = None
    _write_to: Any = None
    _scheduled_for: Any = None
    #: Whether its soft limit was enforced, which is done once.
    _soft_struck = False
    #: Workers that died with this job in their pipe, before accepting it.
    _deaths_at_receipt = 0

    _success: bool
    _value: Any

    def __init__(
        self,
        cache: dict[int, Any],
        callback: Callback,
        accept_callback: Callback = None,
        timeout_callback: Callback = None,
        error_callback: Callback = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        lost_worker_timeout: float = LOST_WORKER_TIMEOUT,
        on_timeout_set: Callback = None,
        on_timeout_cancel: Callback = None,
        callbacks_propagate: tuple[type[BaseException], ...] = (),
        send_ack: Callback = None,
        correlation_id: str | None = None,
    ) -> None:
        self.correlation_id = correlation_id
        self._mutex = new_lock()
        self._event = threading.Event()
        self._job = next(job_counter)
        self._cache = cache
        self._callback = callback
        self._accept_callback = accept_callback
        self._error_callback = error_callback
        self._timeout_callback = timeout_callback
        self._timeout = timeout
        self._soft_timeout = soft_timeout
        self._lost_worker_timeout = lost_worker_timeout
        self._on_timeout_set = on_timeout_set
        self._on_timeout_cancel = on_timeout_cancel
        self._callbacks_propagate = callbacks_propagate or ()
        self._send_ack = send_ack
        self._accepted = False
        self._cancelled = False
        self._worker_pid: int | None = None
        self._time_accepted: float | None = None
        self._terminated: int | None = None
        cache[self._job] = self

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._job} ack:{self._accepted} ready:{self.ready()}>"

    # -- for callers

    def ready(self) -> bool:
        """Whether the result is here."""
        return self._event.is_set()

    def accepted(self) -> bool:
        """Whether a worker has taken the job up."""
        return self._accepted

    def successful(self) -> bool:
        """Whether the job ended without an error."""
        assert self.ready(), "the job is not ready"
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is here, or `timeout` seconds have passed."""
        self._event.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """The job's value; its error is raised."""
        self.wait(timeout)
        if not self.ready():
            raise TimeoutError
        if self._success:
            return self._value
        raise bare_error(self._value)

    def worker_pids(self) -> list[int]:
        """The workers that accepted the job: one or none."""
        return [self._worker_pid] if self._worker_pid else []

    def terminate(self, signum: int) -> None:
        """Mark the job as terminated, should it come back from a dead worker. ``Pool.terminate_job`` sends signals."""
        self._terminated = signum

    def discard(self) -> None:
        """Forget the job: nobody will set it."""
        self._cache.pop(self._job, None)

    # -- for the pool

    def _cancel(self) -> None:
        """Refuse the job when a worker wants to start it (needs synack)."""
        self._cancelled = True

    def _set_terminated(self, signum: int | None = None) -> None:
        self._set(None, (False, failure(Terminated(-(signum or 0)))))

    def handle_timeout(self, soft: bool = False) -> None:
        """Tell the caller that a limit was reached."""
        if self._timeout_callback is not None:
            timeout = self._soft_timeout if soft else self._timeout
            self.safe_apply_callback(self._timeout_callback, soft=soft, timeout=timeout)

    def safe_apply_callback(self, fun: Callback, *args: Any, **kwargs: Any) -> None:
        """Call `fun`; of its errors only those the caller asked for, and lack of memory, get out."""
        if fun is None:
            return
        let_out: tuple[type[BaseException], ...] = (*self._callbacks_propagate, MemoryError)
        try:
            fun(*args, **kwargs)
        except let_out:
            raise
        except Exception as exc:
            log.error("Pool callback raised exception: %r", exc, exc_info=True)

    def _set(self, i: int | None, obj: tuple[bool, Any]) -> None:
        with self._mutex:
            if self._on_timeout_cancel is not None:
                self._on_timeout_cancel(self)
            self._success, self._value = obj
            self._event.set()
            if self._accepted:
                self._cache.pop(self._job, None)
            if self._success:
                self.safe_apply_callback(self._callback, self._value)
            elif self._value is not None:
                self.safe_apply_callback(self._error_callback, self._value)

    def _ack(self, i: int | None, time_accepted: float, pid: int, synqW_fd: int | None) -> None:
        with self._mutex:
            if self._cancelled and self._send_ack is not None:
                self._accepted = True
                if synqW_fd:
                    self._send_ack(NACK, pid, self._job, synqW_fd)
                return
            self._accepted = True
            self._time_accepted = time_accepted
            self._worker_pid = pid
            if self.ready():
                self._cache.pop(self._job, None)
            if self._on_timeout_set is not None:
                self._on_timeout_set(self, self._soft_timeout, self._timeout)
            try:
                self.safe_apply_callback(self._accept_callback, pid, time_accepted)
            finally:  # the worker waits for the answer, whatever the callback did
                if self._send_ack is not None and synqW_fd:
                    self._send_ack(ACK, pid, self._job, synqW_fd)


class MapResult(ApplyResult):
    """The result of a ``map_async``: the first chunk that fails is its error."""

    def __init__(
        self, cache: dict[int, Any], chunksize: int, length: int, callback: Callback, error_callback: Callback
    ) -> None:
        super().__init__(cache, callback, error_callback=error_callback)
        self._success = True
        self._length = length
        self._chunksize = chunksize
        chunks = -(-length // chunksize) if length else 0
        self._value = [None] * length
        self._accepts = [False] * chunks
        self._pids: list[int | None] = [None] * chunks
        self._left = chunks
        if not chunks:
            self._event.set()
            self.discard()

    def accepted(self) -> bool:
        """Whether every chunk was taken up."""
        return all(self._accepts)

    def worker_pids(self) -> list[int]:
        """The workers that accepted chunks."""
        return [pid for pid in self._pids if pid]

    def _set(self, i: int | None, obj: tuple[bool, Any]) -> None:
        with self._mutex:
            if self.ready():
                return  # failed already; the other chunks come too late
            success, value = obj
            if not success or i is None:
                self._success, self._value = False, value
                self._finish()
                self.safe_apply_callback(self._error_callback, value)
                return
            self._value[i * self._chunksize : (i + 1) * self._chunksize] = value
            self._left -= 1
            if not self._left:
                self.safe_apply_callback(self._callback, self._value)
                self._finish()

    def _finish(self) -> None:
        self._cache.pop(self._job, None)
        self._event.set()

    def _ack(self, i: int | None, time_accepted: float, pid: int, synqW_fd: int | None = None) -> None:
        if i is None:
            return
        self._accepts[i] = True
        self._pids[i] = pid
        self._accepted = self.accepted()
        self._time_accepted = time_accepted


class IMapIterator(metaclass=ABCMeta):  # noqa: B024 - not abstract: the engine's iterator is registered with it
    """The results of an ``imap``, in order."""

    _accepted = True
    _terminated = _worker_lost = _write_to = _scheduled_for = None
    _time_accepted = _soft_timeout = _timeout = None
    correlation_id: str | None = None

    def __init__(self, cache: dict[int, Any], lost_worker_timeout: float = LOST_WORKER_TIMEOUT) -> None:
        self._cond = threading.Condition()
        self._job = next(job_counter)
        self._cache = cache
        self._lost_worker_timeout = lost_worker_timeout
        self._items: deque[tuple[bool, Any]] = deque()
        self._early: dict[int, tuple[bool, Any]] = {}
        self._index = 0
        self._length: int | None = None
        self._pids: dict[int, int] = {}
        self._parts: Iterator[tuple[Any, Any]] | None = None
        self._submit: Any = None
        self._submitted = 0
        cache[self._job] = self

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._job} {self._index} of {self._length}>"

    def __iter__(self) -> IMapIterator:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """The next value; an item that failed raises its error here, and the iteration can go on after it."""
        self._feed()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._cond:
            while not self._items:
                if self._index == self._length:
                    raise StopIteration
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._cond.wait(left)
            success, value = self._items.popleft()
        if success:
            return value
        raise bare_error(value)

    def __next__(self) -> Any:
        return self.next()

    def ready(self) -> bool:
        """Whether every item has come in."""
        return self._index == self._length

    def accepted(self) -> bool:
        """Always: an iterator as a whole is not accepted, its items are."""
        return True

    def worker_pids(self) -> list[int]:
        """The workers that hold items."""
        return list(self._pids.values())

    def _ack(self, i: int | None, time_accepted: float, pid: int, synqW_fd: int | None = None) -> None:
        if i is not None:
            self._pids[i] = pid

    def _set(self, i: int | None, obj: tuple[bool, Any]) -> None:
        with self._cond:
            i = self._index if i is None else i
            self._pids.pop(i, None)
            self._place(i, obj)
            self._cond.notify_all()
            self._discard_if_ready()

    def _place(self, i: int, obj: tuple[bool, Any]) -> None:
        self._early[i] = obj
        while self._index in self._early:
            self._items.append(self._early.pop(self._index))
            self._index += 1

    def _feed_from(self, parts: Iterator[tuple[Any, Any]], submit: Callable[..., None], window: int) -> None:
        """Submit `window` parts now, and one more at each `next`: an endless input is taken as it is consumed."""
        self._parts, self._submit = parts, submit
        for _ in range(window):
            self._feed()

    def _feed(self) -> None:
        if self._parts is None:
            return
        try:
            func, args = next(self._parts)
            self._submit(self, self._submitted, func, args)
        except BaseException as exc:
            self._parts = None
            self._set_length(self._submitted)
            if not isinstance(exc, StopIteration):
                raise  # the input's own error, or an item that does not pickle: the caller's to see
        else:
            self._submitted += 1

    def _set_length(self, length: int) -> None:
        with self._cond:
            self._length = length
            self._cond.notify_all()
            self._discard_if_ready()

    def _discard_if_ready(self) -> None:
        if self.ready():
            self._cache.pop(self._job, None)


class IMapUnorderedIterator(IMapIterator):
    """The results of an ``imap_unordered``, as they come."""

    def _place(self, i: int, obj: tuple[bool, Any]) -> None:
        self._items.append(obj)
        self._index += 1


# ``isinstance(result, billiard.pool.ApplyResult)`` must hold for whatever pool gave the result.
ApplyResult.register(engine_results.ApplyResult)
MapResult.register(engine_maps.MapResult)
IMapIterator.register(engine_imap.IMapIterator)
IMapUnorderedIterator.register(engine_imap.IMapUnorderedIterator)
