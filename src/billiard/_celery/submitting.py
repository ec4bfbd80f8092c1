"""What a legacy pool takes on: one call, or the items of a map, each chunk of which is a call of its own.

May: make the object that a caller holds, and hand one message for each call to the subclass's `_quick_put`.
May not: know a worker. Which of them gets a call, and when it is written, is the subclass's event loop's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from .._typing import Any
from .handlers import RUN
from .results import ApplyResult, IMapIterator, IMapUnorderedIterator, MapResult
from .wire import TASK, failure


def mapstar(args: tuple[Any, ...]) -> list[Any]:
    """One chunk of a ``map``, in the worker."""
    return list(map(*args))


def starmapstar(args: tuple[Any, ...]) -> list[Any]:
    """One chunk of a ``starmap``, in the worker."""
    return list(itertools.starmap(args[0], args[1]))


class Submitting:
    """The part of a legacy pool that its callers see."""

    _cache: dict[int, Any]
    _state: int
    _processes: int
    _putlock: Any
    _quick_put: Any
    lost_worker_timeout: float
    on_timeout_cancel: Any
    on_timeout_set: Any
    putlocks: bool
    send_ack: Any
    soft_timeout: float | None
    synack: bool
    timeout: float | None

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},
        callback: Any = None,
        error_callback: Any = None,
        accept_callback: Any = None,
        timeout_callback: Any = None,
        waitforslot: bool | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        lost_worker_timeout: float | None = None,
        callbacks_propagate: tuple[type[BaseException], ...] = (),
        correlation_id: str | None = None,
    ) -> Any:
        """Start one call. A pool that is closing returns None: Celery hands it messages until its broker stops."""
        if not callable(func):
            raise TypeError(f"apply_async() needs a callable, not {type(func).__name__}")
        if self._state != RUN:
            return None
        waits = self._putlock is not None and (self.putlocks if waitforslot is None else waitforslot)
        if waits:
            self._putlock.acquire()
        result = ApplyResult(
            self._cache,
            callback,
            accept_callback,
            timeout_callback,
            error_callback,
            soft_timeout or self.soft_timeout,
            timeout or self.timeout,
            lost_worker_timeout or self.lost_worker_timeout,
            on_timeout_set=self.on_timeout_set,
            on_timeout_cancel=self.on_timeout_cancel,
            callbacks_propagate=callbacks_propagate,
            send_ack=self.send_ack if self.synack else None,
            correlation_id=correlation_id,
        )
        try:
            self._quick_put((TASK, (result._job, None, func, args, kwds)))
        except BaseException:
            # Nobody will ever set it: left in the cache it would keep shutdown waiting for ever.
            result.discard()
            if waits:
                self._putlock.release()
            raise
        return result

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] = {}) -> Any:
        """Call in a worker and wait. Somebody else has to run the outer loop meanwhile."""
        return self._accepted(self.apply_async(func, args, kwds)).get()

    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> Any:
        """``list(map(func, iterable))`` in the workers."""
        return self._accepted(self.map_async(func, iterable, chunksize)).get()

    def starmap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> Any:
        """Like `map`, each item being the arguments of one call."""
        return self._accepted(self.starmap_async(func, iterable, chunksize)).get()

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Any = None,
        error_callback: Any = None,
    ) -> Any:
        """Start a `map`."""
        return self._map_async(func, iterable, mapstar, chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Any = None,
        error_callback: Any = None,
    ) -> Any:
        """Start a `starmap`."""
        return self._map_async(func, iterable, starmapstar, chunksize, callback, error_callback)

    def _map_async(
        self, func: Any, iterable: Any, mapper: Any, chunksize: int | None, callback: Any, error_callback: Any
    ) -> Any:
        if self._state != RUN:
            return None
        items = list(iterable)
        if chunksize is None:
            chunksize = -(-len(items) // (4 * max(self._processes, 1))) or 1
        result = MapResult({}, chunksize, len(items), callback, error_callback)
        # A job for each chunk: AsynPool keeps what it has to write on the job, so a job is one message.
        for i, chunk in enumerate(_chunks(iter(items), chunksize)):
            self._submit_part(result, i, mapper, ((func, chunk),))
        return result

    def _submit_part(self, whole: Any, i: int, func: Any, args: Any) -> None:
        part = self.apply_async(
            func,
            args,
            callback=lambda value: whole._set(i, (True, value)),
            error_callback=lambda einfo: whole._set(i, (False, einfo)),
            accept_callback=lambda pid, accepted_at: whole._ack(i, accepted_at, pid),
        )
        if part is None:
            whole._set(i, (False, failure(ValueError("the pool is not running"))))

    def imap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        lost_worker_timeout: float | None = None,
    ) -> Any:
        """Iterate over results, in order."""
        return self._imap(IMapIterator, func, iterable, chunksize, lost_worker_timeout)

    def imap_unordered(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        lost_worker_timeout: float | None = None,
    ) -> Any:
        """Iterate over results, as they come."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize, lost_worker_timeout)

    def _imap(self, kind: Any, func: Any, iterable: Any, chunksize: int, lost_worker_timeout: float | None) -> Any:
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize!r}")
        if self._state != RUN:
            return None
        items = iter(iterable)
        results = kind({}, lost_worker_timeout or self.lost_worker_timeout)
        window = 2 * max(self._processes, 1)
        if chunksize == 1:
            results._feed_from(((func, (item,)) for item in items), self._submit_part, window)
            return results
        results._feed_from(((mapstar, ((func, chunk),)) for chunk in _chunks(items, chunksize)), self._submit_part, window)
        return (value for chunk in results for value in chunk)

    @staticmethod
    def _accepted(result: Any) -> Any:
        if result is None:
            raise ValueError("the pool is not running")
        return result


def _chunks(items: Iterator[Any], size: int) -> Iterator[tuple[Any, ...]]:
    while chunk := tuple(itertools.islice(items, size)):
        yield chunk
