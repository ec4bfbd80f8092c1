"""The frames of a worker's socket, one after the other: spin for a moment, then sleep, until the next is there.

May not: know what a frame means, or hold on to one that its receiver is through with.
"""

from __future__ import annotations

import mmap
import socket
import time
from collections.abc import Callable, Iterator

from .._typing import Any
from .._wire import malloc
from .._wire.exit_status import EX_OK
from .._wire.frames import HEADER, HEADER_SIZE, LARGE
from .._wire.spin import SpinWait

_BUFFER_SIZE = 1 << 17

Frame = tuple[int, int, int, Any]  # kind, tag, number, body


def receive(sock: socket.socket) -> Iterator[Frame]:
    """The frames of a blocking stream. A body without LARGE may be a view that is valid until the next frame is taken."""
    memory = mmap.mmap(-1, _BUFFER_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # costs only the pages that are used
    view = memoryview(memory)
    unpack, recv_into, spin = HEADER.unpack_from, sock.recv_into, SpinWait()
    at = end = 0
    while True:
        if end - at >= HEADER_SIZE:
            kind, tag, number, size = unpack(memory, at)
            stop = at + HEADER_SIZE + size
            if stop <= end:
                body = view[at + HEADER_SIZE : stop]
                if kind & LARGE:
                    # its buffers become the task's arrays without a copy, and a task may keep them for ever
                    body = memoryview(bytearray(body))
                yield kind, tag, number, body
                del body  # this frame must not pin the last large call while it waits
                at = stop
                continue
            if HEADER_SIZE + size > _BUFFER_SIZE:
                body = _receive_large(sock, size, view[at + HEADER_SIZE : end])
                at = end = 0
                yield kind, tag, number, body
                del body  # as above
                continue
        if at == end:
            at = end = 0
        elif at:
            memory[: end - at] = memory[at:end]
            at, end = 0, end - at
        got = _wait_for(recv_into, view[end:] if end else view, spin)
        if not got:
            return
        end += got


def _wait_for(recv_into: Callable[..., int], room: memoryview, spin: SpinWait) -> int:
    """Receive some bytes into `room`, however long it takes."""
    if seconds := spin.seconds():
        until = 0.0
        while True:
            try:
                got = recv_into(room, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                now = time.monotonic()
                if not until:
                    until = now + seconds
                elif now > until:
                    break
            else:
                if until:
                    spin.found()
                return got
        spin.in_vain()
    began = time.monotonic()
    got = recv_into(room)
    spin.slept(time.monotonic() - began)
    return got


def _receive_large(sock: socket.socket, size: int, head: memoryview) -> memoryview:
    memory = bytearray(size)
    got = len(head)
    memory[:got] = head
    view = memoryview(memory)
    while got < size:
        count = sock.recv_into(view[got:])
        if not count:
            raise SystemExit(EX_OK)
        got += count
    malloc.keep_room_for(size)
    return view
