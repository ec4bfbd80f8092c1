"""Workers forked from a template: its process, and the parent's end of the socket by which it is told and tells (see `template`
for the far end, `launching` for the rules).

A template that died is replaced with the next worker that is to start.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable

from .._core.state import Worker
from .._wire import errors
from .._wire.descriptors import NO_SIGNAL
from .._wire.far_end import FarEnd
from .._wire.pickling import MainSnapshot
from .._wire.scoreboard import Scoreboard
from .._worker.settings import WorkerSettings
from . import template
from .fork_safety import refuse_green_fork
from .launching import ALL_LOST, Event
from .poll_set import PollSet


class TemplateLauncher:
    """Workers forked from the template of one pool."""

    def __init__(self, settings: WorkerSettings, name_prefix: str, serial: Callable[[], int], poll_set: PollSet) -> None:
        refuse_green_fork()
        errors.prepare()  # here once, and not in each worker
        self._settings = settings
        self._name_prefix = name_prefix
        self._serial = serial
        self._poll_set = poll_set
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
        self._poll_set.watch(control.fileno())
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
            self._poll_set.unwatch(control.fileno())
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
