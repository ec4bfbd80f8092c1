"""A worker as the user sees it: a pid with a name, an index and an exit code."""

from __future__ import annotations

import functools
import signal

from .._core.state import Phase, Worker
from .._supervisor.engine import Engine
from .._supervisor.worker_link import Sentinel
from .._typing import Any
from ..common import TERM_SIGNAL


@functools.total_ordering
class WorkerHandle:
    """Stands for a worker's pid: ``int(handle)``, ``f"{handle}"`` and ``os.kill(handle, sig)`` work, and it is equal to the
    pid, also as a key and in a sorted list. What wants a real int (JSON) gets ``int(handle)``.

    `pid`: its process id. `exitcode`: None while it runs, else its exit code, or -signum. `index`: its place in the pool,
    from 0; a replacement takes over the index. `name`: that of its process, as ``current_process()`` has it in the worker.
    `daemon`: False, as in the worker, which may have children.
    """

    def __init__(self, worker: Worker, engine: Engine) -> None:
        self._worker = worker
        self._engine = engine
        self.index = worker.index
        self.daemon = False
        self._sentinel: Sentinel | None = None

    @property
    def name(self) -> str:
        return self._worker.name

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
        """A descriptor that is readable when the process has ended. Do not close it: it is open for as long as this handle is
        kept."""
        if self._worker.pid is None:
            raise ValueError(f"{self!r} has not started")
        if self._sentinel is None:
            self._sentinel = self._engine.sentinel_of(self._worker)
        if self._sentinel is None:
            raise ValueError(f"{self!r} has ended")
        return self._sentinel.fileno()

    def terminate(self) -> None:
        """Send SIGTERM to the process. What it is running is lost."""
        self._engine.signal_worker(self._worker, TERM_SIGNAL)

    def kill(self) -> None:
        """Send SIGKILL to the process, and to what its task has started. What it is running is lost."""
        self._engine.signal_worker(self._worker, signal.SIGKILL)

    def __int__(self) -> int:
        if self.pid is None:
            raise ValueError(f"{self!r} has not started")
        return self.pid

    __index__ = __int__

    def __str__(self) -> str:
        return str(self.pid)

    def __format__(self, spec: str) -> str:
        return format(self.pid, spec)

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, WorkerHandle):
            return self is other or (self.pid is not None and self.pid == other.pid)
        return other == self.pid if isinstance(other, int) else NotImplemented

    def __lt__(self, other: Any) -> bool:
        if isinstance(other, int | WorkerHandle):
            return int(self) < int(other)
        return NotImplemented

    def __hash__(self) -> int:
        if self.pid is None:
            # any hash given out now would be another than that of the pid which it will be equal to
            raise TypeError(f"{self!r} has not started: it has no hash yet")
        return hash(self.pid)

    def __repr__(self) -> str:
        phase = self._worker.phase.name.lower()
        return f"<{type(self).__name__}({self.name}, {phase}, pid={self.pid}, exitcode={self.exitcode})>"
