"""What a signal has raised inside a ``__del__`` or a weakref's callback, where Python drops it, is raised once more.

May: replace `sys.unraisablehook`, and signal the main thread. May not: know what is raised; the signal's handler does.

A soft time limit that ended so would let its task run on, and a worker told to go would stay as long as its task. The
hook itself cannot raise, so it has the signal sent again. That may come while the hook still runs, where an exception
is dropped for good; so the handler asks `too_early`, and the signal is sent until it is not.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from .._typing import Any

#: A signal that is never answered (its handler was replaced by the task) is given up after this time.
GIVE_UP_S = 5.0

#: How long after the answer one signal too many may still be under way.
STRAY_S = 0.01


class SignalRetry:
    """The hook of one worker process. `signal_for` gives the signal by which an exception would come again, or None."""

    def __init__(self, signal_for: Callable[[BaseException | None], int | None]) -> None:
        self._signal_for = signal_for
        self._senders: set[threading.Thread] = set()
        self._answered = self._early = False

    def install(self) -> None:
        """From now on. Call it in the main thread, where signals are handled."""
        self._main = threading.get_ident()
        self._outer_hook, sys.unraisablehook = sys.unraisablehook, self._hook

    def is_sending(self) -> bool:
        """Whether a signal that arrives now may be from here, even if it is one too many."""
        return bool(self._senders)

    def too_early(self, signum: int, frame: FrameType | None) -> bool:
        """For handlers, before they raise: whether that would be in vain. If so the signal comes again."""
        inside = False
        while frame is not None and not inside:
            inside = frame.f_code is SignalRetry._hook.__code__
            frame = frame.f_back
        if inside and not self._senders:
            self._send_again(signum)
        self._early, self._answered = inside, True
        return inside

    def _hook(self, unraisable: Any) -> None:
        signum = self._signal_for(unraisable.exc_value) if threading.get_ident() == self._main else None
        if signum is None:
            self._outer_hook(unraisable)
        else:
            self._send_again(signum)

    def _send_again(self, signum: int) -> None:
        sender = threading.Thread(target=self._send, args=(signum,), daemon=True)
        self._senders.add(sender)
        sender.start()

    def _send(self, signum: int) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        early = True
        while early and time.monotonic() < deadline:
            self._answered, pause_s = False, 0.001
            while not self._answered and time.monotonic() < deadline:
                # Until it is answered: one that comes just before a system call does not interrupt it. To the main
                # thread, which blocks some signals in order to leave in peace; any other thread would take them.
                signal.pthread_kill(self._main, signum)
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, 0.05)
            early = self._early
        time.sleep(STRAY_S)
        self._senders.discard(threading.current_thread())
