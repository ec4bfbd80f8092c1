"""Lazy maps: `imap` and `imap_unordered`.

The input is advanced only in the thread that calls `next`, and only as far as a bounded number of items
(inputs under way and results not fetched together) allows. So endless inputs are fine, a slow consumer slows the
producer down, and an input that raises raises in the caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from .._typing import TYPE_CHECKING, Any, Final
from .._wire import frames, pickling
from ..exceptions import TimeoutError
from .map_results import Chunk
from .results import job_counter

if TYPE_CHECKING:
    from .submitting import Submitting

_read: Final = pickling.read
AHEAD_S: Final = 0.020  # so much work is kept under way for each worker
AHEAD_MIN: Final = 4  # chunks for each worker
AHEAD_MAX: Final = 512


class IMapIterator:
    """The results in the order of the input; `next(timeout)` waits for at most so many seconds."""

    _job: int
    _forget = 0
    told_of_chunks = False  # results are waited for one by one

    def __init__(self, pool: Submitting, func: Any, function_id: int, forget: int) -> None:
        """`forget`: number of a function that travels for this iteration alone, or 0."""
        self._forget = forget
        self._pool = pool
        self._func = func
        self._job = next(job_counter)
        self._function_id = function_id
        self._input: Iterator[Chunk] | None = None
        self._input_error: BaseException | None = None
        self._pending = 0  # chunks submitted and not fetched
        self._low = 0  # so few pending: take more of the input
        self._values: Iterator[Any] | None = None  # what is left of the chunk fetched last
        self._queue: deque[Chunk] = deque()

    def begin(self, chunks: Iterator[Chunk]) -> None:
        """Take the input, and submit its first chunks."""
        self._input = chunks
        self._advance()

    def __iter__(self) -> IMapIterator:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """The next result.

        Raises StopIteration at the end, `billiard.TimeoutError` after `timeout` seconds, and what the call raised; after
        an error the iteration goes on behind the failed item (with `chunksize` > 1: behind its chunk).
        """
        if self._values is not None:
            for value in self._values:
                return value
            self._values = None
        if self._pending <= self._low:
            self._advance()
        if not self._pending:
            error, self._input_error = self._input_error, None
            raise StopIteration if error is None else error
        chunk = self._fetch(timeout)
        if chunk is None:
            raise TimeoutError(f"no result within {timeout}s")
        self._pending -= 1
        if chunk.state == frames.RESULT and chunk.kind == frames.CALL:
            # one plain value, the usual case, at half the price; what fails is told below
            try:
                return _read(chunk.body)
            except Exception as exc:
                pickling.own_error(exc, _read, chunk.body)
        if not chunk.resolve():
            try:
                raise chunk.body.exception
            finally:
                del chunk  # the error's traceback keeps this frame, which would keep the error
        if chunk.is_one_item:
            return chunk.body
        values = iter(chunk.body)
        self._values = values
        return next(values)

    __next__ = next  # noqa: A003 - the method above, spared one call

    def _bound(self) -> int:
        run_s = self._pool._engine.core.dispatch.run_time_s(self._function_id)
        ahead = AHEAD_MIN if run_s is None else int(AHEAD_S / (run_s + 1e-6))
        return min(max(ahead, AHEAD_MIN), AHEAD_MAX) * self._pool._processes

    def _advance(self) -> None:
        bound = self._bound()
        self._low = bound // 2 if self._input is not None else -1
        while self._input is not None and self._pending < bound:
            try:
                chunk = next(self._input)
            except StopIteration:
                self._input = None
            except Exception as exc:
                # the input's error comes after the results of what it gave before
                self._input, self._input_error = None, exc
            else:
                self._enqueue(chunk)
                self._pending += 1
                self._pool._engine.submit(chunk)
                if chunk.kind & frames.LARGE:
                    self._pool._own(chunk)  # the input may fill the same array anew

    def _enqueue(self, chunk: Chunk) -> None:
        self._queue.append(chunk)

    def _fetch(self, timeout: float | None) -> Chunk | None:
        chunk = self._queue[0]
        if not chunk.state and not self._pool._engine.wait(chunk, timeout):
            return None
        return self._queue.popleft()

    def chunk_settled(self, chunk: Chunk) -> None:
        """Under the engine's lock; whoever waits for this chunk was woken by the chunk."""

    def __del__(self) -> None:
        # every chunk under way holds us: there is none
        if self._forget:
            self._pool._engine.functions.unneeded.append(self._forget)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._job} pending:{self._pending}>"


class IMapUnorderedIterator(IMapIterator):
    """The results as they come."""

    told_of_chunks = True
    _wakers: tuple[Callable[[], None], ...] = ()

    def _enqueue(self, chunk: Chunk) -> None:
        pass  # watched: it comes into the queue when it has ended

    def chunk_settled(self, chunk: Chunk) -> None:
        if not chunk.queued:
            # appended first: cut short in between, it is appended twice, and the second is dropped when met
            self._queue.append(chunk)
            chunk.queued = True
        for wake in self._wakers:
            wake()

    @property
    def state(self) -> int:
        return len(self._queue)

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when there is a result; at once if there is one."""
        self._wakers = (wake,)
        if self._queue:
            wake()

    def _fetch(self, timeout: float | None) -> Chunk | None:
        while True:
            if not self._queue and not self._pool._engine.wait(self, timeout):
                return None
            chunk = self._queue.popleft()
            if not chunk.fetched:
                chunk.fetched = True
                return chunk
