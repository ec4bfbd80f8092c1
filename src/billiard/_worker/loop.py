"""The worker's loop: one call after the other, each result sent at once.

A result is never held back to share a system call with the next one: the next call may take an hour.
The order of the stores in `_serve` is the scoreboard's contract (see billiard._wire.scoreboard); the simulation of the
core preempts between every two of them.
"""

from __future__ import annotations

import marshal
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import util
from types import TracebackType

from .._typing import Any, NoReturn
from .._wire import errors, frames, pickling
from .._wire.exit_status import EX_FAILURE, EX_OK, EX_RECYCLE
from .._wire.far_end import ATOMIC_BODY, FarEnd
from .._wire.frames import HEADER, LARGE
from .._wire.scoreboard import CURRENT, ITEM, RECALLED, SKIPPED_FROM, SOFT_NUMBER, STARTED, Scoreboard
from .._wire.unsendable import MaybeEncodingError, Shown
from ..common import TERM_SIGNAL
from ..exceptions import PayloadError, SoftTimeLimitExceeded, TaskError
from .memory import PeakGrowth
from .settings import WorkerSettings
from .signals import SoftLimit, Termination
from .stream import Frame, receive

_MAX_TAG = 0xFFFFFFFF
_NOT_YET = 1 << 63  # a time that never comes


class Loop:
    """Serves the calls of one channel until it is told to retire, wants to leave, or its parent is gone."""

    def __init__(
        self, far_end: FarEnd, scoreboard: Scoreboard, settings: WorkerSettings, snapshot: pickling.MainSnapshot
    ) -> None:
        self._far_end = far_end
        self._write = far_end.write
        self._cells = scoreboard.cells
        self._snapshot = snapshot
        self._functions: dict[int, Any] = {}
        self._unloaded: dict[int, bytes] = {}
        self._honoured = 0  # the last recall that a RESUME ended
        self.termination = Termination(self._look_after_each_call)
        self._soft = SoftLimit(scoreboard.cells, self.termination)
        self._memory_limit_kb = settings.max_memory_kb
        self._growth = PeakGrowth(settings.memory_in_total) if settings.max_memory_kb is not None else None
        self._retire: int | None = None  # told to leave, with this status, while a call waited for its verdict
        self._may_leave = self._growth is not None  # whether to look, after each call, if it was the last
        self._forked = False  # this is a child that a task has forked

    def run(self) -> int:
        """Serve; returns the exit status to leave with. Raises SystemExit on SIGTERM."""
        self.termination.install()
        self._soft.install()
        self._write(frames.frame(frames.READY, 0, 0))
        try:
            return self._serve(receive(self._far_end.sock))
        finally:
            # It leaves: raised from now on it would only keep exit hooks from running. A store, since in a call of ours the
            # signal could still strike.
            self.termination.dropped = False

    def is_signal_due(self) -> bool:
        """Whether a signal was held back that has to strike yet."""
        return self._soft.is_due()

    def _look_after_each_call(self) -> None:
        self._may_leave = True

    def after_fork(self) -> None:
        """In a child that a task has forked, and that may come back from the task: it must not go on as the worker, with the
        calls that this one holds. What it does meanwhile nobody hears of."""
        self._forked = True
        self._cells.release()  # or the rest of a chunk would be noted on the worker's scoreboard, and run twice
        self.termination.uninstall()
        self._soft.uninstall()

    def _serve(self, stream: Iterator[Frame]) -> int:
        # everything the loop touches per call is a local: this function is half of what a tiny task costs
        cells, soft, clock, loads = self._cells, self._soft, time.monotonic_ns, pickle.loads
        functions, honoured = self._functions, self._honoured
        plain, sized, big = pickling.PLAIN, pickling.SIZED, pickling.BIG_BYTES_FROM
        dumps, pack, write, atomic = pickle.dumps, HEADER.pack, self._write, ATOMIC_BODY
        marshalled, unmarshalled, marshal_format, short = marshal.dumps, marshal.loads, pickling.MARSHAL, pickling.SHORT
        kinds, asking, last_call_kind = frames.KIND, frames.ACCEPT | frames.SYNACK, frames.STARMAP
        plain_call, pickled_from, protocol = frames.CALL, pickling.PICKLED, pickling.PROTOCOL
        payload: Any = None
        value: Any = None
        for kind, tag, number, body in stream:
            if (kind & kinds) > last_call_kind:
                if kind == frames.RESUME:
                    honoured = number
                elif kind == frames.RETIRE:
                    return tag
                else:
                    self._control(kind, tag, body)
                continue
            started = cells[STARTED] = clock()
            cells[ITEM] = 0
            cells[CURRENT] = number
            recalled = cells[RECALLED]
            if recalled > honoured and number >= recalled:
                if cells[SKIPPED_FROM] < recalled:
                    cells[SKIPPED_FROM] = number
                    self._write(frames.about(frames.SKIPPED, number))
                continue
            if kind & asking:
                if kind & frames.SYNACK and not kind & LARGE:
                    body = bytes(body)  # waiting for the verdict reads on, over the memory this view is of
                if not self._accept(kind, number, started, stream):
                    if self._retire is not None:
                        return self._retire
                    continue
                kind &= ~(frames.ACCEPT | frames.SYNACK)
            value = reply = None
            try:
                soft.running = number
                if cells[SOFT_NUMBER] == number:
                    soft.came_early()
                if kind == plain_call and tag in functions:  # the hot path comes first
                    payload = loads(body) if body[0] == pickled_from else unmarshalled(body)  # pickling.read
                    value = functions[tag](*payload)
                    payload = ()  # a slow `__del__` is part of its own call: of its time, and within its limits
                else:
                    payload = ()
                    value = self._run_rare(kind, tag, body)
                soft.running = 0
            except BaseException as exc:
                soft.running = 0
                if self.termination.requested:
                    raise
                if self._forked:
                    end_child(exc)
                exc.with_traceback(_from_the_task_on(exc.__traceback__))  # a class may refuse a plain assignment
                reply = self._encoded(exc, unread=payload is None)
            if self._forked:
                end_child()
            run_us = (clock() - started) // 1000
            if run_us > _MAX_TAG:
                run_us = _MAX_TAG
            if reply is None and (type(value) in plain or (type(value) in sized and len(value) < big)):
                # what cannot refer to anything needs no care in pickling
                is_short = type(value) in plain or len(value) <= short
                pickled = marshalled(value, marshal_format) if is_short else dumps(value, protocol)
                if len(pickled) <= atomic:
                    write(pack(frames.RESULT, run_us, number, len(pickled)) + pickled)
                else:
                    self._send(frames.RESULT, run_us, number, [pickled], len(pickled))
                pickled = b""
            else:
                what, parts, size = self._packed(value, reply)
                value = reply = None  # as above; what its buffers are of stays for a while
                self._send(what, run_us, number, parts, size)
                parts = None
            # waiting for the next frame must not pin this call's arguments and result
            value = reply = body = payload = None
            if self._may_leave and (status := self._leaves(number)) is not None:
                return status
        return EX_OK  # end of stream: the parent is gone

    def _leaves(self, number: int) -> int | None:
        """Whether call `number` was the last: the status to leave with. Raises SystemExit if a call has swallowed the one of
        SIGTERM: whoever sent that wants the worker gone, and the next call's error must not be taken for it."""
        if self.termination.requested:
            raise SystemExit(128 + TERM_SIGNAL)
        if self._retire is not None:
            return self._retire
        if self._growth is not None and self._growth() > (self._memory_limit_kb or 0):
            self._write(frames.about(frames.LEAVING, number))
            return EX_RECYCLE
        return None

    def _send(self, kind: int, run_us: int, number: int, parts: Any, size: int) -> None:
        if size > ATOMIC_BODY:
            self._cells[STARTED] = _NOT_YET  # sending is not running time: the parent may be late to take it
        self._far_end.send(kind, run_us, number, parts, size)

    def _packed(self, value: Any, error: bytes | None) -> tuple[int, Any, int]:
        """The frame to send for a value, or for what was raised: its kind, the parts of its body, their size."""
        if error is None:
            try:
                pickled, buffers = pickling.dumps(pickling.lighten(value), self._snapshot)
            except BaseException as exc:
                if self.termination.requested:
                    raise
                error = self._unsendable(exc, value)
            else:
                if buffers is not None:
                    return frames.RESULT | frames.LARGE, *frames.pack_large(pickled, buffers)
                return frames.RESULT, [pickled], len(pickled)
        return frames.ERROR, [error], len(error)

    def _unsendable(self, exc: BaseException, value: Any) -> bytes:
        try:
            shown = errors.safe_repr(value)
        except BaseException:
            if self.termination.requested:
                raise
            shown = f"<{type(value).__name__}>"  # its repr wants to leave: SystemExit, KeyboardInterrupt
        error = MaybeEncodingError(exc, Shown(shown))
        error.__cause__ = exc
        return self._encoded(error)

    def _encoded(self, exc: BaseException, unread: bool = False) -> bytes:
        try:
            return errors.encode(_unread(exc, self._snapshot) if unread else exc, self._snapshot)
        except BaseException:  # as above
            if self.termination.requested:
                raise
            stand_in = TaskError(type(exc).__name__, "(they could not be shown)", "(it could not be shown)\n")
            return errors.encode(stand_in, self._snapshot)

    def _accept(self, kind: int, number: int, started_ns: int, stream: Iterator[Frame]) -> bool:
        """Say that this call was taken; with SYNACK wait for the verdict. Whether to run it."""
        if kind & frames.SYNACK:
            self._cells[STARTED] = _NOT_YET  # the wait is not running time
        self._write(frames.about(frames.ACCEPTED, number, started_ns))
        if not kind & frames.SYNACK:
            return True
        for answer, tag, of, body in stream:
            if answer == frames.VERDICT and of == number:
                if tag:
                    self._cells[STARTED] = time.monotonic_ns()
                    return True
                self._write(frames.about(frames.DROPPED, number))
                return False
            if answer == frames.RETIRE:
                # it is written right behind the last call of a quota, before the verdict: dropped, the worker would
                # wait for ever, and the pool's end for it
                self._retire, self._may_leave = tag, True
            else:
                self._control(answer, tag, body)
        raise SystemExit(EX_OK)

    def _control(self, kind: int, tag: int, body: Any) -> None:
        if kind == frames.FUNCTION:
            # loaded at first use, inside the call: what its import raises is that call's error
            self._unloaded[tag] = bytes(body)
        elif kind == frames.FORGET:
            self._functions.pop(tag, None)
            self._unloaded.pop(tag, None)

    def _run_rare(self, kind: int, tag: int, body: Any) -> Any:
        """A call that is a chunk of a map, names its function for the first time, carries it, or has large buffers."""
        try:
            if tag and tag not in self._functions:
                self._functions[tag] = pickling.loads(self._unloaded[tag])
                del self._unloaded[tag]
            payload = pickling.loads(*frames.unpack_large(body)) if kind & frames.LARGE else pickling.read(body)
        except Exception as exc:
            raise _unread(exc, self._snapshot)  # noqa: B904 - it sets its cause itself, or is the very error
        timed = kind & frames.TIMED
        kind &= frames.KIND
        if kind == frames.CALL:
            return self._functions[tag](*payload)
        if kind == frames.KWCALL:
            func, args, kwds = (self._functions[tag], *payload) if tag else payload
            return func(*args, **kwds)
        func, items = (self._functions[tag], payload) if tag else payload
        return self._map(func, items, kind == frames.STARMAP, timed != 0)

    def _map(self, func: Callable[..., Any], items: Any, starred: bool, timed: bool) -> list[Any]:
        """The values of a chunk. The scoreboard always names the item that runs, and where limits ask for it, since when."""
        cells, at, clock = self._cells, ITEM, time.monotonic_ns
        if not timed:
            # the loop's own target is the cell: an item costs a third of what it does below, and a chunk may have 100,000
            if starred:
                return [func(*item) for cells[at], item in enumerate(items)]
            return [func(item) for cells[at], item in enumerate(items)]
        results: list[Any] = []
        append = results.append
        for index, item in enumerate(items):
            cells[STARTED] = clock()
            cells[at] = index
            append(func(*item) if starred else func(item))
        return results


def end_child(exc: BaseException | None = None) -> NoReturn:
    """Leave a child that a task has forked and that comes back from it, as `multiprocessing` ends one of its own."""
    code: Any = EX_OK
    if isinstance(exc, SystemExit):
        code = exc.code if exc.code is not None else EX_OK
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = EX_FAILURE
    elif exc is not None:
        sys.excepthook(type(exc), exc, _from_the_task_on(exc.__traceback__))
        code = EX_FAILURE
    util._flush_std_streams()  # type: ignore[attr-defined]  # not published
    os._exit(code & 0xFF)


def _from_the_task_on(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without this module's frames, which are no part of the user's story."""
    while traceback is not None and traceback.tb_frame.f_globals is globals():
        traceback = traceback.tb_next
    return traceback


def _unread(exc: BaseException, snapshot: pickling.MainSnapshot) -> BaseException:
    """What a call failed with before it began: a limit that struck is what it is, any other error is the payload's."""
    if not isinstance(exc, Exception) or isinstance(exc, SoftTimeLimitExceeded):
        return exc
    error = PayloadError(f"the call could not be rebuilt in the worker: {errors.safe_repr(exc)}")
    error.__cause__ = exc
    exc.with_traceback(_from_the_task_on(exc.__traceback__))
    error._sent_cause = errors.encode(exc, snapshot)  # by itself, so that a cause that does not pickle is not the error's end
    return error
