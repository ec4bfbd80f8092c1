"""A worker as the user sees it: a pid with a name, an index and an exit code."""

from __future__ import annotations

import os
import signal

from .._core.state import Phase, Worker
from .._typing import Any


class WorkerHandle:
    """Stands for a worker's pid: ``int(handle)``, ``str(handle)`` and ``os.kill(handle, sig)`` work.

    `pid`: its process id. `exitcode`: None while it runs, else its exit code, or -signum. `index`: its place in the pool,
    from 0; a replacement takes over the index. `name`: the name of its process.
    """

    def __init__(self, worker: Worker, name: str) -> None:
        self._worker = worker
        self.index = worker.index
        self.name = name
        self.daemon = True

    @property
    def pid(self) -> int | None:
        return self._worker.pid

    ident = pid

    @property
    def exitcode(self) -> int | None:
        return self._worker.status

    def is_alive(self) -> bool:
        """Whether the process has not been seen to exit."""
        return self._worker.phase is not Phase.GONE

    _is_alive = is_alive

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable when the process has ended. It belongs to the pool; do not close it."""
        hands = self._worker.hands
        if self._worker.pid is None:
            raise ValueError(f"{self!r} has not started")
        if hands is None:
            raise ValueError(f"{self!r} has ended")
        if hands.pidfd < 0:
            hands.pidfd = os.pidfd_open(self._worker.pid)
        return int(hands.pidfd)

    def terminate(self) -> None:
        """Send SIGTERM to the process. What it is running is lost."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process. What it is running is lost."""
        self._signal(signal.SIGKILL)

    def _signal(self, signum: int) -> None:
        if self._worker.pid is not None and self.is_alive():
            os.kill(self._worker.pid, signum)

    def __int__(self) -> int:
        if self.pid is None:
            raise ValueError(f"{self!r} has not started")
        return self.pid

    __index__ = __int__

    def __str__(self) -> str:
        return str(self.pid)

    def __eq__(self, other: Any) -> bool:
        return self is other or (isinstance(other, int) and other == self.pid)

    def __hash__(self) -> int:
        return hash(self._worker)

    def __repr__(self) -> str:
        phase = self._worker.phase.name.lower()
        return f"<{type(self).__name__}({self.name}, {phase}, pid={self.pid}, exitcode={self.exitcode})>"
