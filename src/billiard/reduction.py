"""Public module: pickling of what only relatives can share, such as connections and sockets."""

from io import BytesIO
from multiprocessing import reduction as mp_reduction
from multiprocessing.reduction import (
    HAVE_SEND_HANDLE,
    DupFd,
    dump,
    recv_handle,
    recvfds,
    register,
    send_handle,
    sendfds,
)

from ._stdlib.mirror import mirror
from ._typing import Any

__all__ = [
    "HAVE_SEND_HANDLE",
    "DupFd",
    "ForkingPickler",
    "dump",
    "recv_handle",
    "recvfds",
    "register",
    "send_handle",
    "sendfds",
]

__getattr__, __dir__ = mirror("reduction")


class ForkingPickler(mp_reduction.ForkingPickler):
    """``multiprocessing``'s pickler: what is registered with one is known to both."""

    @classmethod
    def loadbuf(cls, buf: BytesIO, protocol: int | None = None) -> Any:
        """Unpickle from a file-like buffer."""
        return cls.loads(buf.getbuffer())
