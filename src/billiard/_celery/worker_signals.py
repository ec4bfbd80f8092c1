"""The signals of a legacy worker: where a soft time limit may raise, and how a SIGTERM that was dropped is raised again.

May: handle signals. May not: read or write a pipe.

The worker says what it is on (`_coming`, `_running`); the parent says in `soft_target` which job it means.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from types import FrameType

from .. import common
from .._typing import Any
from ..exceptions import SoftTimeLimitExceeded
from .signal_retry import SignalRetry

SIG_SOFT_TIMEOUT = signal.SIGUSR1


def soft_timeout_sighandler(signum: int, frame: FrameType | None) -> None:
    """Raise the soft time limit where the process stands. A worker's own handler first asks whether a task runs."""
    raise SoftTimeLimitExceeded()


@contextmanager
def blocked(signum: int) -> Any:
    """Have this thread not disturbed by a signal: it comes afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WorkerSignals:
    """The part of a legacy worker that handles its signals."""

    #: The job inside its task body now, as `soft_target` counts (job + 1); None outside. The soft limit's signal may
    #: only raise where it is set: raised anywhere else it would cost the worker, or tear a message in half.
    _running: int | None = None
    #: The same between acceptance and task body; a signal that comes in between is kept in `_struck` for the body.
    _coming: int | None = None
    _struck = False
    #: The job that the soft limit has interrupted.
    _interrupted: int | None = None

    #: From `after_fork` on.
    _signal_retry: SignalRetry | None = None
    #: It was told to leave once more (see `_leave_again`).
    _left = False

    #: A number shared with the parent (see `_on_soft_signal`), set by the pool before the process starts.
    soft_target: Any = None

    def _leave_parents_handler(self) -> None:
        """From now on the terminating signal, which was blocked for the start, ends this process."""
        if callable(signal.getsignal(common.TERM_SIGNAL)):
            common.maybe_setsignal(common.TERM_SIGNAL, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {common.TERM_SIGNAL})

    def _install_signals(self, full: bool) -> None:
        """Take the terminating signals (`full`: all of them) and the soft limit's, and ignore SIGINT."""
        common.reset_signals(full=full)
        self._signal_retry = SignalRetry(self._signal_for)
        common.maybe_setsignal(SIG_SOFT_TIMEOUT, self._on_soft_signal)
        common.maybe_setsignal(signal.SIGINT, signal.SIG_IGN)
        self._signal_retry.install()

    def _on_soft_signal(self, signum: int, frame: FrameType | None) -> None:
        """Raise in the task that is meant, and nowhere else.

        `soft_target` names the job that the parent means (job + 1), 0 when somebody else sent the signal, who can only
        mean the task that runs. A signal that comes after its task has ended is spent for nothing, as it should be.
        """
        again = self._signal_retry
        if again is not None and again.too_early(signum, frame):
            return
        target = 0
        if self.soft_target is not None:
            target, self.soft_target.value = self.soft_target.value, 0
        if target == 0 and again is not None and again.is_sending():
            return
        if self._running is not None and target in (0, self._running):
            # Once per task, also when the exception meets a second signal on its way out.
            self._interrupted, self._running = self._running, None
            raise SoftTimeLimitExceeded()
        if self._coming is not None and target in (0, self._coming):
            self._struck = True

    def _signal_for(self, exc: BaseException | None) -> int | None:
        """The signal by which `exc`, dropped inside a ``__del__``, comes again; None: it was not raised by one of ours."""
        if isinstance(exc, SystemExit) and common.terminate_handler_fired():
            status = exc.code
            # The handler that raised it has given way to the default, and would not do so a second time.
            common.maybe_setsignal(common.TERM_SIGNAL, lambda signum, frame: self._leave_again(status, signum, frame))
            return int(common.TERM_SIGNAL)
        if isinstance(exc, SoftTimeLimitExceeded) and self.soft_target is not None and self._interrupted is not None:
            self._running = self.soft_target.value = self._interrupted
            return SIG_SOFT_TIMEOUT
        return None

    def _leave_again(self, status: Any, signum: int, frame: FrameType | None) -> None:
        again = self._signal_retry
        if again is not None and again.too_early(signum, frame):
            return
        if not self._left:
            self._left = True
            raise SystemExit(status)
        if again is None or not again.is_sending():  # somebody insists
            common.maybe_setsignal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
