"""The parent's end of a channel to one worker: a non-blocking stream socket for calls, a pipe for what comes back.

Frames come through the pipe, in order; the body of a large one comes by the socket (see billiard._wire.far_end).

What makes it peculiar: an exception may strike the parent between any two bytecodes (Ctrl-C, a
SIGALRM handler, the soft limit of an outer worker), and the stream must survive that. Three rules:

1. *A count of bytes moved is never held in a local variable.* ``n = recv(...)`` loses n, and with it the
   stream, when a handler raises between the system call and the store. ``tally.extend(map(recv, (view,)))``
   calls and stores inside one C call, where no handler runs.
2. *A change of more than one attribute is one statement* of plain stores: no call, no jump, so no handler
   runs inside it.
3. *Reading is repeatable.* `receive` returns the same frames again until `consume` says they were applied;
   whoever applies them is idempotent by call number.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import mmap
import os
import socket
from collections.abc import Collection

from .._typing import Final, NamedTuple
from . import gil_held, malloc
from .descriptors import MAX_PARTS, NO_SIGNAL, Holder, close_all
from .far_end import FarEnd
from .frames import (
    ABOUT_SIZE,
    BY_SOCKET,
    ERROR,
    FAILED,
    HEADER,
    HEADER_SIZE,
    IN_PIPE,
    KIND,
    LARGE,
    LAST_KIND,
    RESULT,
    Buffer,
    FrameError,
)

_BUFFER_SIZE: Final = 1 << 17  # of which only the pages that are used cost memory
_TRUSTED_SIZE: Final = 1 << 24  # never commit more than max(this, 2 x what has arrived) on a header's word
_RESULTS: Final = frozenset((RESULT, ERROR))
_RESULTS_BY_SOCKET: Final = frozenset((RESULT | BY_SOCKET, ERROR | BY_SOCKET, RESULT | LARGE | BY_SOCKET))
_NONE_GIVEN: Final = 1  # `given` of one that was given no call: they are counted from 1
_JOIN_UP_TO: Final = 1 << 17  # bytes, which are copied into one buffer
_SMALL_PART: Final = 1 << 12  # cheaper to copy than to list
_SOCKET_BUFFER: Final = 1 << 22  # asked for; the kernel grants at most net.core.wmem_max
_LOOKS: Final = 16  # for a body whose header is there: its sender is at it, and polling costs more than a few looks
_PIPE_BUFFER: Final = 1 << 17  # the tiny results of the largest window
_NO_MEMORY: Final = frozenset((errno.ENOBUFS, errno.ENOMEM))
_F_SETPIPE_SZ: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_HELD_UP_TO: Final = 1 << 16  # bytes whose copying takes no longer than a change of threads
_NOW: Final = socket.MSG_DONTWAIT | NO_SIGNAL
_done = (-1).__lt__  # a filter in C for what `gil_held` return, so that rule 1 is kept

_unpack = HEADER.unpack_from
_NOTHING: Final[list[Frame]] = []


class Frame(NamedTuple):
    """One received frame. `body` is bytes, or a memoryview of memory that is the receiver's own: always when `kind` carries
    LARGE, and of a RESULT that came beside the pipe."""

    kind: int
    tag: int
    number: int
    body: bytes | memoryview


def open_channel(gil_waiters: Collection[object] = ()) -> tuple[Channel, FarEnd]:
    """Make a channel: the parent's end (which never blocks) and the worker's. Raises OSError (EMFILE, ENFILE, ENOMEM).

    `gil_waiters`: whoever else wants the GIL. While there are any, transfers of up to 64 KB keep it (see `gil_held`).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    fds: list[int] = []
    try:
        for end in (ours, theirs):
            # a large body needs many wake-ups to pass a small buffer
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        ours.setblocking(False)
        fds.extend(itertools.chain.from_iterable(itertools.starmap(os.pipe, [()])))
        os.set_blocking(fds[0], False)
        try:
            # with the usual buffer a worker would block after 2,000 tiny results, when the parent computes for a while
            fcntl.fcntl(fds[1], _F_SETPIPE_SZ, _PIPE_BUFFER)
        except OSError:
            pass  # this user has too many large ones, or the kernel knows no such thing
        far_end = FarEnd(theirs, fds)
        return Channel(ours, fds, gil_waiters), far_end
    except BaseException:
        close_all(fds)
        ours.close()
        theirs.close()
        raise


class Outgoing:
    """Bytes on their way: the parts, their total size, and how much of them was sent."""

    __slots__ = ("parts", "sent", "size")

    def __init__(self, parts: list[Buffer], size: int) -> None:
        self.parts = parts
        self.size = size
        self.sent: list[int] = []

    def rest(self, sent: int) -> list[memoryview]:
        """What is still to be sent, at most MAX_PARTS of it."""
        rest: list[memoryview] = []
        for part in self.parts:
            size = len(part)
            if sent >= size:
                sent -= size
                continue
            rest.append(memoryview(part)[sent:] if sent else memoryview(part))
            sent = 0
            if len(rest) == MAX_PARTS:
                break
        return rest


class _Assembly:
    """One frame whose body comes by the socket, growing as its bytes arrive: first its header, which is known."""

    __slots__ = ("got", "header", "memory", "size")

    def __init__(self, size: int, header: bytes) -> None:
        self.size = size
        self.header = header
        self.memory = bytearray(min(size, _TRUSTED_SIZE))
        self.got = [0]

    def room(self, got: int) -> memoryview:
        """The memory after the first `got` bytes, grown when it is full."""
        if got == len(self.memory):
            self.memory += bytes(min(self.size, 2 * got) - got)
        return memoryview(self.memory)[got:]


def _joined(parts: list[Buffer]) -> list[Buffer]:
    """The same bytes in fewer parts: small ones in a row become one, large ones stay as they are."""
    joined: list[Buffer] = []
    for small, run in itertools.groupby(parts, lambda part: len(part) <= _SMALL_PART):
        if small:
            joined.append(b"".join(run))
        else:
            joined += run
    return joined


def _too_large(size: int) -> FrameError:
    """Instead of MemoryError: raised on and on, that would end every turn, and be every caller's error."""
    return FrameError(f"there is no memory for a result of {size} bytes")


def _total(tally: list[int]) -> int:
    if len(tally) > 1:
        tally[:] = (sum(tally),)
    return tally[0] if tally else 0


class Channel(Holder):
    """One end, the parent's. `closed_by_peer` is final."""

    def __init__(self, sock: socket.socket, fds: list[int], gil_waiters: Collection[object] = ()) -> None:
        """Takes the pipe's descriptor, the only entry of `fds`, over. Raises OSError when memory runs out."""
        self._fds = []
        self.sock = sock
        self.sock_fd = sock.fileno()
        self._sock_fds = [self.sock_fd]  # until it is closed: the number may be somebody else's then
        self.fd = fds[-1]  # of the pipe: where frames come from
        self.closed_by_peer = False
        self.empty = False  # the last receive found nothing more to read
        self.given = _NONE_GIVEN  # the first call number that was not given to the worker: of no such call there is a result
        self.more = False  # what was read already has frames that `receive` has not returned, and no event will tell
        self._send = sock.send
        self._gil_waiters = gil_waiters
        self._memory = mmap.mmap(-1, _BUFFER_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._memory)
        self._address = gil_held.address_of(self._memory)
        # offsets count from the start of the pipe's stream: _base is where the buffer begins
        self._base = 0
        self._used = 0
        self._got = [0]
        self._ended = False
        self._assembly: _Assembly | None = None
        self.outgoing: Outgoing | None = None
        self._fds.extend(map(fds.pop, (-1,)))

    # -- receiving

    def receive(self) -> tuple[list[Frame], int]:
        """Read once and return the complete frames not yet consumed, with the mark to `consume` them by.

        Raises FrameError when a header makes no sense; BlockingIOError never (nothing there: no frames).
        """
        if self._assembly is not None:
            return self._receive_large(self._assembly)
        self.more = False
        tally = self._got
        got = tally[0] if len(tally) == 1 else _total(tally)
        if got == self._used:
            self._base = got
        start = got - self._base
        if start == _BUFFER_SIZE and 2 * (got - self._used) <= _BUFFER_SIZE:
            # the buffer ends in the middle of a frame: to the front with it, and only then is it there
            rest, at = got - self._used, self._used - self._base
            self._memory[:rest] = self._memory[at : at + rest]
            self._base = self._used
            start = rest
        self.empty = False
        if start < _BUFFER_SIZE:
            try:
                if self._gil_waiters:
                    room = min(_BUFFER_SIZE - start, _HELD_UP_TO)
                    tally.extend(filter(_done, map(gil_held.read, self._fds, (self._address + start,), (room,))))
                if len(tally) == 1:
                    tally.extend(map(os.readv, self._fds, ((self._view[start:] if start else self._view,),)))
            except BlockingIOError:
                self.empty = True
                if self._used == got:
                    return _NOTHING, got
            except OSError:
                self._ended = True
            else:
                if not tally[-1]:
                    self._ended = True
                got = _total(tally)
        frames, mark = self._parse(got)
        if self._ended and not self.more and self._assembly is None:
            self.closed_by_peer = True
        return frames, mark

    def _parse(self, got: int) -> tuple[list[Frame], int]:
        base = self._base
        data = self._view[self._used - base : got - base].tobytes()
        at, end = 0, len(data)
        frames: list[Frame] = []
        append = frames.append
        while end - at >= HEADER_SIZE:
            kind, tag, number, size = _unpack(data, at)
            stop = at + HEADER_SIZE + size
            if kind > KIND or stop > end:
                # what is to come is waited for only if it can come: noise would never be found out
                possible = self._is_header(kind, tag, number, size)
                if frames and (kind > KIND or not possible):
                    self.more = True  # first these
                elif not possible:
                    raise FrameError(f"no frame of kind {kind:#x} has tag {tag}, number {number} and {size} bytes")
                elif kind > KIND:
                    return self._begin_by_socket(size, data[:HEADER_SIZE])
                break
            # a plain tuple: whoever reads the stream unpacks it at once, and building a Frame costs 200 ns more
            append((kind, tag, number, data[at + HEADER_SIZE : stop]))  # type: ignore[arg-type]  # see above
            at = stop
        return frames, self._used + at

    def _is_header(self, kind: int, tag: int, number: int, size: int) -> bool:
        """Whether a worker writes such a header before a body that does not come with it at once."""
        if kind in _RESULTS or kind in _RESULTS_BY_SOCKET:
            expected = 0 < number < self.given
        elif kind in (FAILED, FAILED | BY_SOCKET):
            expected = tag == number == 0 and self.given == _NONE_GIVEN
        else:
            return 0 < kind <= LAST_KIND and tag == number == 0 and size <= ABOUT_SIZE
        return expected and (size <= IN_PIPE or kind > KIND)

    def _begin_by_socket(self, size: int, head: bytes) -> tuple[list[Frame], int]:
        try:
            assembly = _Assembly(HEADER_SIZE + size, head)
        except MemoryError:
            raise _too_large(size) from None
        self._assembly, self._used = assembly, self._used + HEADER_SIZE
        return self._receive_large(assembly)

    def _receive_large(self, assembly: _Assembly) -> tuple[list[Frame], int]:
        try:
            return self._receive_by_socket(assembly)
        except MemoryError:
            raise _too_large(assembly.size) from None

    def _receive_by_socket(self, assembly: _Assembly) -> tuple[list[Frame], int]:
        got = _total(assembly.got)
        self.empty = False
        looks = _LOOKS
        while got < assembly.size:
            try:
                assembly.got.extend(map(self.sock.recv_into, (assembly.room(got),)))
            except BlockingIOError:
                looks -= 1
                if looks:
                    continue
                self.empty = True
                return _NOTHING, self._used
            except OSError:
                self.closed_by_peer = True
                return _NOTHING, self._used
            if assembly.got[-1] == 0:
                self.closed_by_peer = True
                return _NOTHING, self._used
            got = _total(assembly.got)
            if got >= HEADER_SIZE and not assembly.memory.startswith(assembly.header):
                raise FrameError("what comes beside the pipe is not what was said in it")
        malloc.keep_room_for(assembly.size)
        self.more = _total(self._got) > self._used
        kind, tag, number, _ = _unpack(assembly.memory)
        kind &= ~BY_SOCKET
        body = memoryview(assembly.memory)[HEADER_SIZE:]
        return [Frame(kind, tag, number, body if kind & LARGE or kind == RESULT else body.tobytes())], -1

    @property
    def awaits_body(self) -> bool:
        """Whether the next news come by the socket."""
        return self._assembly is not None

    def consume(self, mark: int) -> None:
        """Say that all frames up to `mark` were applied."""
        if mark < 0:
            self._assembly = None
        else:
            self._used = mark

    # -- sending

    @property
    def busy(self) -> bool:
        """Whether bytes wait for the socket to take them; nothing may be put into `outgoing` then."""
        return self.outgoing is not None

    @staticmethod
    def prepare(parts: list[Buffer]) -> Outgoing:
        """Make parts ready to be sent: assign the result to `outgoing`, together with whatever must not be torn from it,
        and `flush`. The parts must not change until they are sent."""
        size = sum(map(len, parts))
        if size <= _JOIN_UP_TO:
            parts = [b"".join(parts)]  # one buffer is cheaper for the kernel than many, and for `rest`, which walks over them
        else:
            malloc.keep_room_for(size)
            parts = _joined(parts)
        return Outgoing(parts, size)

    def flush(self) -> None:
        """Write what the socket takes now."""
        out = self.outgoing
        while out is not None:
            sent = _total(out.sent) if out.sent else 0
            if sent >= out.size:
                self.outgoing = None
                return
            try:
                if len(out.parts) > 1:
                    out.sent.extend(map(self.sock.sendmsg, (out.rest(sent),), ((),), (_NOW,)))
                    continue
                part = out.parts[0]
                if self._gil_waiters and not sent and out.size <= _HELD_UP_TO:
                    out.sent.extend(filter(_done, map(gil_held.send, self._sock_fds, (part,), (out.size,), (_NOW,))))
                    if out.sent:
                        continue
                out.sent.extend(map(self._send, (memoryview(part)[sent:] if sent else part,), (_NOW,)))
            except BlockingIOError:
                return
            except OSError as exc:
                # The far end is gone; its process will tell when and how. Where the kernel has just no memory, that one would
                # wait for ever for what was dropped.
                if exc.errno not in _NO_MEMORY:
                    self.outgoing = None
                return

    def own(self) -> None:
        """Copy what is not sent yet, so that the caller may change its buffers again."""
        out = self.outgoing
        if out is not None and len(out.parts) > 1:
            out.parts = [part if isinstance(part, bytes) else bytes(part) for part in out.parts]

    def close(self) -> None:
        self._sock_fds.clear()
        self.sock.close()
        close_all(self._fds)
