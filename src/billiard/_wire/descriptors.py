"""Closing and asking descriptors."""

from __future__ import annotations

import os
import select
from collections import deque


def close_all(fds: list[int]) -> None:
    """Close descriptors and strike them off the list, in one call in C: whose they are is never in doubt, also when a signal's
    handler raises."""
    deque(map(os.close, map(fds.pop, [-1] * len(fds))), 0)


def is_readable(fd: int) -> bool:
    """Whether there is something to read, or the far end is closed."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return any(event & (select.POLLIN | select.POLLHUP) for _fd, event in poller.poll(0))  # not: no such descriptor
