"""How worker processes come into being and how their end is learned: one class per way.

A launcher starts a worker (asynchronously), says when it has started and when it has exited, keeps the pid from being
reused until `reap`, and sends signals that therefore cannot hit a stranger. Starting again what was started already does
nothing, so an interrupted order may be repeated.
"""

from __future__ import annotations

import array
import contextlib
import errno
import itertools
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing import process as mp_process
from multiprocessing.reduction import DupFd, ForkingPickler

from .._core.state import Worker
from .._stdlib.context import BaseContext
from .._typing import Any, Final, Protocol
from .._wire.descriptors import NO_SIGNAL, close_all, close_last, is_readable, open_memory
from .._wire.far_end import FarEnd
from .._wire.pickling import PROTOCOL, MainSnapshot
from .._wire.scoreboard import Scoreboard
from .._worker.main import serve_spawned
from .._worker.settings import WorkerSettings
from . import log, template
from .fork_safety import refuse_green_fork
from .template import EXITED, STARTED

ALL_LOST: Final = 0  # the launcher itself died, and all its workers with it
NO_FD: Final = -1  # ask `events` for this one after `start`: what is known at once is told by no descriptor

_UNKNOWN_STATUS: Final = 255

Event = tuple[int, int, Any]  # STARTED, EXITED, NOT_STARTED, with the worker's ident and its pid, status, errno; or ALL_LOST
Watch = Callable[[int], None]


class Launcher(Protocol):
    """What the engine asks of a way to make processes."""

    snapshot: MainSnapshot  # of `__main__`, as its workers know it

    def start(self, worker: Worker, far_end: FarEnd, scoreboard: Scoreboard) -> None:
        """Have a process made that serves `far_end`. Raises OSError when it cannot be."""

    def lost(self) -> None:
        """ALL_LOST was dealt with: the next `start` begins anew."""

    def hear_of_end(self) -> None:
        """The end of a worker is about to come, and must be told even if somebody stopped whoever tells of it (SIGSTOP)."""

    def close_in_forked_child(self) -> None:
        """In a forked child of the parent: close what is the parent's, disturb nothing."""

    def applied(self, count: int) -> None:
        """The first `count` of the last `events` were dealt with."""

    def events(self, fd: int) -> list[Event]:
        """What became known by `fd` being readable. Safe to ask again."""

    def reap(self, worker: Worker) -> None:
        """Everything about this worker is settled: its pid may be reused."""

    def close(self) -> None:
        """All workers are reaped: give up whatever is left."""


def send_signal(pid: int, signum: int, group: bool) -> None:
    """Signal a worker that is not reaped; with `group`, its task's children too."""
    try:
        if group:
            os.killpg(pid, signum)
        else:
            os.kill(pid, signum)
    except ProcessLookupError:
        if group:  # killed before it could make a group of its own
            send_signal(pid, signum, group=False)
    except OSError as exc:
        # a task that became another user's, perhaps: raised, it would end this turn and every other
        log.error("worker %d cannot be sent signal %d: %s", pid, signum, exc)


class TemplateLauncher:
    """Workers forked from the template. See billiard._supervisor.template."""

    def __init__(
        self, settings: WorkerSettings, name_prefix: str, watch: Watch, unwatch: Watch, serial: Callable[[], int]
    ) -> None:
        refuse_green_fork()
        self._settings = settings
        self._name_prefix = name_prefix
        self._watch, self._unwatch = watch, unwatch
        self._serial = serial
        self.snapshot = MainSnapshot()
        self._pids: list[int] = []  # of the template, and of an earlier one that is not reaped yet
        self._control: socket.socket | None = None
        self._received: list[bytes] = []  # see rule 1 of billiard._wire.channel
        self._pending_reaps: list[int] = []  # said, but not yet taken by the socket
        try:
            self._start_template()
        except BaseException:
            self.close()
            raise

    def _start_template(self) -> None:
        self._reap_templates()  # of an earlier try that was cut short
        control = template.fork_template(self._settings, self.snapshot, self._name_prefix, self._pids)
        self._watch(control.fileno())
        self._control = control  # last: one that is not watched is none

    def start(self, worker: Worker, far_end: FarEnd, scoreboard: Scoreboard) -> None:
        if self._control is None:
            self.snapshot.take()
            self._start_template()
        control = self._control
        if control is None:
            raise OSError(errno.EAGAIN, "no template process")
        serial = worker.serial = worker.serial or self._serial()  # an order may be repeated
        worker.name = f"{self._name_prefix}-{serial}"
        message = template.MESSAGE.pack(template.SPAWN, worker.ident, worker.index, serial)
        try:
            fds = array.array("i", [*far_end.fds, scoreboard.fd])
            # not `socket.send_fds`, which ignores its flags
            control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], NO_SIGNAL)
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise OSError(errno.EAGAIN, "the template process is gone") from exc

    def events(self, fd: int) -> list[Event]:
        control = self._control
        if control is None or fd != control.fileno():
            return []
        self._send_reaps()
        received = self._received
        try:
            while not received or received[-1]:
                received.extend(map(control.recv, (64,)))
        except BlockingIOError:
            pass
        except OSError:
            received.append(b"")
        events: list[Event] = []
        for data in received:
            if not data:
                events.append((ALL_LOST, 0, 0))
                break
            what, ident, value, _ = template.MESSAGE.unpack(data)
            events.append((what, ident, value))
        return events

    def applied(self, count: int) -> None:
        del self._received[:count]

    def hear_of_end(self) -> None:
        if self._control is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pids[-1], signal.SIGCONT)

    def lost(self) -> None:
        if self._control is not None:
            self._reap_templates()
            # no end of the old stream must be taken for the new one's
            self._received.clear()
            self._pending_reaps.clear()
            self._close_control()

    def _close_control(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            self._unwatch(control.fileno())
            with contextlib.suppress(OSError):
                # Not only closed: a child that somebody forked while this was being made holds it too, and the template would
                # not leave before that child does.
                control.shutdown(socket.SHUT_RDWR)
            control.close()

    def _reap_templates(self) -> None:
        for pid in list(self._pids):
            try:
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    os.kill(pid, signal.SIGKILL)  # it may have closed its socket and live on
                    os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # reaped by someone who waits for any child
            self._pids.remove(pid)

    def reap(self, worker: Worker) -> None:
        if worker.ident not in self._pending_reaps:
            self._pending_reaps.append(worker.ident)
        self._send_reaps()

    def _send_reaps(self) -> None:
        while self._pending_reaps and self._control is not None:
            try:
                self._control.send(template.MESSAGE.pack(template.REAP, self._pending_reaps[0], 0, 0), NO_SIGNAL)
            except BlockingIOError:
                return  # with the next event
            except OSError:
                pass  # the template is gone or as good as gone; its end of the socket will say so
            del self._pending_reaps[0]

    def close(self) -> None:
        if self._control is not None:
            self.hear_of_end()
            self._close_control()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pids[-1], 0)  # it ends its workers
            del self._pids[-1]
        self._reap_templates()  # one whose start was cut short, and who is not told

    def close_in_forked_child(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        self._pids.clear()


class ContextLauncher:
    """Workers started by multiprocessing's own spawn or forkserver context."""

    def __init__(
        self, context: BaseContext, settings: WorkerSettings, name_prefix: str, watch: Watch, unwatch: Watch,
        serial: Callable[[], int],
    ) -> None:  # fmt: skip
        self._method = str(context.get_start_method())
        self._context = context
        self._settings = settings
        self._name_prefix = name_prefix
        self._watch, self._unwatch = watch, unwatch
        self._serial = serial
        main = sys.modules.get("__main__")
        self._importable = getattr(main, "__spec__", None) is not None or hasattr(main, "__file__")
        self.snapshot = MainSnapshot(self._importable)
        self._processes: dict[int, Any] = {}
        self._begun: set[int] = set()  # idents whose process was ordered, but is not in `_processes` yet
        self._fds: dict[int, int] = {}  # pidfd -> ident
        # ident -> the end whose closing kills the worker; until that one has it, the other end too
        self._lifelines: dict[int, list[int]] = {}
        self._early: list[Event] = []

    def start(self, worker: Worker, far_end: FarEnd, scoreboard: Scoreboard) -> None:
        process = self._processes.get(worker.ident)
        if process is None:
            if worker.ident in self._begun:
                # whether there is a process that serves this channel, nobody knows: another one needs another channel
                raise OSError(errno.EAGAIN, "starting a process was cut short")
            worker.name = f"{self._name_prefix}-{self._serial()}"
            # not multiprocessing's own sentinel of the parent: every child that the parent forks would hold that open
            lifeline = self._lifelines.setdefault(worker.ident, [])
            lifeline.extend(itertools.chain.from_iterable(map(reversed, itertools.starmap(os.pipe, [()]))))
            fds = map(_FdArgument, (far_end.fds[-1], scoreboard.fd, lifeline[-1]))
            process = self._context.Process(  # type: ignore[attr-defined]  # contexts differ in this one attribute
                target=_serve_with_fds,
                args=(far_end.sock, *fds, _InMemory(self._settings), self._importable),
                name=worker.name,
                daemon=True,
            )
            process.index = worker.index
            self._begun.add(worker.ident)
            try:
                process.start()
            except OSError:
                self._cut_lifeline(worker.ident)
                self._begun.discard(worker.ident)
                raise
            except (AttributeError, TypeError, pickle.PicklingError) as exc:
                raise TypeError(
                    f"initializer, initargs and on_process_exit must be picklable with start method {self._method!r}: {exc}"
                ) from exc
            self._processes[worker.ident] = process
            close_last(lifeline)
            self._begun.discard(worker.ident)
        if worker.ident not in self._fds.values():
            self._fds[_pidfd(process)] = worker.ident
        for fd, ident in list(self._fds.items()):
            if ident == worker.ident:
                self._watch(fd)
        started = (STARTED, worker.ident, process.pid)
        if started not in self._early:
            self._early.append(started)

    def events(self, fd: int) -> list[Event]:
        return [*self._early, *self._exits(fd)]

    def _exits(self, fd: int) -> list[Event]:
        ident = self._fds.get(fd)
        if ident is None:
            return []
        process = self._processes[ident]
        if not is_readable(fd):
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
        process = self._processes.get(worker.ident)
        popen = process._popen if process is not None else None  # None: it was closed, and what follows was cut short
        for fd, ident in list(self._fds.items()):
            if ident == worker.ident:
                self._unwatch(fd)
                del self._fds[fd]
                if popen is None or fd != popen.sentinel:
                    os.close(fd)
        if process is not None and popen is not None:
            if popen.returncode is None:  # someone else has reaped it: `close` would think that it runs
                popen.returncode = worker.status if worker.status is not None else _UNKNOWN_STATUS
            process.join(timeout=0)
            process.close()
        self._cut_lifeline(worker.ident)
        self._processes.pop(worker.ident, None)

    def _cut_lifeline(self, ident: int) -> None:
        close_all(self._lifelines.pop(ident, []))

    def close(self) -> None:
        for ident in list(self._lifelines):  # of a start that failed
            self._cut_lifeline(ident)

    def close_in_forked_child(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self.close()
        # or the child, as it exits, would terminate them as daemons of its own
        mp_process._children.difference_update(self._processes.values())  # type: ignore[attr-defined]  # not published
        if self._method == "forkserver":
            # the server is no child of this process: asked for one of its own, it would wait for that one's end
            server: Any = sys.modules["multiprocessing.forkserver"]._forkserver
            server._forkserver_pid = server._forkserver_address = server._forkserver_alive_fd = None
        self._fds.clear()
        self._processes.clear()


class _InMemory:
    """An argument that may be large. In `Process.start` it would go through a pipe, and from 64 KB on wait there until the new
    interpreter has imported `__main__`: the pool would stand still for so long, and its limits with it."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._fds: list[int] = []  # kept open until the process has been started

    def __reduce__(self) -> Any:
        open_memory(self._fds, "billiard-settings")
        with open(self._fds[-1], "wb", closefd=False) as file:
            # pickled here and now: locks and queues let themselves be pickled only while a process is being started
            ForkingPickler(file, PROTOCOL).dump(self._value)
        return _loaded, (DupFd(self._fds[-1]),)

    def __del__(self) -> None:
        close_all(self._fds)


def _loaded(dup: Any) -> Any:
    with open(dup.detach(), "rb") as file:  # noqa: PTH123 - by its number
        file.seek(0)
        return pickle.load(file)


class _FdArgument:
    """A descriptor as an argument of a process that is being started."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> Any:
        return _fd_of, (DupFd(self._fd),)


def _fd_of(dup: Any) -> int:
    return int(dup.detach())


def _serve_with_fds(
    sock: socket.socket, pipe_fd: int, scoreboard_fd: int, lifeline_fd: int, settings: WorkerSettings, importable_main: bool
) -> None:  # fmt: skip
    serve_spawned(FarEnd(sock, [pipe_fd]), scoreboard_fd, lifeline_fd, settings, importable_main)


def _pidfd(process: Any) -> int:
    """A descriptor that is readable once the process has ended.

    The sentinel is a pipe that a surviving grandchild keeps open: it tells of the last heir's end, not of the worker's.
    """
    if hasattr(os, "pidfd_open"):
        try:
            return os.pidfd_open(process.pid)
        except ProcessLookupError:
            pass  # ended already, and the fork server has reaped it: the sentinel tells
    return int(process.sentinel)
