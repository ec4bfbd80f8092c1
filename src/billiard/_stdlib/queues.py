"""``multiprocessing``'s queues; the simple ones can also take and give their payload as bytes.

May import: the standard library and this layer.
"""

from multiprocessing import queues as mp_queues
from multiprocessing.context import assert_spawning
from multiprocessing.reduction import ForkingPickler

from .._typing import Any
from .connection import Connection, Pipe

__all__ = ["JoinableQueue", "Queue", "SimpleQueue", "_SimpleQueue"]


class Queue(mp_queues.Queue):  # type: ignore[type-arg]  # generic to type checkers only
    """A queue for many writers and readers, fed by a thread."""

    _closed: bool

    def join_thread(self) -> None:
        """Wait until the feeder thread has sent everything. The queue must be closed."""
        if not self._closed:
            # The standard library asserts this, and under -O waits for ever instead.
            raise ValueError(f"Queue {self!r} not closed")
        super().join_thread()


class JoinableQueue(Queue, mp_queues.JoinableQueue):  # type: ignore[type-arg]  # generic to type checkers only
    """A queue that can wait until all its items are dealt with."""


class _SimpleQueue:
    """One pipe and no locks: for one reader and one writer, such as an event loop and its worker.

    Compared by identity (queues are dictionary keys there), and pickled only while a child is being spawned.
    """

    _rlock: Any = None
    _wlock: Any = None

    def __init__(self, rnonblock: bool = False, wnonblock: bool = False, ctx: Any = None) -> None:
        self._reader: Any
        self._writer: Any
        self._reader, self._writer = Pipe(duplex=False, rnonblock=rnonblock, wnonblock=wnonblock)
        self._poll = self._reader.poll

    def __repr__(self) -> str:
        state = "closed" if self._reader is None else f"{self._reader!r} from {self._writer!r}"
        return f"<{type(self).__name__}: {state}>"

    def __getstate__(self) -> tuple[Connection, Connection]:
        assert_spawning(self)
        return self._reader, self._writer

    def __setstate__(self, state: tuple[Connection, Connection]) -> None:
        self._reader, self._writer = state
        self._poll = self._reader.poll

    def empty(self) -> bool:
        """Whether there is nothing to read now."""
        return not self._poll()

    def get_payload(self) -> bytes:
        """The next message, still pickled."""
        payload: bytes = self._reader.recv_bytes()
        return payload

    def send_payload(self, value: Any) -> None:
        """Send one message, already pickled."""
        self._writer.send_bytes(value)

    def get(self) -> Any:
        """The next object. It is unpickled after the message has been read whole."""
        return ForkingPickler.loads(self.get_payload())

    def put(self, obj: Any) -> None:
        """Send one object. It is pickled before anything is written."""
        self.send_payload(ForkingPickler.dumps(obj))

    def close(self) -> None:
        """Close both ends. Harmless the second time."""
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        try:
            if reader is not None:
                reader.close()
        finally:
            if writer is not None:
                writer.close()


class SimpleQueue(mp_queues.SimpleQueue):  # type: ignore[type-arg]  # generic to type checkers only
    """One pipe and two locks: for any number of readers and writers."""

    _reader: Any
    _writer: Any
    _rlock: Any
    _wlock: Any

    def __init__(self, *, ctx: Any) -> None:
        self._reader, self._writer = Pipe(duplex=False)
        self._rlock = ctx.Lock()
        self._wlock = ctx.Lock()
        self._poll = self._reader.poll

    def get_payload(self) -> bytes:
        """The next message, still pickled."""
        with self._rlock:
            payload: bytes = self._reader.recv_bytes()
        return payload

    def send_payload(self, value: Any) -> None:
        """Send one message, already pickled."""
        with self._wlock:
            self._writer.send_bytes(value)
