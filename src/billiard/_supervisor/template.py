"""The template: a single-threaded process, forked once, from which all workers of a pool are forked.

                  control (SOCK_SEQPACKET)
    parent  <---------------------------------->  template  --fork-->  worker, worker, ...
       SPAWN ident + 3 fds, REAP ident               STARTED, EXITED, NOT_STARTED

Why: a replacement must never be forked from a parent that has threads by now (it would inherit locks that
nobody will release), and it must cost a millisecond, not an interpreter's start. Workers thus see `__main__` as it was
when the pool was made.

The template sees exits with ``waitid(WNOWAIT)`` and reaps only when the parent has said REAP. Until then
neither the pid nor the process group can be given to anyone else, so the parent's plain `kill` and `killpg` are exact.

When the parent is gone the control socket ends and the template leaves; that closes the far ends of all lifelines, and
the kernel kills every worker's group (see billiard._worker.lifeline), also when it is the template that was killed.
"""

from __future__ import annotations

import array
import atexit
import errno
import gc
import itertools
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from multiprocessing import process as mp_process
from multiprocessing import util

from .._stdlib.context import ForkProcess
from .._typing import Any, Final, NoReturn
from .._wire import pickling
from .._wire.descriptors import NO_SIGNAL, fill_standard
from .._wire.exit_status import EX_FAILURE
from .._wire.far_end import FarEnd
from .._wire.pickling import MainSnapshot
from .._wire.scoreboard import Scoreboard
from .._wire.spin import processors
from .._worker import main, signals
from .._worker.settings import WorkerSettings
from ..common import TERM_SIGNAL
from .launching import EXITED, NOT_STARTED, STARTED

MESSAGE: Final = struct.Struct("<BQqq")  # operation, ident, two numbers

SPAWN: Final = 1  # parent -> template: ident, index, serial number for the name; fds: socket, pipe, scoreboard
REAP: Final = 2  # what it tells in turn: see `launching`

_FDS_PER_SPAWN: Final = 3
_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # else a task's programs would hold its worker's channel open
_ALL_SIGNALS: Final = tuple(map(int, signal.valid_signals()))
_FIRST_ORDER_S: Final = 0.05  # how long to wait for it, at most: it comes at once
_HEAD_START_S: Final = 0.002  # about what a worker needs from its fork to its first result
_PROCESSORS_FOR_ALL: Final = 4  # the parent, the template and two workers
_RUNS_ATEXIT: Final = sys.version_info >= (3, 13)  # multiprocessing's forked children run what was registered in them


class Template:
    """The template's own side. Lives in the forked process only."""

    def __init__(self, control: socket.socket, settings: WorkerSettings, snapshot: MainSnapshot, name_prefix: str) -> None:
        self._control = control
        self._settings = settings
        self._snapshot = snapshot
        self._name_prefix = name_prefix
        self._parent_pid = os.getppid()
        self._identity = mp_process.current_process()._identity
        self._process: Any = ForkProcess(target=self._fork_workers)
        self._process._parent_pid = self._parent_pid
        # multiprocessing's hooks are for the workers only: a manager's proxy would count us as a user of its own
        self._process._after_fork = _nothing  # type: ignore[attr-defined]  # not published
        self._has_hooks = bool(util._afterfork_registry)  # type: ignore[attr-defined]
        self._in_worker = False
        self._alive: dict[int, int] = {}  # pid -> ident; not yet seen to have exited
        self._pids: dict[int, int] = {}  # ident -> pid; not yet reaped
        self._lifelines: dict[int, int] = {}  # ident -> the end whose closing kills the worker
        self._inherited: dict[int, Any] = {}  # signals that we ignore: what the workers do on them
        self._wake_write = self._parent_fd = -1

    def run(self) -> NoReturn:
        """Serve the parent until it is gone.

        What multiprocessing does in a child before and after its target is done around `_fork_workers`. So all that comes
        before is done once, for the workers too: they are forked in the midst of it, and it was a sixth of their start.
        """
        code = EX_FAILURE
        try:
            self._leave_parent()
            code = self._process._bootstrap()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            # not the interpreter's exit: the parent's finalizers and atexit hooks are not ours to run
            if self._in_worker and _RUNS_ATEXIT:
                atexit._run_exitfuncs()
            os._exit(code & 0xFF)

    def _leave_parent(self) -> None:
        """What must be done before any worker is forked. Signals wait until `_prepare` is done."""
        # a group of its own: kill(0) and a terminal's Ctrl-C in the parent are not meant for us
        os.setpgid(0, 0)
        signals.change_mask(signals.BLOCK, _ALL_SIGNALS)
        # An inherited SIGCHLD=SIG_IGN loses exit statuses, a blocked mask loses the soft limit's signal, and an
        # inherited wakeup fd writes our signals into the parent's event loop.
        signal.set_wakeup_fd(-1)
        signals.before_initializer()
        _stdin_from_nowhere()
        fill_standard()
        util._flush_std_streams()  # type: ignore[attr-defined]  # or each worker writes what is in our buffers again
        util._finalizer_registry.clear()  # type: ignore[attr-defined]  # the parent's, run by the parent
        if _RUNS_ATEXIT:
            atexit._clear()  # the same
            atexit.register(util._exit_function)  # type: ignore[attr-defined]  # not published
        pickling.after_fork()
        _forget_executors()

    def _fork_workers(self) -> None:
        """Leaves by os._exit in the template, and by SystemExit in a worker."""
        gc.freeze()  # a collection in a worker would write to, and so copy, every page it shares with us
        code = EX_FAILURE
        try:
            self._start_the_first()
            self._loop(self._prepare())
            code = 0
        except BaseException:
            if self._in_worker:
                raise
            sys.excepthook(*sys.exc_info())
        os._exit(code)

    def _start_the_first(self) -> None:
        """The pool's first result waits for its first worker. So that one is forked before we do what only we need, and
        where it had to share a processor with us and its siblings, it gets a head start."""
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        if poller.poll(1e3 * _FIRST_ORDER_S) and self._obey() and processors() < _PROCESSORS_FOR_ALL:
            time.sleep(_HEAD_START_S)

    def _prepare(self) -> int:
        self._inherited = {**_ignore_all(), int(signal.SIGCHLD): signals.DEFAULT}
        wake_read, self._wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(self._wake_write, False)
        signals.set_handler(signal.SIGCHLD, lambda signum, frame: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signals.change_mask(signals.SET_MASK, ())
        return wake_read

    def _loop(self, wake_read: int) -> None:
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(wake_read, select.POLLIN)
        if hasattr(os, "pidfd_open"):
            # The end of the control socket says the same, unless some other process holds the parent's end. The pidfd
            # may be missing under EMFILE; the control socket then has to do.
            try:
                self._parent_fd = os.pidfd_open(self._parent_pid)
                poller.register(self._parent_fd, select.POLLIN)
            except OSError:
                pass
        if os.getppid() != self._parent_pid:
            return
        while True:
            for fd, _ in poller.poll():
                if fd == wake_read:
                    _drain(wake_read)
                    self._report_exits()
                elif fd != self._control.fileno() or not self._obey():
                    return

    def _obey(self) -> bool:
        """Carry out one message of the parent; False when it is gone."""
        try:
            data, ancillary, _, _ = self._control.recvmsg(64, socket.CMSG_SPACE(_FDS_PER_SPAWN * 4), _CLOEXEC)
        except OSError:
            return False
        if not data:
            return False
        operation, ident, index, serial = MESSAGE.unpack(data)
        if operation == SPAWN:
            fds = array.array("i")
            for _, _, raw in ancillary:
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
            self._spawn(ident, index, serial, list(fds))
        elif operation == REAP:
            self._reap(ident)
        return True

    def _spawn(self, ident: int, index: int, serial: int, fds: list[int]) -> None:
        """Fork a worker. Every page written to here is copied once more after each fork, so all that can be left to
        `_prepare` or to the worker is."""
        if ident in self._pids:
            # an order repeated after a signal cut the parent short: two workers on one channel would each get half of it
            _close_open(fds)
            return
        lifeline_write = -1
        mask = signals.change_mask(signals.BLOCK, ())
        try:
            if len(fds) != _FDS_PER_SPAWN:
                raise OSError(errno.EMFILE, "the worker's descriptors were dropped on the way")
            lifeline_read, lifeline_write = os.pipe()
            fds.append(lifeline_read)
            # what reaches the worker before it has handlers of its own must wait, and not be ignored as it would be here
            signals.change_mask(signals.BLOCK, self._inherited)
            pid = os.fork()
            if pid:
                signals.change_mask(signals.SET_MASK, mask)
        except OSError as exc:
            signals.change_mask(signals.SET_MASK, mask)
            _close_open([*fds, lifeline_write])
            self._send(NOT_STARTED, ident, exc.errno or 0)
            return
        if pid == 0:
            self._become_worker(index, serial, fds, lifeline_write)
        _close_open(fds)
        self._alive[pid] = ident
        self._pids[ident] = pid
        self._lifelines[ident] = lifeline_write
        self._send(STARTED, ident, pid)

    def _become_worker(self, index: int, serial: int, fds: list[int], lifeline_write: int) -> NoReturn:
        self._in_worker = True
        signal.set_wakeup_fd(-1)
        for signum, handler in self._inherited.items():
            signals.set_handler(signum, handler)
        signals.change_mask(signals.SET_MASK, ())
        # A sibling's lifeline end, kept here, would keep the sibling alive after the template's death. The control
        # socket goes by its number like the rest: what `socket.close` touches is twenty pages to copy.
        ours = [self._control.fileno(), lifeline_write, self._wake_write, self._parent_fd]
        _close_open([*ours, *self._lifelines.values()])
        process = self._process
        process._name = f"{self._name_prefix}-{serial}"
        process.index = index
        process._identity = (*self._identity, serial)
        mp_process._parent_process._sentinel = fds[-1]  # type: ignore[attr-defined]  # not published, as what follows
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
        if self._has_hooks:
            util._run_after_forkers()  # type: ignore[attr-defined]
        sock_fd, pipe_fd, scoreboard_fd, lifeline_read = fds
        far_end = FarEnd(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, sock_fd), [pipe_fd])
        scoreboard = Scoreboard(scoreboard_fd)
        scoreboard.close_fd()
        main.serve(far_end, scoreboard, self._settings, self._snapshot, lifeline_read)

    def _report_exits(self) -> None:
        for pid, ident in list(self._alive.items()):
            result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if result is not None:
                del self._alive[pid]
                code = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
                self._send(EXITED, ident, code)

    def _reap(self, ident: int) -> None:
        pid = self._pids.pop(ident, None)
        if pid is not None:
            os.waitpid(pid, 0)
            os.close(self._lifelines.pop(ident))

    def _send(self, operation: int, ident: int, value: int) -> None:
        try:
            self._control.sendall(MESSAGE.pack(operation, ident, value, 0), NO_SIGNAL)
        except ConnectionError:
            pass  # the parent is gone, and the loop is about to see it: no traceback into a program that has ended


def _ignore_all() -> dict[int, Any]:
    """Ignore what a signal to all processes of a program (``pkill -HUP program``) would do to the template: end it, and with
    it every worker, or run the parent's handler in it. Returns what was in force, for the workers."""
    usual = {signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, TERM_SIGNAL}
    inherited = {}
    for signum in range(1, signal.NSIG):
        handler = signals.get_handler(signum)
        if (signum in usual or callable(handler)) and signum != signal.SIGCHLD and handler is not None:
            inherited[signum] = handler
            signals.set_handler(signum, signals.IGNORE)
    return inherited


def _close_open(fds: list[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass


def _stdin_from_nowhere() -> None:
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
    except OSError:
        pass


def _forget_executors() -> None:
    """Those of `concurrent.futures` join at the interpreter's exit, and so at a worker's, all threads that they have started.
    None of these is here but the one that has made the pool, if one has: that is us, and joining ourselves would fail."""
    for module, name in (("thread", "_threads_queues"), ("process", "_threads_wakeups")):
        threads = getattr(sys.modules.get(f"concurrent.futures.{module}"), name, None)
        if threads is not None:
            threads.clear()


def _nothing() -> None:
    pass


def _fork(pids: list[int]) -> None:
    """Fork, and put the child's pid into `pids`: in a local it would be lost when a signal's handler raises, and its process
    never reaped.

    Signals wait, since a handler that raises in the midst of it, where `logging` and others have taken their locks for the
    fork, leaves them taken for ever. And nobody imports cloudpickle meanwhile: the child would wait for that import for ever.
    """
    masks: list[Any] = []
    with pickling.import_lock:
        try:
            masks.extend(map(signals.change_mask, (signals.BLOCK,), (_ALL_SIGNALS,)))
            pids.extend(itertools.starmap(os.fork, ((),)))
        finally:
            for mask in masks:
                signals.change_mask(signals.SET_MASK, mask)


def fork_template(
    settings: WorkerSettings, snapshot: MainSnapshot, name_prefix: str, pids: list[int]
) -> socket.socket:  # fmt: skip
    """Fork a template off this process. Puts its pid into `pids`, and returns the parent's end of its control socket
    (non-blocking)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(None)  # whatever `socket.setdefaulttimeout` says
    parent_pid = os.getpid()
    try:
        util._flush_std_streams()  # type: ignore[attr-defined]  # not published
        _fork(pids)
        if pids[-1] == 0:
            os.close(ours.detach())  # see `_become_worker`
            Template(theirs, settings, snapshot, name_prefix).run()
    except BaseException:
        if os.getpid() != parent_pid:
            os._exit(EX_FAILURE)  # Ctrl-C before it ignored that: it must not go on as a second copy of the program
        ours.close()
        theirs.close()
        raise
    theirs.close()
    ours.setblocking(False)
    return ours
