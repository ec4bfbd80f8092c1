"""What a pool waits for: one poll set, which is itself a descriptor that can be polled, and a way to wake whoever polls.

May not: know what a descriptor is for. Whose it is stands in `by_fd`: a worker's channel, or None for the launcher's and
our own.
"""

from __future__ import annotations

import itertools
import os
import select

from .._core.state import Worker
from .._typing import Any, Final
from .._wire import gil_held
from .._wire.descriptors import Holder, close_all

IN: Final = select.POLLIN  # epoll's are the same numbers
OUT: Final = select.POLLOUT
Events = list[tuple[int, int]]
LONGEST_S: Final = 1e6  # what epoll (2 ** 31 ms) and locks can wait for at once; whoever wants more waits again
_EVENTS: Final = 128  # at one look; what is ready beyond them is so at the next


class PollSet:
    """The descriptors of one pool."""

    def __init__(self) -> None:
        self.closed = False
        self.by_fd: dict[int, Worker | None] = {}
        #: callers that wait while another thread drives, each with the lock it sleeps on (see billiard._supervisor.driver).
        #: While there are any, system calls keep the GIL.
        self.waiting_callers: dict[object, Any] = {}
        self._wake_up: _WakeUp | None = _WakeUp()
        self.wake_fd = self._wake_up.read_fd
        try:
            self._poll: Any = select.epoll() if hasattr(select, "epoll") else _PlainPoll(self.wake)
            self._epoll_fds = [self._poll.fileno()] if hasattr(select, "epoll") else []  # until it is closed
            self._seen = bytearray(_EVENTS * gil_held.EPOLL_EVENT.size)
            self._seen_at = gil_held.address_of(self._seen)
            self.watch(self.wake_fd)
        except BaseException:
            self._wake_up.close()  # whoever tries again, since descriptors have run out, must not make it worse
            raise

    def watch(self, fd: int, worker: Worker | None = None, mask: int = IN) -> None:
        """Report `fd` when it is ready for what `mask` says, in place of what was asked for before."""
        self.by_fd[fd] = worker
        try:
            self._poll.register(fd, mask)
        except FileExistsError:  # an interrupted call got that far, or it is to be watched for something else now
            self._poll.modify(fd, mask)

    def unwatch(self, fd: int) -> None:
        """Always before the descriptor is closed: a number used again would be answered for by the wrong owner."""
        try:
            self._poll.unregister(fd)
        except (OSError, ValueError):
            pass
        self.by_fd.pop(fd, None)

    def fileno(self) -> int:
        """A descriptor that is readable when something is ready. Raises ValueError when there is none any more, and
        NotImplementedError on a system without epoll."""
        if self.closed:
            raise ValueError("the pool has ended, and has no descriptor any more")
        return int(self._poll.fileno())

    def look(self) -> Events:
        """What is ready now. Raises ValueError when the set is closed."""
        count = -1
        if self.waiting_callers:
            # one call in C, as in billiard._wire.channel: the number may be another set's as soon as this one is closed
            count = next(map(gil_held.epoll_wait, self._epoll_fds, (self._seen_at,), (_EVENTS,), (0,)), -1)
        if count < 0:
            return self.poll(0.0)
        # Another thread may have looked meanwhile, and then some of this is what it saw. That does no harm: what is ready is
        # reported until it was dealt with, and who looks after something that is not finds nothing there.
        size = gil_held.EPOLL_EVENT.size
        return [(fd, mask) for mask, fd in gil_held.EPOLL_EVENT.iter_unpack(memoryview(self._seen)[: count * size])]

    def poll(self, timeout: float) -> Events:
        """What is ready within `timeout` seconds (-1: whenever it is), letting others have the GIL meanwhile. Raises
        ValueError when the set is closed."""
        wake_up = self._wake_up  # stays open until this thread has woken: see `close`
        try:
            events: Events = self._poll.poll(min(timeout, LONGEST_S))
            return events
        finally:
            del wake_up  # or it would stay open for as long as somebody keeps the traceback of an exception

    def wake(self) -> None:
        """Make whoever polls look again."""
        wake_up = self._wake_up
        if wake_up is None:
            return  # closed
        try:
            os.write(wake_up.write_fd, b"\1\0\0\0\0\0\0\0")
        except OSError:
            pass  # full, since a wake-up is pending already

    def woken(self) -> None:
        """`wake_fd` was readable: it is not any more."""
        try:
            os.read(self.wake_fd, 4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Give up every descriptor, and wake whoever polls. Repeatable.

        Who sleeps in `epoll_wait` is not woken by its closing. And a wake-up is news only as long as its descriptor is open:
        closed before the sleeper has come to look, it lets that one sleep on, for ever. So the last one who polls closes it.
        """
        self.wake()
        self.closed = True
        self._epoll_fds.clear()
        self._poll.close()
        self._wake_up = None
        self.by_fd.clear()

    def close_in_forked_child(self) -> None:
        """The same, but wake nobody: those who poll are the parent's threads, and of ours none is left to close anything."""
        wake_up, self._wake_up = self._wake_up, None
        self.close()
        if wake_up is not None:
            wake_up.close()


class _PlainPoll:
    """`select.epoll`, as far as it is used here, for systems that have none (macOS)."""

    def __init__(self, changed: Any) -> None:
        if not hasattr(select, "poll"):
            raise RuntimeError(
                "this program's `select` has neither epoll nor poll, without which no pool can wait (eventlet removes both:"
                " make the pool in a process that it has not patched)"
            )
        self._changed = changed  # called when whoever polls has to begin anew, since what is watched has changed
        self._masks: dict[int, int] = {}
        self._closed = False

    def register(self, fd: int, mask: int) -> None:
        if fd in self._masks:
            raise FileExistsError(fd)
        self.modify(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        self._masks[fd] = mask
        self._changed()

    def unregister(self, fd: int) -> None:
        self._masks.pop(fd, None)

    def poll(self, timeout: float) -> Events:
        if self._closed:
            raise ValueError("I/O operation on closed poll object")
        poll = select.poll()  # one a call: it cannot be shared by threads
        for fd, mask in list(self._masks.items()):
            poll.register(fd, mask)
        return poll.poll(None if timeout < 0.0 else 1e3 * timeout)

    def fileno(self) -> int:
        raise NotImplementedError("an outer loop needs a descriptor for the whole pool, which takes Linux' epoll")

    def close(self) -> None:
        self._closed = True


class _WakeUp(Holder):
    """The descriptors by which whoever polls is woken; closed with the last reference."""

    def __init__(self) -> None:
        self._fds = []
        if hasattr(os, "eventfd"):
            self._fds.extend(map(os.eventfd, (0,), (os.EFD_CLOEXEC | os.EFD_NONBLOCK,)))
        else:
            self._fds.extend(itertools.chain.from_iterable(itertools.starmap(os.pipe, [()])))
            os.set_blocking(self._fds[0], False)
            os.set_blocking(self._fds[-1], False)
        self.read_fd, self.write_fd = self._fds[0], self._fds[-1]

    def close(self) -> None:
        close_all(self._fds)
