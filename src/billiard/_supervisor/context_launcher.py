"""Workers started one by one by multiprocessing's own spawn or forkserver context (see `launching` for the rules).

Multiprocessing's sentinels are for systems without pidfds: any child that is forked, by the parent or by a task, holds them
open. A worker's end is told by a pidfd, and the parent's by a lifeline.
"""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import sys
from collections.abc import Callable
from multiprocessing import process as mp_process

from .._core.state import Worker
from .._stdlib.context import BaseContext, preload
from .._typing import Any, Final
from .._wire.descriptors import close_all, close_last, is_readable
from .._wire.far_end import FarEnd
from .._wire.pickling import MainSnapshot
from .._wire.scoreboard import Scoreboard
from .._worker.settings import WorkerSettings
from .launching import EXITED, STARTED, Event
from .poll_set import PollSet
from .spawn_arguments import FdArgument, InMemory, serve_with_fds

_UNKNOWN_STATUS: Final = 255
_KILLED_WITHIN_S: Final = 1.0


class ContextLauncher:
    """Workers started by multiprocessing's own spawn or forkserver context."""

    def __init__(
        self, context: BaseContext, settings: WorkerSettings, name_prefix: str, serial: Callable[[], int], poll_set: PollSet
    ) -> None:
        self._method = str(context.get_start_method())
        self._context = context
        self._settings = settings
        self._name_prefix = name_prefix
        self._serial = serial
        self._poll_set = poll_set
        self._importable = _main_is_imported()
        self.snapshot = MainSnapshot(self._importable)
        self._processes: dict[int, Any] = {}
        self._begun: set[int] = set()  # idents whose process was ordered, but is not in `_processes` yet
        self._fds: dict[int, int] = {}  # pidfd -> ident
        # ident -> the end whose closing kills the worker; until that one has it, the other end too
        self._lifelines: dict[int, list[int]] = {}
        self._early: list[Event] = []
        if self._method == "forkserver":
            preload(serve_with_fds.__module__)  # three quarters of what a worker's start took

    def start(self, worker: Worker, far_end: FarEnd, scoreboard: Scoreboard) -> None:
        process = self._processes.get(worker.ident)
        if process is None:
            process = self._start_process(worker, far_end, scoreboard)
        if worker.ident not in self._fds.values():
            self._fds[_pidfd(process)] = worker.ident
        for fd, ident in list(self._fds.items()):
            if ident == worker.ident:
                self._poll_set.watch(fd)
        started = (STARTED, worker.ident, process.pid)
        if started not in self._early:
            self._early.append(started)

    def _start_process(self, worker: Worker, far_end: FarEnd, scoreboard: Scoreboard) -> Any:
        """A new process for `worker`, once: cut short before it is known here, a second one is refused."""
        if worker.ident in self._begun:
            # whether there is a process that serves this channel, nobody knows: another one needs another channel
            raise OSError(errno.EAGAIN, "starting a process was cut short")
        worker.name = f"{self._name_prefix}-{self._serial()}"
        # not multiprocessing's own sentinel of the parent: every child that the parent forks would hold that open
        lifeline = self._lifelines.setdefault(worker.ident, [])
        lifeline.extend(itertools.chain.from_iterable(map(reversed, itertools.starmap(os.pipe, [()]))))
        fds = map(FdArgument, (far_end.fds[-1], scoreboard.fd, lifeline[-1]))
        process = self._context.Process(  # type: ignore[attr-defined]  # contexts differ in this one attribute
            target=serve_with_fds,
            args=(far_end.sock, *fds, InMemory(self._settings), self._importable),
            name=worker.name,
            daemon=True,
        )
        process.index = worker.index
        self._begun.add(worker.ident)
        try:
            process.start()
        except (OSError, EOFError) as exc:
            self._cut_lifeline(worker.ident)
            self._begun.discard(worker.ident)
            if isinstance(exc, EOFError):  # it could not fork, and died of that; the next start starts another
                raise OSError(errno.EAGAIN, "the fork server died") from exc
            raise
        except (AttributeError, TypeError, pickle.PicklingError) as exc:
            raise TypeError(
                f"initializer, initargs and on_process_exit must be picklable with start method {self._method!r}: {exc}"
            ) from exc
        self._processes[worker.ident] = process
        close_last(lifeline)
        self._begun.discard(worker.ident)
        return process

    def events(self, fd: int) -> list[Event]:
        return [*self._early, *self._exits(fd)]

    def _exits(self, fd: int, patience_s: float = 0.0) -> list[Event]:
        ident = self._fds.get(fd)
        if ident is None:
            return []
        process = self._processes[ident]
        if not is_readable(fd, patience_s):
            # polled before another thread reaped that worker, and its descriptor's number is this one's now
            return []
        # Not `wait(timeout)`: for a spawned process that looks at the sentinel first, which a surviving grandchild keeps
        # open, and the worker's death would never be seen.
        if self._method == "forkserver":
            # readable means exited, but the status comes by another way, the fork server's pipe, a moment later
            status = process._popen.wait(timeout=1.0)
        else:
            # exiting for sure, but perhaps not waitable for another moment: this waits for it
            status = process._popen.poll(0 if fd != process.sentinel else os.WNOHANG)
        if status is None:
            # reaped by someone who waits for any child: how it ended is not known, that it ended is
            return [(EXITED, ident, None)] if fd != process.sentinel else []
        return [(EXITED, ident, status if status < 256 else status - 256)]

    def applied(self, count: int) -> None:
        del self._early[:count]

    def lost(self) -> None:
        pass

    def hear_of_end(self) -> None:
        pass

    def reap(self, worker: Worker) -> None:
        self._close_pidfd(worker.ident)
        process = self._processes.get(worker.ident)
        if process is not None:
            popen = process._popen
            if popen.returncode is None:  # someone else has reaped it
                popen.returncode = worker.status if worker.status is not None else _UNKNOWN_STATUS
            # No `close`: another thread may be joining it, as multiprocessing does with all children when the program exits,
            # and of a closed one that is an error. The sentinel goes with the last who has the process.
            process.join(timeout=0)
        self._cut_lifeline(worker.ident)
        self._processes.pop(worker.ident, None)

    def _close_pidfd(self, ident: int) -> None:
        for fd, owner in list(self._fds.items()):
            if owner == ident:
                self._poll_set.unwatch(fd)
                del self._fds[fd]
                if fd != self._processes[ident].sentinel:
                    os.close(fd)

    def _cut_lifeline(self, ident: int) -> None:
        close_all(self._lifelines.pop(ident, []))

    def close(self) -> None:
        self._cut_lifelines()
        # what follows is of a pool that was abandoned: its workers were killed, and nobody looked at their ends
        for fd in self._fds:
            self._exits(fd, _KILLED_WITHIN_S)
        for ident, process in self._processes.items():
            process.is_alive()  # multiprocessing forgets it if it is not; not by `join`, which waits for the sentinel
            self._close_pidfd(ident)
        self._processes.clear()

    def _cut_lifelines(self) -> None:
        for ident in list(self._lifelines):  # of a start that failed
            self._cut_lifeline(ident)

    def close_in_forked_child(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._cut_lifelines()
        # or the child, as it exits, would terminate them as daemons of its own
        mp_process._children.difference_update(self._processes.values())  # type: ignore[attr-defined]  # not published
        if self._method == "forkserver":
            # the server is no child of this process: asked for one of its own, it would wait for that one's end
            server: Any = sys.modules["multiprocessing.forkserver"]._forkserver
            server._forkserver_pid = server._forkserver_address = server._forkserver_alive_fd = None
        self._fds.clear()
        self._processes.clear()


def _main_is_imported() -> bool:
    """Whether multiprocessing has its children import this program's `__main__`: there must be a file to import, and of a
    package, directory or archive that is run (``python -m package``) it leaves ``__main__.py`` out."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return not f".{spec.name}".endswith(".__main__")
    return hasattr(main, "__file__")


def _pidfd(process: Any) -> int:
    """A descriptor that is readable once the process has ended.

    The sentinel is a pipe that a surviving grandchild keeps open: it tells of the last heir's end, not of the worker's.
    """
    if hasattr(os, "pidfd_open"):
        try:
            return os.pidfd_open(process.pid)
        except OSError:
            # It has ended already, and the fork server has reaped it; there is no free descriptor; or the kernel has no pidfds
            # (before 5.3), or a sandbox refuses them. Raised, it would cost a worker that has been started.
            pass
    return int(process.sentinel)
