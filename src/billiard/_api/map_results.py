"""The handle of a map, MapResult, and the calls that it consists of."""

from __future__ import annotations

from collections.abc import Callable

from .._core.state import FATE, PENDING, share_keys
from .._supervisor.target import moment_in, rest_until
from .._typing import Any, Final
from .._wire import frames, pickling
from ..common import TERM_SIGNAL
from . import outcome
from .results import SHARED, Awaited, Callbacks, ResultHandle, job_counter

_read: Final = pickling.read


class Chunk(Awaited):
    """Some consecutive items of a map, sent as one call."""

    may_follow = False  # they come together, and are for as many workers as there are
    queued = False  # of imap_unordered: it has ended, and is in the queue of those ...
    fetched = False  # ... and was taken from it
    call: Any

    def __init__(self, group: Any, kind: int, function_id: int, call: Any, size: int, first: int) -> None:
        self.group = group
        self.kind = kind
        self.function_id = function_id
        self.call = call
        self.size = size
        self.first = first  # index in the whole input of its first item
        if group.told_of_chunks:
            self.watched = True

    def notify_settled(self) -> None:
        if self._wakers is not None:
            self.wake_all()
        self.group.chunk_settled(self)

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


share_keys(Chunk, "group", "kind", "function_id", "call", "size", "first", "queued", "fetched", *SHARED)


class MapResult(ResultHandle):
    """All calls of one map. `get` returns the list of their values; if any failed, the first error in input order."""

    def __init__(self, pool: Any, func: Any, function_id: int, forget: int, callbacks: Callbacks | None) -> None:
        """`forget`: number of a function that travels for this map alone, or 0."""
        self._pool = pool
        self._func = func
        self._function_id = function_id
        self._forget = forget
        self._job = next(job_counter)
        self._state = PENDING
        self._chunks: list[Chunk] = []
        self._open = 0  # chunks before this index have ended
        self.callbacks = callbacks
        # Usually nobody needs to know of the last chunk's end before they ask, and then it is enough to look. Notifying
        # the map of each chunk would cost a tenth of a tiny call.
        self.told_of_chunks = callbacks is not None or forget != 0

    def begin(self, chunks: list[Chunk]) -> None:
        """These are its calls, about to be submitted: later, the last of them might end unnoticed."""
        self._chunks = chunks
        if not chunks:
            # no call's end leads to the turn in which it is told, and only under the lock is nothing lost that is to be told
            self.body, self._state = None, frames.RESULT
            self._pool._engine.change(self._finish)
            self._pool._engine.wake()

    def forget_function(self) -> None:
        """No further call of this map will name its function."""
        if self._forget:
            self._pool._packer.forget(self._forget)
            self._forget = 0

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
        return index >= len(chunks)

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when all calls have ended; at once if they have."""
        self.told_of_chunks = True
        for chunk in self._chunks[self._open :]:
            chunk.watched = True
        super().watch(wake)
        # only now: a chunk that ended before it was watched is seen here
        if self._state or self._over:
            self._finish()

    def chunk_settled(self, chunk: Chunk) -> None:
        """Under the engine's lock, repeatable."""
        if not self._state and self._over:
            self._finish()

    def _finish(self) -> None:
        self.forget_function()
        if not self._state:
            self.body, self._state = None, frames.RESULT
        self.notify_settled()

    def get(self, timeout: float | None = None) -> Any:
        """The list of all values; see `ApplyResult.get`. Raises the first error in input order, after everything has ended."""
        deadline = None if timeout is None else moment_in(timeout)
        self._read_large_chunks(deadline)
        try:
            return super().get(rest_until(deadline))
        finally:
            del self  # as in `ResultHandle.get`

    def _read_large_chunks(self, deadline: float | None) -> None:
        """Read them while the workers are on the next. Small ones are read at the end, at half the price."""
        for chunk in list(self._chunks):
            if chunk.is_one_item or not (chunk.state or self._pool._engine.wait(chunk, rest_until(deadline))):
                break
            chunk.resolve()

    def _resolve(self) -> bool:
        chunks = self._chunks  # before the look at the state: another thread, which is just done, lets go of them after it
        if self.state != frames.RESULT:
            return self.state == outcome.VALUE
        values: list[Any] = []
        body, found = values, outcome.VALUE
        for chunk in chunks:
            if chunk.state == frames.RESULT and chunk.kind == frames.CALL:
                # one plain value, the usual case with chunksize=1, at half the price; what fails is told below
                try:
                    values.append(_read(chunk.body))
                    continue
                except BaseException as exc:
                    outcome.own_error(chunk, exc, _read, chunk.body)
            if not chunk.resolve():
                body, found = chunk.body, outcome.FAILURE
                break
            if chunk.is_one_item:
                values.append(chunk.body)
            else:
                values += chunk.body
        if self._state == frames.RESULT:  # else that thread was faster, and its object is the one
            self.body, self._state = body, found
        self._chunks = []
        return self._state == outcome.VALUE

    def terminate(self, signum: int = TERM_SIGNAL) -> None:
        """End all calls of this map that have not ended, and no others; with `signum` as `ApplyResult.terminate` has it."""
        for chunk in list(self._chunks):
            self._pool._engine.terminate_job(chunk, signum)

    def accepted(self) -> bool:
        """Whether every chunk has begun; of a map whose error is known, whether the one that failed first had."""
        if not self._chunks and self._state:
            return outcome.had_begun(self)
        return all(outcome.had_begun(chunk) or chunk._running() for chunk in self._chunks)

    def worker_pids(self) -> list[int]:
        """The pids of the workers that run a chunk of this map."""
        return [pid for chunk in self._chunks for pid in chunk._running_pids()]

    def discard(self) -> None:
        """The result is not wanted: chunks that have not started never will."""
        for chunk in list(self._chunks):
            if not chunk.state and not chunk._running():
                self._pool._engine.terminate_job(chunk, TERM_SIGNAL)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._job} chunks left:{max(len(self._chunks) - self._open, 0)} ready:{self.ready()}>"
