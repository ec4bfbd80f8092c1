"""Descriptors: closing them, asking them, keeping ours off the standard numbers."""

from __future__ import annotations

import fcntl
import os
import select
import socket
from collections import deque

from .._typing import Final

#: For whatever is sent to a process that may be gone: many a program has given SIGPIPE its default back, which would end it.
NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)

#: Buffers for one `sendmsg`: below IOV_MAX of every platform.
MAX_PARTS: Final = 512

_STDERR: Final = 2


def close_all(fds: list[int]) -> None:
    """Close descriptors and strike them off the list, in one call in C: whose they are is never in doubt, also when a signal's
    handler raises."""
    deque(map(os.close, map(fds.pop, [-1] * len(fds))), 0)


def close_last(fds: list[int]) -> None:
    """The same for the last of them."""
    deque(map(os.close, map(fds.pop, (-1,))), 0)


class Holder:
    """What holds descriptors, and closes them with its last reference at the latest."""

    _fds: list[int] = []  # of one whose making did not get that far

    def __del__(self) -> None:
        close_all(self._fds)


def open_memory(fds: list[int], name: str) -> None:
    """Put the descriptor of a new file into `fds` that has no place in any directory: memory that may be sealed, or where there
    is no such thing (macOS) an unlinked file."""
    if hasattr(os, "memfd_create"):
        fds.extend(map(os.memfd_create, (name,), (os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING,)))
        return
    import tempfile

    fd, path = tempfile.mkstemp(prefix=f"{name}-")
    fds.append(fd)
    os.unlink(path)  # noqa: PTH108 - os level on purpose: nothing above the descriptor is wanted


def beyond_standard(fd: int) -> int:
    """`fd`, which may get another number: no standard one. A program that was started with its standard descriptors closed
    (a daemon) has others by their numbers, and whatever writes an error message would write into them."""
    if fd > _STDERR:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STDERR + 1)
    os.close(fd)
    return moved


def fill_standard() -> None:
    """Have nothing that is opened from now on get a standard descriptor's number."""
    try:
        while (null := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
            os.set_inheritable(null, True)  # as such ones are: for a task's programs
        os.close(null)
    except OSError:
        pass


def is_readable(fd: int, within_s: float = 0.0) -> bool:
    """Whether there is something to read, or the far end is closed, within so many seconds."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    found = poller.poll(1e3 * within_s)
    return any(event & (select.POLLIN | select.POLLHUP) for _fd, event in found)  # not: no such descriptor
