"""Public module: connections between processes."""

import socket
import sys
from multiprocessing.connection import wait

from ._stdlib.connection import Client, Connection, Listener, Pipe, rebuild_connection, reduce_connection
from ._stdlib.mirror import mirror
from .compat import send_offset, setblocking

__all__ = [
    "Client",
    "Connection",
    "Listener",
    "Pipe",
    "rebuild_connection",
    "reduce_connection",
    "send_offset",
    "setblocking",
    "wait",
]

__getattr__, __dir__ = mirror("connection")

is_pypy = sys.implementation.name == "pypy"


def detach(sock: socket.socket) -> int:
    """The socket's descriptor, which the caller now owns."""
    return sock.detach()


class _SocketContainer:
    """Keeps a socket open where nothing but its descriptor is in use."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
