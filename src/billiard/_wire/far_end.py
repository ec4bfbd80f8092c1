"""The worker's end of a channel: a stream socket for calls, a pipe for all that the worker says.

A socket makes a packet of each message, and a tiny result spent most of its time on that; a pipe takes it for a third. But a
pipe moves a large body page by page, at a fifth of a socket's speed. So every frame goes through the pipe, in order, and
only the body of a large one through the socket: its header carries BY_SOCKET, and the parent reads that body before it goes on.
The header comes there once more, so that bytes which some task wrote into either are found out.
"""

from __future__ import annotations

import functools
import os
import select
import socket
from collections.abc import Sequence

from .._typing import Final
from . import malloc
from .descriptors import MAX_PARTS, Holder, close_all
from .frames import BY_SOCKET, HEADER, HEADER_SIZE, IN_PIPE, LARGE, Buffer

#: A body that the pipe takes together with its header, at once or not at all: `write` is enough for it.
ATOMIC_BODY: Final = select.PIPE_BUF - HEADER_SIZE


class FarEnd(Holder):
    """A blocking socket and a blocking pipe. Takes over the pipe's descriptor, the only entry of `fds`.

    `write` writes the bytes of a whole small frame into the pipe; `send` takes a body of any size.
    """

    def __init__(self, sock: socket.socket, fds: list[int]) -> None:
        sock.settimeout(None)  # whatever `socket.setdefaulttimeout` says: a worker may be idle for long
        self.sock = sock
        self._fds = []
        self._fds.extend(map(fds.pop, (-1,)))  # whose it is must never be in doubt, see billiard._wire.channel
        self.write = functools.partial(os.write, self._fds[0])

    @property
    def fds(self) -> list[int]:
        """The descriptors of socket and pipe, to be handed to another process."""
        return [self.sock.fileno(), *self._fds]

    def send(self, kind: int, tag: int, number: int, parts: Sequence[Buffer], size: int) -> None:
        """Send a frame whose body, of any `size`, consists of `parts`."""
        if size <= IN_PIPE and not kind & LARGE:  # whose body is to be memory of the receiver's own
            rest = b"".join((HEADER.pack(kind, tag, number, size), *parts))
            while rest:
                rest = rest[self.write(rest) :]
            return
        malloc.keep_room_for(size)
        header = HEADER.pack(kind | BY_SOCKET, tag, number, size)
        self.write(header)
        left = [memoryview(part) for part in (header, *parts)]
        while left:
            sent = self.sock.sendmsg(left[:MAX_PARTS])
            while left and sent >= left[0].nbytes:
                sent -= left[0].nbytes
                del left[0]
            if sent:
                left[0] = left[0][sent:]

    def close(self) -> None:
        self.sock.close()
        close_all(self._fds)
