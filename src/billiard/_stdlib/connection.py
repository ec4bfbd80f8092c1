"""``multiprocessing``'s connections, with billiard's non-blocking half.

May import: the standard library.  A connection here speaks the same bytes as there; it only adds the raw, unframed,
partial write that an event loop needs.
"""

import os
import socket
from multiprocessing import connection as mp_connection
from multiprocessing import reduction

from .._typing import Any

__all__ = ["Client", "Connection", "Listener", "Pipe"]


class Connection(mp_connection.Connection):
    """One end of a pipe or socket, carrying pickled objects."""

    def send_offset(self, buf: Any, offset: int) -> int:
        """Write the bytes of ``buf`` from ``offset`` on, as many as fit, and say how many that were.

        No header is added. :exc:`BlockingIOError` when none fit and the connection is non-blocking.
        """
        return os.write(self.fileno(), memoryview(buf)[offset:])

    def setblocking(self, blocking: bool) -> None:
        """Choose whether reading and writing wait."""
        os.set_blocking(self.fileno(), bool(blocking))


def adopt(conn: Any) -> Any:
    """The same end of the same pipe, as a :class:`Connection` of ours; the one given lets go of it."""
    if type(conn) is not mp_connection.Connection:
        return conn
    ours = Connection(conn.fileno(), conn.readable, conn.writable)
    conn._handle = None  # type: ignore[attr-defined]  # exists, but is not published
    return ours


def rebuild_connection(df: Any, readable: bool, writable: bool) -> Connection:
    """Used by pickle."""
    return Connection(df.detach(), readable, writable)


def reduce_connection(conn: Any) -> Any:
    """Used by pickle. A spawned child gets the descriptor under the same number."""
    return rebuild_connection, (reduction.DupFd(conn.fileno()), conn.readable, conn.writable)


reduction.register(Connection, reduce_connection)


def Pipe(duplex: bool = True, rnonblock: bool = False, wnonblock: bool = False) -> tuple[Connection, Connection]:  # noqa: N802 - the published name
    """Two connections joined by a pipe: the first reads, the second writes, or both do both when ``duplex``.

    ``rnonblock`` makes the first non-blocking, ``wnonblock`` the second.
    """
    if duplex:
        one, other = socket.socketpair()
        for sock in (one, other):  # socket.setdefaulttimeout() would make them non-blocking behind our back
            sock.setblocking(True)
        reader, writer = Connection(one.detach()), Connection(other.detach())
    else:
        read_fd, write_fd = os.pipe()
        reader, writer = Connection(read_fd, writable=False), Connection(write_fd, readable=False)
    if rnonblock:
        reader.setblocking(False)
    if wnonblock:
        writer.setblocking(False)
    return reader, writer


class Listener(mp_connection.Listener):
    """A bound socket that accepts connections."""

    def accept(self) -> Any:
        """Wait for a connection (after the mutual proof of the ``authkey``, if there is one)."""
        return adopt(super().accept())


def Client(address: Any, family: str | None = None, authkey: bytes | None = None) -> Any:  # noqa: N802 - the published name
    """Connect to a :class:`Listener`."""
    return adopt(mp_connection.Client(address, family, authkey))
