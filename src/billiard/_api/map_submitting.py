"""Handing the items of a map over: from a function and its input to jobs, a `Chunk` each, in the caller's thread.

`map` takes its input at once, and pickles all of it before the first chunk is submitted; `imap` takes it as results are
fetched (see `imap`). As with a single call (see `submitting`) a chunk owns its bytes, and what is wrong is found here; but what
is wrong with an item of an `imap` is told in its turn.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable

from .._typing import Any
from .._wire import frames, pickling
from . import validate
from .imap import IMapIterator, IMapUnorderedIterator
from .imap_input import Input
from .map_results import Chunk, MapResult
from .packing import ITEM, UNPACKED, arguments_of, plainly
from .results import callbacks_of
from .submitting import Submitting


class MapSubmitting(Submitting):
    """The methods of a pool that take many calls at once."""

    # the pool's, made in its constructor
    _recycles: bool  # whether a worker's life may end though nothing is wrong with it
    _lazy_maps: dict[int, weakref.ref[IMapIterator]]  # those that still read, by their number
    _untaken: set[IMapIterator]  # of these, those whose results nobody has begun to take: kept until `join`

    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """``[func(x) for x in iterable]``, in workers. `chunksize`: items in one call (default: a quarter of a worker's share).

        Raises the first error in input order, after everything has ended.
        """
        return self._map_and_wait(func, iterable, frames.MAP, chunksize)

    def starmap(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None) -> list[Any]:
        """Like `map`, for items that are tuples of arguments."""
        return self._map_and_wait(func, iterable, frames.STARMAP, chunksize)

    def map_async(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None,
        callback: Callable[[list[Any]], Any] | None = None, error_callback: Callable[[Any], Any] | None = None,
    ) -> MapResult:  # fmt: skip
        """`map`, returning a handle at once. callback(list), error_callback(ExceptionInfo): how it ended."""
        result = self._begin_map(func, iterable, frames.MAP, chunksize, callback, error_callback)
        self._own_all(result)
        return result

    def starmap_async(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None,
        callback: Callable[[list[Any]], Any] | None = None, error_callback: Callable[[Any], Any] | None = None,
    ) -> MapResult:  # fmt: skip
        """`starmap`, returning a handle at once."""
        result = self._begin_map(func, iterable, frames.STARMAP, chunksize, callback, error_callback)
        self._own_all(result)
        return result

    def _map_and_wait(self, func: Any, iterable: Any, kind: int, chunksize: Any) -> list[Any]:
        result = self._begin_map(func, iterable, kind, chunksize)
        try:
            # the caller waits, so its buffers need not be copied
            return result.get()  # type: ignore[no-any-return]  # a handle's value is Any
        except BaseException:
            self._own_all(result)  # Ctrl-C: it waits no more
            raise
        finally:
            del result  # as in `Submitting.apply`

    def _own_all(self, result: MapResult) -> None:
        for chunk in list(result._chunks):
            if chunk.kind & frames.LARGE and not chunk.state:
                self._own(chunk)

    def _begin_map(
        self, func: Any, iterable: Any, kind: int, chunksize: Any, callback: Any = None, error_callback: Any = None
    ) -> MapResult:
        self._check_running()
        validate.function(func)
        chunksize = validate.optional_integer("chunksize", chunksize, 1)
        validate.callable_or_none("callback", callback)
        validate.callable_or_none("error_callback", error_callback)
        # exactly these: of a subclass, what iterating it gives is meant, and not what slicing does
        items = iterable if type(iterable) in (list, tuple, range) else list(validate.items("iterable", iterable))
        if chunksize is None:
            chunksize = max(1, -(-len(items) // (4 * max(self._processes, 1))))
        function_id, forget = self._packer.map_function_id(func)
        callbacks = None
        if callback is not None or error_callback is not None:
            callbacks = callbacks_of(callback, error_callback)
        result = MapResult(self, func, function_id, forget, callbacks)
        # pickled before the first is submitted: an item that cannot be pickled leaves nothing behind
        try:
            if chunksize > 1:
                starts = range(0, len(items), chunksize)
                chunks = [self._several(result, items[at : at + chunksize], at, kind) for at in starts]
            elif kind == frames.STARMAP:
                each = itertools.starmap(arguments_of, enumerate(items))
                chunks = [self._single(result, args, at) for at, args in enumerate(each)]
            else:
                chunks = [self._single(result, (item,), at) for at, item in enumerate(items)]
        except BaseException:
            result.forget_function()
            raise
        result.begin(chunks)
        self._engine.submit_all(chunks)
        return result

    def _single(self, group: Any, args: tuple[Any, ...], first: int) -> Chunk:
        """A `Chunk` for item number `first`, sent as a plain call."""
        if call := plainly(args):
            # the hot path of a map: an argument that refers to nothing
            chunk = Chunk(group, frames.CALL, group._function_id, call, len(call), first)
        else:
            args, pure = pickling.lighten_all(args)
            try:
                call, size, large = self._packer.pack(args, pure)
            except Exception as exc:
                self._packer.explain(exc, group._func, [(ITEM.format(first), args)])
                raise
            chunk = Chunk(group, frames.CALL | large, group._function_id, call, size, first)
        if self.soft_timeout or self.timeout:
            chunk.limit(self.soft_timeout, self.timeout)
        return chunk

    def _several(self, group: Any, items: Any, first: int, kind: int = frames.MAP) -> Chunk:
        """A `Chunk` for some items, the first of which is number `first`."""
        if kind == frames.STARMAP and not UNPACKED.issuperset(map(type, items)):
            for at, item in enumerate(items, first):
                validate.arguments(at, item)
        limited = self.soft_timeout or self.timeout
        try:
            call, size, large = self._packer.pack(items)
        except Exception as exc:
            self._packer.explain(exc, group._func, [(ITEM.format(at), item) for at, item in enumerate(items, first)])
            raise
        kind |= large | (frames.TIMED if limited else 0)
        chunk = Chunk(group, kind, group._function_id, call, size, first)
        if limited:
            chunk.limit(self.soft_timeout, self.timeout)
        return chunk

    def imap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1,
        lost_worker_timeout: float | None = None,
    ) -> IMapIterator:  # fmt: skip
        """`map` as an iterator that takes its input as results are fetched.

        chunksize: items in a call (default 1). lost_worker_timeout: accepted and not needed. What cannot be pickled is the
        error of the `next` that comes to it.
        """
        chunksize = validate.chunksize(chunksize)
        return self._imap(IMapIterator, func, iterable, chunksize, lost_worker_timeout)

    def imap_unordered(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1,
        lost_worker_timeout: float | None = None,
    ) -> IMapIterator:  # fmt: skip
        """`imap` with the results in the order in which they come."""
        chunksize = validate.chunksize(chunksize)
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize, lost_worker_timeout)

    def _imap(
        self, kind: type[IMapIterator], func: Any, iterable: Any, chunksize: int, lost_worker_timeout: Any
    ) -> IMapIterator:
        self._check_running()
        validate.function(func)
        validate.number("lost_worker_timeout", lost_worker_timeout)
        items = iter(validate.items("iterable", iterable))
        function_id, forget = self._packer.map_function_id(func)
        make = self._single if chunksize == 1 else self._several
        result = kind(self, func, function_id, forget, Input(items, chunksize, make))
        result.begin()
        return result
