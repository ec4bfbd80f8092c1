"""Lazy maps: `imap` and `imap_unordered`.

The input is advanced in no thread of ours: `imap` takes the first chunks, `next` those that follow, `join` the rest; but for
`join` only as far as a bounded number of items (inputs under way and results not fetched together) allows. So endless inputs
are fine, a slow consumer slows the producer down, and an input that raises raises in the caller.

A signal's handler may raise at the end of any call, when a function is entered and where a loop turns; there, too, another
thread may come between. Nothing is lost: items of the input lie in an attribute until they are in a chunk, that until it is
submitted, and one that has ended until its value is returned. Taking it from there are plain statements, with no call
between them and the `return`.

Who takes results and then lets go of the iterator wants no more of them: at that moment the rest of the input is given up.
Whoever never took one wanted the calls, as in multiprocessing, and they are made, by `join` at the latest.

What a handler raises in a finalizer written in Python reaches nobody: the interpreter swallows it. So an iterator that is
exhausted, as nearly all are, has none left when it dies.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections import deque

from .._core.worker_set import PoolState
from .._supervisor.target import Waitable, moment_in, rest_until
from .._typing import TYPE_CHECKING, Any, Final
from .._wire import frames, pickling
from ..exceptions import TimeoutError
from . import outcome
from .imap_input import Input
from .map_results import Chunk
from .results import job_counter

if TYPE_CHECKING:
    from .._supervisor.engine import Engine
    from .map_submitting import MapSubmitting

_read: Final = pickling.read
AHEAD_S: Final = 0.020  # so much work is kept under way for each worker
AHEAD_MIN: Final = 4  # chunks for each worker
AHEAD_MAX: Final = 512
_ALL: Final = sys.maxsize  # chunks: what is left of the input, however much it is


def _no_end(error: BaseException) -> BaseException:
    """What `next` raises for a call's error: its StopIteration would be taken for the end, and what is behind it be lost."""
    if isinstance(error, StopIteration):
        told = RuntimeError("the call raised StopIteration")
        told.__cause__ = error
        return told
    return error


class Group(Waitable):
    """What the chunks of one iterator have in common. They refer to this and not to the iterator, or it would end at some
    garbage collection after its user has let go of it, and until then its input would be read on, or not.
    """

    def __init__(self, pool: MapSubmitting, func: Any, function_id: int, unordered: bool) -> None:
        self._pool = pool
        self._func = func
        self._function_id = function_id
        self._job = next(job_counter)
        self.told_of_chunks = unordered  # else they are waited for one by one
        self.queue: deque[Chunk] = deque()  # given and not fetched; of unordered results, those that have ended
        self._wakers = {}

    def chunk_settled(self, chunk: Chunk) -> None:
        """Under the engine's lock; whoever waits for this chunk was woken by the chunk."""
        if self.told_of_chunks and not chunk.queued:
            # appended first: cut short in between, it is appended twice, and the second is dropped when met
            self.queue.append(chunk)
            chunk.queued = True
        if self._wakers:  # else a call for each item, for nothing
            self.wake_all()


class ForgettingGroup(Group):
    """Its function travels for this iteration alone."""

    def __del__(self) -> None:
        # every chunk under way holds us: there is none
        if hasattr(self, "_pool"):  # else an exception came before
            self._pool._packer.forget(self._function_id)


def let_end(engine: Engine, lazy_maps: dict[int, weakref.ref[IMapIterator]], job: int, _: object = None) -> None:
    """The pool need not wait for the input of lazy map `job` any more: it has been read, or who took the results let go of it.

    Repeatable; what tells of the iterator's death goes last, and then of its own accord.
    """
    engine.core.worker_set.reading.discard(job)
    if engine.pool_state:
        engine.wake()
    lazy_maps.pop(job, None)


class IMapIterator:
    """The results in the order of the input; `next(timeout)` waits for at most so many seconds.

    Several threads may call `next`: each result goes to one of them.
    """

    _unordered = False

    def __init__(self, pool: MapSubmitting, func: Any, function_id: int, forget: int, items: Input) -> None:
        """`forget`: number of a function that travels for this iteration alone, or 0."""
        self._pool = pool
        self._group = (ForgettingGroup if forget else Group)(pool, func, function_id, self._unordered)
        self._job = self._group._job
        self._input = items
        self._input_ended = False
        self._fetched = 0  # chunks
        self._low = 0  # so few given and not fetched: take more of the input; -1: there is no more
        self._queue = self._group.queue
        self._rest: tuple[Any, Any] | None = None  # of the chunk fetched last: (next value, rest of the same kind)
        self._lock = threading.RLock()  # held by who takes from the input
        self._advancing = False  # somebody does

    def begin(self) -> None:
        """Submit the first chunks. Until the input has been read to its end the pool does not end, unless it is terminated."""
        engine, lazy_maps, job = self._pool._engine, self._pool._lazy_maps, self._job
        lazy_maps[job] = weakref.ref(self, functools.partial(let_end, engine, lazy_maps, job))
        self._pool._untaken.add(self)
        engine.core.worker_set.reading.add(job)
        self._advance(self._bound())
        if not self._input_ended:
            self._low = _ALL  # the first `next` comes to `_go_on`

    def read_on(self) -> None:
        """Submit all that is left of the input, however much it is."""
        self._advance(_ALL)

    def __iter__(self) -> IMapIterator:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """The next result.

        Raises StopIteration at the end, `billiard.TimeoutError` after `timeout` seconds (None: as long as it takes), and
        what the call raised; after an error the iteration goes on behind the failed item (with `chunksize` > 1: its chunk).
        """
        deadline = None if timeout is None else moment_in(timeout)
        items, queue = self._input, self._queue
        while True:
            if self._rest is not None:
                value, self._rest = self._rest
                return value
            if items.given - self._fetched <= self._low:
                self._go_on()
            chunk = queue[0] if queue else None
            if chunk is None or not chunk.state:
                if items.given > self._fetched:
                    if not self._wait(chunk, deadline):
                        raise TimeoutError(f"no result within {timeout}s")
                elif self._input_ended:
                    error, items.error = items.error, None
                    try:
                        raise StopIteration if error is None else error
                    finally:
                        del error  # the error's traceback keeps this frame, which would keep the error
                continue  # also if other threads were faster
            if chunk.fetched:
                del queue[0]  # queued twice
                continue
            if chunk.state == frames.RESULT and chunk.kind == frames.CALL:
                # one plain value, the usual case, at half the price; what fails is told below
                body = chunk.body
                try:
                    value = _read(body)
                except BaseException as exc:
                    outcome.own_error(chunk, exc, _read, body)
                else:
                    if not chunk.fetched:  # else by another thread, or in a signal's handler
                        chunk.fetched = True
                        self._fetched += 1
                        del queue[0]
                        return value
                    continue
            rest: Any = None
            failed, one = not chunk.resolve(), chunk.is_one_item
            body = chunk.body
            if not (failed or one):
                for value in reversed(body):
                    rest = value, rest
            if chunk.fetched or self._rest is not None:
                continue
            chunk.fetched = True
            self._fetched += 1
            del queue[0]
            self._rest = rest
            if failed:
                try:
                    raise _no_end(body.exception)
                finally:
                    del chunk, body  # as above
            if one:
                return body

    __next__ = next  # noqa: A003 - the method above, spared one call

    def ready(self) -> bool:
        """Whether all calls have ended, also those whose results were not fetched."""
        ended = len({id(chunk) for chunk in tuple(self._queue) if chunk.state})
        return self._input_ended and self._input.given - self._fetched <= ended

    def worker_pids(self) -> list[int]:
        """The pids of the workers that run one of its calls."""
        held = [
            job
            for worker in list(self._pool._engine.core.worker_set.workers.values())
            for job in list(worker.inflight.values())
        ]
        return [pid for job in held if getattr(job, "group", None) is self._group for pid in job._running_pids()]

    def _wait(self, chunk: Chunk | None, deadline: float | None) -> bool:
        """Wait for the end of `chunk`, the first of the queue. False when the time is up."""
        return chunk is None or self._pool._engine.wait(chunk, rest_until(deadline))

    def _go_on(self) -> None:
        self._pool._untaken.discard(self)
        self._advance(self._bound())

    def _bound(self) -> int:
        run_s = self._pool._engine.core.dispatch.run_time_s(self._group._function_id)
        ahead = AHEAD_MIN if run_s is None else int(AHEAD_S / (run_s + 1e-6))
        if self._pool._recycles and ahead > AHEAD_MIN:
            # A worker's start may cost more than all that it does: no more ahead than it and its replacement are known to do in
            # their lives. Else brief calls, one to a worker, are 512 starts for each, and what comes next waits behind them.
            workers = list(self._pool._engine.core.worker_set.workers.values())
            ahead = min(ahead, 2 * max((worker.current for worker in workers), default=0))
        return min(max(ahead, AHEAD_MIN), AHEAD_MAX) * self._pool._processes

    def _advance(self, bound: int) -> None:
        """Have more of the input submitted, in one thread at a time, until so many chunks are given and not fetched."""
        if self._advancing and self._input.given > self._fetched and bound != _ALL:
            return  # somebody is at it, and results are under way
        with self._lock:
            if not self._advancing:
                self._advancing = True
                try:
                    self._submit_more(bound)
                finally:
                    self._advancing = False
            elif self._input.given <= self._fetched or bound == _ALL:  # we hold the lock, so this very thread is at it
                raise RuntimeError(
                    "an imap's results, or its pool's end, were asked for while it took from its input, in that input itself or"
                    " in a signal handler, and no results are under way that could be waited for"
                )

    def _submit_more(self, bound: int) -> None:
        """With the lock held. After an exception the same chunk comes again, and everything done with it may be done twice."""
        items, engine = self._input, self._pool._engine
        worker_set = engine.core.worker_set
        self._low = bound // 2
        for _ in range(items.given - self._fetched, bound):
            if worker_set.pool_state > PoolState.CLOSE and not self._input_ended:
                # each item would be submitted only to fail, of an endless input for ever
                items.end(self._pool._refusal())
            chunk = items.peek(self._group)
            if chunk is None:
                self._input_ended, self._low = True, -1
                self._let_end()
                return
            if not chunk.state:
                engine.submit(chunk)
            self._enqueue(chunk)
            if chunk.kind & frames.LARGE:
                self._pool._own(chunk)  # the input may fill the same array anew
            items.advance()

    def _let_end(self) -> None:
        self._pool._untaken.discard(self)
        let_end(self._pool._engine, self._pool._lazy_maps, self._job)

    def _enqueue(self, chunk: Chunk) -> None:
        self._queue.append(chunk)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._job} pending:{self._input.given - self._fetched}>"


class IMapUnorderedIterator(Waitable, IMapIterator):
    """The results as they come."""

    _unordered = True

    def __init__(self, *args: Any) -> None:
        """As above."""
        super().__init__(*args)
        self._wakers = self._group._wakers  # the chunks wake who waits for one of us

    def _enqueue(self, chunk: Chunk) -> None:
        # watched: it comes into the queue when it has ended, unless it has failed here already
        if chunk.state and not chunk.queued:
            self._queue.append(chunk)

    @property
    def state(self) -> int:  # type: ignore[override]  # read only
        """Whether there is something to do for one who waits for a result: take one, or see that all are taken."""
        return len(self._queue) or int(self._input.given <= self._fetched)

    def _wait(self, chunk: Chunk | None, deadline: float | None) -> bool:
        return self._pool._engine.wait(self, rest_until(deadline))
