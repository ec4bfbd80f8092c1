"""A child that a task forks is not the worker, whoever forks it: the task itself, multiprocessing, a library.

It may come back from the task, or be left by `sys.exit`, and would go on with the calls that the worker holds, answer them, and
note them on the worker's scoreboard. So its ends of the channel lead nowhere, the scoreboard is gone for it, and it leaves as
soon as it is through with the call (see `Loop.after_fork`). Signals mean to it what they mean to any process. And it may
outlive the worker: the lifeline is that one's.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import signal
import threading

from .._typing import Any
from .._wire.far_end import FarEnd
from ..common import TERM_SIGNAL
from . import signals
from .loop import Loop

_OURS = (int(TERM_SIGNAL), int(signal.SIGTERM), int(signals.SOFT_SIGNAL))


class ForkHooks:
    """The hooks of one worker."""

    def __init__(self, far_end: FarEnd, lifeline_fd: int) -> None:
        self.loop: Loop | None = None  # when there is one
        self._far_end = far_end
        self._lifeline_fd = lifeline_fd
        self._masks: dict[int, Any] = {}  # by thread
        self._in_worker = True  # of what a child forks in turn nothing is the worker's, and the numbers may be somebody else's
        self._again: list[int] = []  # the signal whose handler is to run once more, when there is one
        os.register_at_fork(before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child)
        # Python drops what is raised in a hook, so a handler that runs there, for what was blocked, raises nothing. It runs
        # again in the task, as soon as that has its fork: this hook marks the signal as arrived, for each element of the list,
        # and is no Python code, in which the handler would run at once. (A thread that signals later, as for `__del__`, makes
        # Python 3.12 warn that the process has threads; and what strikes while it prints that is lost.)
        os.register_at_fork(after_in_parent=functools.partial(self._again.sort, key=_thread.interrupt_main))

    @signals.dropping
    def _before(self) -> None:
        # One that reached the child while it still has our handlers would be lost: CPython forgets what is pending there.
        if self._in_worker:
            # Noted first: where a handler of the task's raises out of the second call they are blocked, and would stay so.
            self._masks[threading.get_ident()] = signals.change_mask(signals.BLOCK, ())
            signals.change_mask(signals.BLOCK, _OURS)

    @signals.dropping
    def _after_in_parent(self) -> None:
        self._unblock()
        self._again[:] = (signals.SOFT_SIGNAL,) if self.loop is not None and self.loop.is_signal_due() else ()

    def _unblock(self) -> None:
        mask = self._masks.pop(threading.get_ident(), None)
        if mask is not None:
            signals.change_mask(signals.SET_MASK, mask)

    def _after_in_child(self) -> None:
        if not self._in_worker:
            return
        self._in_worker = False
        if self.loop is not None:
            self.loop.after_fork()
        for fd in self._far_end.fds:
            with contextlib.suppress(OSError):  # closed by the task, perhaps with all others
                os.close(fd)
            with contextlib.suppress(OSError):  # there are too many: nothing has its number then
                _occupy(fd)
        with contextlib.suppress(OSError):  # as above
            os.close(self._lifeline_fd)
        self._unblock()


def _occupy(fd: int) -> None:
    """Let the number lead nowhere: the worker's code in this child may still write to it."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != fd:
        try:
            os.dup2(null, fd, inheritable=False)
        finally:
            os.close(null)
