"""The scoreboard: one page of memory that a worker and its parent share.

It answers, at no message per call, the one question that matters when a worker dies or a
limit strikes: *which call was it on?* Each cell is one aligned 8-byte store, each has one
writer, and none is ever cleared while the worker lives, so no reader can see half a thought.

    CURRENT       worker  the call it is on; written before the call is unpickled
    STARTED       worker  monotonic nanoseconds at which it took it (or took its present item)
    ITEM          worker  index of the present item, in a call that is a chunk of a map
    SKIPPED_FROM  worker  the first call that the latest recall kept from running
    RECALLED      parent  calls from this number on are not to be started
    SOFT_NUMBER   parent  the call a soft limit is meant for
    SOFT_ITEM     parent  ... and the item of it; ANY_ITEM: whichever runs
    SOFT_COUNT    parent  how often one was aimed: each of them is raised once

The rule of a recall: the worker writes CURRENT, *then* reads RECALLED. The parent writes
RECALLED, waits a fence (1.5 ms: longer than a store waits in any processor's buffer), then reads CURRENT.
Calls behind CURRENT are certain not to start: whatever call the worker takes next, it writes
CURRENT first and reads RECALLED afterwards. The call *at* CURRENT is undecided when its number
is not below RECALLED; only its result or SKIPPED_FROM decides it.

The page is a sealed memfd: it needs no /dev/shm and no name, and a worker cannot shrink it
(an unsealed one, truncated by a worker, kills the parent by SIGBUS on its next read).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys

from .._typing import Any, Final, NamedTuple
from .descriptors import Holder, close_all, open_memory

CURRENT: Final = 0
STARTED: Final = 1
ITEM: Final = 2
SKIPPED_FROM: Final = 3
RECALLED: Final = 8  # the parent's cells lie on another cache line than the worker's
SOFT_NUMBER: Final = 9
SOFT_ITEM: Final = 10
SOFT_COUNT: Final = 11
ANY_ITEM: Final = (1 << 64) - 1

_SIZE: Final = mmap.PAGESIZE
# a mapping keeps a duplicate of its descriptor, which nobody needs, and before Python 3.13 cannot be told not to
_UNTRACKED: Final[dict[str, Any]] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


class Progress(NamedTuple):
    """What the scoreboard said at one moment."""

    current: int
    started_ns: int
    item: int
    skipped_from: int


class Scoreboard(Holder):
    """A scoreboard by its file descriptor; `cells` is the shared page as unsigned 64-bit words."""

    _aims = 0

    def __init__(self, fd: int | None = None) -> None:
        """A scoreboard on `fd`, which is its own from now on; without one a new, zeroed scoreboard.

        Raises OSError when descriptors or memory run out.
        """
        # Put there by the very call that opens it, and closed at the latest with this object: a bare number would be lost
        # when a signal handler raises between two calls.
        self._fds = [] if fd is None else [fd]
        if fd is None:
            _open_sealed(self._fds)
        self._map = mmap.mmap(self._fds[0], _SIZE, **_UNTRACKED)
        self.cells = memoryview(self._map).cast("Q")

    @property
    def fd(self) -> int:
        """Its descriptor; -1 when that was given up."""
        return self._fds[0] if self._fds else -1

    def read(self) -> Progress:
        """Read the worker's cells; STARTED and ITEM belong to CURRENT."""
        cells = self.cells
        try:
            while True:
                current, item = cells[CURRENT], cells[ITEM]
                progress = Progress(current, cells[STARTED], item, cells[SKIPPED_FROM])
                if cells[CURRENT] == current and cells[ITEM] == item:
                    return progress
        except ValueError:
            return Progress(0, 0, 0, 0)  # another thread has just closed it: its worker is gone, and is on nothing

    def recall(self, number: int) -> None:
        """Forbid the worker to start call `number` and any later one."""
        self.cells[RECALLED] = number

    def aim(self, number: int, item: int = ANY_ITEM) -> None:
        """Say which call, and which item of it, the next soft-limit signal is meant for."""
        self.cells[SOFT_ITEM] = item
        self.cells[SOFT_NUMBER] = number
        self._aims += 1
        self.cells[SOFT_COUNT] = self._aims

    def close_fd(self) -> None:
        """Give up our number for it; the mapping stays, and before Python 3.13 its duplicate."""
        close_all(self._fds)

    def close(self) -> None:
        """Give up descriptor and mapping."""
        self.close_fd()
        self.cells.release()
        self._map.close()


def _open_sealed(fds: list[int]) -> None:
    """Put the descriptor of a page of sealed memory into `fds`."""
    open_memory(fds, "billiard-scoreboard")
    os.ftruncate(fds[0], _SIZE)
    if hasattr(os, "memfd_create"):
        fcntl.fcntl(fds[0], fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    # else a file, which cannot be sealed: a worker that truncates it is hostile to itself only where the kernel keeps mapped
    # pages of a truncated file
