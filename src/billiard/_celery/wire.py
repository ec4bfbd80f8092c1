"""What crosses a legacy worker's pipes.

May: name messages, pickle results, salvage a message's head. May not: read or write a pipe, but for `OffsetSender`.

    parent -> worker  (TASK, (job, i, func, args, kwargs)), or None: stop          with synack: (ACK | NACK, (0,))
    worker -> parent  (ACK, (job, i, accepted_at, pid, synqW_fd)), (READY, (job, i, (ok, value), inqW_fd)),
                      (DEATH, (pid, status)), and whatever a subclass adds

The parent's event loop unpickles messages in Celery's code, where an exception ends the whole worker. So a result that
could fail there travels *sealed*: as bytes that rebuild to the value, or to an `Unreadable` that fails its own job.
"""

from __future__ import annotations

import errno
import os
import pickle
from multiprocessing.reduction import ForkingPickler

from .._typing import Any
from .._wire.frames import ACK as ACK
from .._wire.frames import NACK as NACK
from .._wire.unsendable import MaybeEncodingError as MaybeEncodingError
from ..einfo import ExceptionInfo

# with ACK (0) and NACK (3) the numbers that billiard 4 has published
READY = 1
TASK = 2
DEATH = 4

#: The frames' length is a signed 32-bit number on both sides.
MAX_MESSAGE_BYTES = 0x7FFFFFFF

#: Beyond this, plain values are sealed too, which checks their size.
_SMALL_BYTES = 1 << 24

_NUMBERS = frozenset({type(None), bool, int, float})


def failure(exc: BaseException) -> ExceptionInfo:
    """`exc` as workers report errors. It is raised and caught here, since an ExceptionInfo needs a traceback."""
    try:
        raise exc
    except BaseException:
        return ExceptionInfo()


class Sealed:
    """The outcome ``(ok, value)`` of a job, pickled. It unpickles to that tuple, or to an `Unreadable`."""

    __slots__ = ("payload",)

    def __init__(self, outcome: tuple[bool, Any]) -> None:
        self.payload = bytes(ForkingPickler.dumps(outcome))
        if len(self.payload) > MAX_MESSAGE_BYTES - 4096:
            raise OverflowError(f"a result of {len(self.payload)} bytes does not fit into one message")

    def __reduce__(self) -> Any:
        return unseal, (self.payload,)


class Unreadable:
    """A result that could not be rebuilt in the parent, and why."""

    __slots__ = ("exc",)

    def __init__(self, exc: BaseException) -> None:
        self.exc = exc

    def outcome(self) -> tuple[bool, ExceptionInfo]:
        """The failure that stands for it."""
        return False, failure(MaybeEncodingError(self.exc, "a result that cannot be rebuilt"))


def unseal(payload: bytes) -> Any:
    """Rebuild an outcome; whatever the user's ``__setstate__`` raises stays inside the job's own result."""
    try:
        return pickle.loads(payload)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        return Unreadable(exc)


def is_plain(value: Any) -> bool:
    """True for values that cannot fail to pickle or to be rebuilt, as nearly all of Celery's results are."""
    return _is_atom(value) or (type(value) is tuple and len(value) < 100 and all(map(_is_atom, value)))


def _is_atom(value: Any) -> bool:
    kind = type(value)
    return kind in _NUMBERS or ((kind is str or kind is bytes) and len(value) < _SMALL_BYTES)


def salvage_head(payload: bytes) -> tuple[int, int | None] | None:
    """The job and index of a task message whose body does not unpickle, or None.

    The head comes first in the pickle stream: the number TASK, the job's number, then the index or None.
    """
    import pickletools  # only ever needed here, and large

    head: list[int | None] = []
    try:
        for opcode, argument, _position in pickletools.genops(payload):
            if opcode.name == "NONE":
                head.append(None)
            elif opcode.name in ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"):
                head.append(argument)
            if len(head) == 3:
                break
    except ValueError:
        return None
    if len(head) != 3 or head[0] != TASK or head[1] is None:
        return None
    return head[1], head[2]


class OffsetSender:
    """Callable ``(buf, offset) -> n``: write what fits of ``buf[offset:]`` to a connection's fd, without a header.

    AsynPool writes a message in two goes, first its length. Those four bytes alone would wake the worker, who could only
    go back to sleep; so they are taken, and written together with what follows.

    A closed connection raises EBADF, the only error that AsynPool's writers forgive; ``Connection.fileno`` would raise
    an OSError without a number and stop Celery's event loop.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._length = b""  # taken, not written
        #: Whether a part of a message has been written, and not all of it.
        self.unfinished = False

    def __call__(self, buf: Any, offset: int) -> int:
        if self.connection.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if offset == 0 and _is_length(buf) and len(self._length) in (0, 4):
            # In place of one whose message was given up before a byte of it was written.
            self._length = bytes(buf)
            return 4
        data = memoryview(buf)[offset:]
        fd = self.connection.fileno()
        if not self._length:
            written = os.write(fd, data)
            self.unfinished = written < len(data)
            return written
        written = os.writev(fd, (self._length, data))
        self.unfinished = written < len(self._length) + len(data)
        self._length, unwritten = self._length[written:], len(self._length) - written
        if unwritten > 0:  # the pipe was all but full
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return -unwritten


def _is_length(buf: Any) -> bool:
    """True for the four bytes that AsynPool sends ahead, and false for the last four of something longer."""
    whole = buf.obj if type(buf) is memoryview else None
    return type(whole) is bytes and len(whole) == 4 == len(buf)
