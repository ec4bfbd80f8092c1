"""Workers from their start until they are reaped: the core's orders are carried out here, and what became of them is told back.

Death is told by the process, never by the end of a channel (a grandchild may hold that open): first *all* that the
worker sent is read, then what it still held is judged, then its pid is given free.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from .._core import outbox
from .._core.core import Core
from .._core.state import Phase, Worker
from .._core.worker_set import PoolState
from .._typing import Final
from .._wire.errors import clear_frames
from .._wire.exit_status import spends_restart
from .._worker.signals import SOFT_SIGNAL
from . import log
from .channels import Channels
from .launching import ALL_LOST, EXITED, NO_FD, NOT_STARTED, STARTED, Launcher
from .poll_set import PollSet
from .worker_link import Sentinel, WorkerLink

_WARN_AGAIN_S: Final = 60.0  # of the same shortage, which each try meets anew


class Processes:
    """The processes of one pool's workers."""

    launcher: Launcher  # how they are started; set when all that it tells can be received

    def __init__(self, core: Core, poll_set: PollSet, channels: Channels) -> None:
        self._core = core
        self._poll_set = poll_set
        self._channels = channels
        self.exits: dict[Worker, None] = {}  # ended, and not reaped yet
        self._orphans: list[int] = []  # pids of workers that outlive the template: where we adopt them (PID 1), we reap them
        self._warn_at = 0.0  # not before then, that a worker cannot be started

    # -- orders

    def obey(self, order: str, worker: Worker, number: int, now: float) -> None:
        """Carry out one order of the core. Repeatable."""
        if order == outbox.SPAWN:
            self._spawn(worker, now)
        elif order == outbox.RETIRE:
            if worker.link is None:
                self._core.worker_set.exited(worker, 0, now)  # never spawned
            self._core.dispatch.unwritten[worker] = None
        elif order == outbox.KILL:
            self.kill(worker, number)
        elif order == outbox.INTERRUPT and worker.pid is not None and worker.phase <= Phase.KILLED:
            # without a pid it holds no call: its READY does not count before its pid is known
            send_signal(worker.pid, SOFT_SIGNAL, group=False)

    def kill(self, worker: Worker, signum: int) -> None:
        """Send a worker a lethal signal; one whose pid is not known yet gets it as soon as that is."""
        if worker.phase is Phase.GONE or worker.link is None:
            return
        if worker.pid is None:
            worker.link.kill_on_start = signum
        elif not worker.link.exited:
            # only SIGKILL goes to the task's own children too: a catchable signal is a message for the task
            send_signal(worker.pid, signum, group=signum == signal.SIGKILL)
        self.launcher.hear_of_end()

    def sentinel_of(self, worker: Worker) -> Sentinel | None:
        """See `Engine.sentinel_of`."""
        link: WorkerLink | None = worker.link
        if link is None:
            return None
        if link.sentinel is None and worker.pid is not None and hasattr(os, "pidfd_open"):
            with contextlib.suppress(ProcessLookupError):
                link.sentinel = Sentinel(worker.pid)
        return link.sentinel

    def _spawn(self, worker: Worker, now: float) -> None:
        if worker.phase is not Phase.STARTING and worker.link is None:
            self._core.worker_set.exited(worker, None, now)  # told to go before it was made
            return
        # One that has a link is started even if it was told to go meanwhile: an exception cut its start short, a process may
        # be there, and only its exit ends the worker.
        link = None
        try:
            link = worker.link or WorkerLink(self._poll_set.waiting_callers)
            worker.link, worker.scoreboard = link, link.scoreboard
            if not link.registered:
                self._poll_set.watch(link.channel.fd, worker)
                link.registered = True
            if link.far_end is not None:
                self.launcher.start(worker, link.far_end, link.scoreboard)
        except OSError as exc:
            if link is not None:
                self._discard_unstarted(worker, link)
            self._not_spawned(worker, exc, now)
            return
        self.on_launcher(NO_FD, now)

    def _discard_unstarted(self, worker: Worker, link: WorkerLink) -> None:
        self._channels.unwatch_channel(link)
        worker.link = worker.scoreboard = None
        link.close()

    def _not_spawned(self, worker: Worker, error: OSError, now: float) -> None:
        if now >= self._warn_at and self._core.worker_set.pool_state is PoolState.RUN:
            self._warn_at = now + _WARN_AGAIN_S
            # its text alone: a handler may keep what it is given, and with an error all that led to it
            log.warning("a worker cannot be started, and the pool has fewer of them until it can: %s", str(error))
        _let_go(error)
        self._core.not_spawned(worker, error, now)

    # -- what the launcher tells

    def on_launcher(self, fd: int, now: float) -> None:
        """Apply what the launcher knows by `fd`, or with NO_FD what it knew at once. Repeatable."""
        events = self.launcher.events(fd)
        for what, ident, value in events:
            self._on_event(what, ident, value, now)
        self.launcher.applied(len(events))

    def _on_event(self, what: int, ident: int, value: int, now: float) -> None:
        if what == ALL_LOST:
            self._all_lost()
            return
        if what == STARTED and self._orphans:
            self.reap_orphans()
        worker = self._core.worker_set.workers.get(ident)
        if worker is None:
            return
        link: WorkerLink | None = worker.link
        if what == NOT_STARTED:
            if link is not None:  # else this is a repetition
                self._discard_unstarted(worker, link)
            self._not_spawned(worker, OSError(value, os.strerror(value)), now)
        elif link is None:
            return
        elif what == STARTED:
            worker.pid = value
            link.started()
            if link.kill_on_start:
                self.kill(worker, link.kill_on_start)
            if link.ready_early:
                self._core.worker_set.ready(worker)
        elif what == EXITED:
            link.exited, link.exit_status, link.reaped_elsewhere = True, value, value is None
            self.exits[worker] = None

    def _all_lost(self) -> None:
        """The template died, and its workers with it."""
        if self._core.worker_set.pool_state is PoolState.RUN:
            log.warning("the template process of a pool died; its workers are replaced")
        for worker in list(self._core.worker_set.workers.values()):
            if worker.link is not None and not worker.link.exited:
                if worker.pid is not None:
                    worker.link.exit_status = -signal.SIGKILL  # the lifeline has done it, or is doing it, to its whole group
                    self._orphans.append(worker.pid)
                worker.link.exited = worker.link.reaped_elsewhere = True
                self.exits[worker] = None
        self._channels.functions.renew(self.launcher.snapshot)
        self.launcher.lost()

    def reap_orphans(self, patience_s: float = 0.0) -> None:
        """Of those that were adopted, the ones that have ended by now, or do within `patience_s` seconds."""
        until = time.monotonic() + patience_s
        for pid in list(self._orphans):
            try:
                while not (ended := os.waitpid(pid, os.WNOHANG) != (0, 0)) and time.monotonic() < until:
                    time.sleep(0.001)
            except ChildProcessError:
                ended = True  # somebody else's
            if ended:
                self._orphans.remove(pid)

    def reap(self, worker: Worker, now: float) -> None:
        """Drain, judge, free the pid: in this order, and each step may be repeated."""
        link: WorkerLink | None = worker.link
        if link is not None:
            if not link.channel.closed_by_peer:
                self._channels.drain(worker)
            unjudged = worker.phase is not Phase.GONE and not link.reaped_elsewhere
            if worker.pid is not None and unjudged and _left_a_task(worker, link.exit_status):
                send_signal(worker.pid, signal.SIGKILL, group=True)  # what its task left behind
            self._core.worker_set.exited(worker, link.exit_status, now, link.failure)
            self.launcher.reap(worker)
            self._discard_reaped(worker, link)
        self.exits.pop(worker, None)

    def give_up(self, worker: Worker, now: float) -> None:
        """The pool is given up before the end of this worker is heard of, which was sent SIGKILL. Repeatable."""
        link: WorkerLink | None = worker.link
        if link is not None and not link.channel.closed_by_peer:
            self._channels.drain(worker)
        if worker.pid is not None:
            self._orphans.append(worker.pid)
        self._core.worker_set.exited(worker, -signal.SIGKILL, now)
        if link is not None:
            self._discard_reaped(worker, link)

    def _discard_reaped(self, worker: Worker, link: WorkerLink) -> None:
        if link.registered:
            self._channels.unwatch_channel(link)
        worker.scoreboard = None
        link.close()
        worker.link = None


def _let_go(error: BaseException | None) -> None:
    """Of what the calls held that led to `error`: it may become the cause of an error that somebody keeps, and with them
    descriptors would stay open. Not of its context: that may be what the caller, who drives, was just handling."""
    while error is not None:
        clear_frames(error)
        error = error.__cause__


def _left_a_task(worker: Worker, status: int | None) -> bool:
    """Whether a worker that has ended did so in the midst of a task, whose children must not survive it. By its status alone,
    one that a task has ended by ``os._exit(0)`` had nothing to do any more."""
    return spends_restart(status) or worker.current_job is not None


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
