"""A worker's life from its first instruction of ours to its exit."""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing import process as mp_process
from multiprocessing import util

from .._typing import Final, NoReturn
from .._wire import errors, frames
from .._wire.exit_status import EX_FAILURE
from .._wire.far_end import FarEnd
from .._wire.pickling import MainSnapshot
from .._wire.scoreboard import Scoreboard
from ..common import TERM_SIGNAL
from . import lifeline, signals
from .fork_hooks import ForkHooks
from .loop import Loop
from .settings import WorkerSettings

_CHILDREN_FIRST: Final = sys.version_info < (3, 13)  # a child of multiprocessing joins its children before its threads
LEAVE_GRACE_S: Final = 1.0  # for the threads and processes of its tasks, once a worker has nothing else to do


def serve(
    far_end: FarEnd, scoreboard: Scoreboard, settings: WorkerSettings, snapshot: MainSnapshot, lifeline_fd: int
) -> NoReturn:  # fmt: skip
    """Be a worker, whose signals are as `signals.before_initializer` leaves them.

    Leaves by SystemExit with the worker's exit status, or dies of the SIGTERM it was sent.
    """
    _lead_own_group()
    lifeline.tie(lifeline_fd)
    _reseed()
    hooks = ForkHooks(far_end, lifeline_fd)
    status = EX_FAILURE
    loop: Loop | None = None
    try:
        try:
            if settings.initializer is not None:
                settings.initializer(*settings.initargs)
            loop = hooks.loop = Loop(far_end, scoreboard, settings, snapshot)
        except BaseException as exc:
            error = errors.encode(exc, snapshot)
            far_end.send(frames.FAILED, 0, 0, [error], len(error))
        else:
            try:
                status = loop.run()
            except BaseException:
                # The process may stay, for a thread of a task's that is no daemon. The parent must see that it serves no more.
                if not loop.termination.requested:
                    far_end.close()
                raise
            loop.termination.too_late()
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else EX_FAILURE
    except OSError:
        status = EX_FAILURE  # the channel broke: the parent is gone or has given this worker up
    finally:
        terminated = loop is not None and loop.termination.requested
        try:
            if settings.on_process_exit is not None:
                settings.on_process_exit(os.getpid(), -TERM_SIGNAL if terminated else status)
        finally:
            _leave_in_time(status, terminated)
        if _CHILDREN_FIRST and not terminated:
            _end_executors()
        if terminated and loop is not None:
            util._exit_function()  # type: ignore[attr-defined]  # what BaseProcess._bootstrap would do next
            util._flush_std_streams()  # type: ignore[attr-defined]  # not published
            loop.termination.die_of_it()
    raise SystemExit(status)


def _leave_in_time(status: int, terminated: bool) -> None:
    """A thread or a process that a task left, and that is no daemon, has a while to end. One that never ends would keep this
    one for ever, and with it `join`; with a quota of tasks there would be ever more of them."""
    if threading.active_count() > 1 or mp_process._children:  # type: ignore[attr-defined]  # not published
        last_act = threading.Timer(LEAVE_GRACE_S, _leave_at_once, (status, terminated))
        last_act.daemon = True
        last_act.start()


def _end_executors() -> None:
    """What multiprocessing does next is to join the processes that are left. Those of an executor (of `concurrent.futures`, of
    joblib) end only when that is told to, which would be after it."""
    for tell in reversed(threading._threading_atexits):  # type: ignore[attr-defined]  # not published
        tell()


def _leave_at_once(status: int, terminated: bool) -> None:
    try:
        util._flush_std_streams()  # type: ignore[attr-defined]  # not published
    finally:  # a pipe that nobody reads any more must not keep us
        if terminated:
            os.kill(os.getpid(), TERM_SIGNAL)  # which has its default action again
        os._exit(status & 0xFF)


def serve_spawned(
    far_end: FarEnd, scoreboard_fd: int, lifeline_fd: int, settings: WorkerSettings, importable_main: bool
) -> None:  # fmt: skip
    """`serve` for a process that multiprocessing started: everything came as arguments."""
    from multiprocessing import current_process

    errors.prepare()
    # daemonic for its parent, which then does not wait for it at exit; its tasks may start processes all the same
    current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # not published
    scoreboard = Scoreboard(scoreboard_fd)
    scoreboard.close_fd()
    for fd in (*far_end.fds, lifeline_fd):
        os.set_inheritable(fd, False)  # they came as descriptors that are: a task's programs would hold them open
    signals.before_initializer_of_spawned()
    serve(far_end, scoreboard, settings, MainSnapshot(importable_main), lifeline_fd)


def _lead_own_group() -> None:
    # a kill then takes the task's own children too, and a terminal's Ctrl-C reaches the parent only
    try:
        os.setpgid(0, 0)
    except OSError:
        pass  # already a session leader


def _reseed() -> None:
    # `random` reseeds itself after a fork, numpy's legacy generator does not: two workers would draw the same numbers
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
