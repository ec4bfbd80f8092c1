"""A child that a task forks is not the worker, whoever forks it: the task itself, multiprocessing, a library.

It may come back from the task, or be left by `sys.exit`, and would go on with the calls that the worker holds, answer them, and
note them on the worker's scoreboard. So its ends of the channel lead nowhere, the scoreboard is gone for it, and it leaves as
soon as it is through with the call (see `Loop.after_fork`). Signals mean to it what they mean to any process. And it may
outlive the worker: the lifeline is that one's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

from .._typing import Any
from .._wire.far_end import FarEnd
from . import signals
from .loop import Loop

_OURS = (int(signal.SIGTERM), int(signals.SOFT_SIGNAL))


class ForkHooks:
    """The hooks of one worker."""

    def __init__(self, far_end: FarEnd, lifeline_fd: int) -> None:
        self.loop: Loop | None = None  # when there is one
        self._far_end = far_end
        self._lifeline_fd = lifeline_fd
        self._masks: dict[int, Any] = {}  # by thread
        self._in_worker = True  # of what a child forks in turn nothing is the worker's, and the numbers may be somebody else's
        os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._after_in_child)

    def _before(self) -> None:
        # One that reached the child while it still has our handlers would be lost: CPython forgets what is pending there.
        if self._in_worker:
            self._masks[threading.get_ident()] = signals.change_mask(signals.BLOCK, _OURS)

    def _after(self) -> None:
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
        self._after()


def _occupy(fd: int) -> None:
    """Let the number lead nowhere: the worker's code in this child may still write to it."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != fd:
        try:
            os.dup2(null, fd, inheritable=False)
        finally:
            os.close(null)
