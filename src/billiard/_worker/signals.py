"""The signals of a worker.

    SIGINT            ignored: a terminal's Ctrl-C is the parent's business
    SIGTTIN, SIGTTOU  ignored: a worker leads a process group in the background, where reading the terminal
                      would stop it for ever
    SIGTERM           leaves by SystemExit, so that ``finally`` blocks and exit hooks run
    SIGUSR1           the soft limit: raises SoftTimeLimitExceeded in the call it is meant for, and in no other

SIGTERM and SIGUSR1 are installed after the initializer, since initializers (Celery's does) reset them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable

from .._typing import Any, Final
from .._wire.scoreboard import ANY_ITEM, ITEM, SOFT_COUNT, SOFT_ITEM, SOFT_NUMBER
from ..exceptions import SoftTimeLimitExceeded

SOFT_SIGNAL: Final = signal.SIGUSR1
_TAKEN: Final = (signal.SIGTERM, SOFT_SIGNAL, signal.SIGCHLD)
_RETURNED_S: Final = 0.002  # within which the interpreter is back from a hook
DEFAULT: Final = int(signal.SIG_DFL)
IGNORE: Final = int(signal.SIG_IGN)

try:
    # The same functions without what `signal` puts around them, which turns each number into an enum and back. In a process
    # that was just forked that is half a millisecond for all signals, and 100 KB of pages that it then no longer shares.
    import _signal as plain  # type: ignore[import-not-found]  # part of CPython, but unpublished: it has no types
except ImportError:
    plain = signal
set_handler: Callable[[int, Any], Any] = plain.signal
get_handler: Callable[[int], Any] = plain.getsignal
change_mask: Callable[[int, Iterable[int]], Any] = plain.pthread_sigmask
BLOCK: Final = int(signal.SIG_BLOCK)
SET_MASK: Final = int(signal.SIG_SETMASK)


def before_initializer() -> None:
    """Undo what a fork hands down: the parent's handlers are not ours."""
    _ignore_terminal()
    for signum in _TAKEN:
        set_handler(signum, DEFAULT)


def before_initializer_of_spawned() -> None:
    """The same for a new interpreter: it inherits what is ignored or blocked. A handler is its own (coverage's, perhaps, which
    has to see SIGTERM to save what it has)."""
    _ignore_terminal()
    for signum in _TAKEN:
        if get_handler(signum) == IGNORE:
            set_handler(signum, DEFAULT)
    change_mask(SET_MASK, ())


def _ignore_terminal() -> None:
    for signum in (signal.SIGINT, signal.SIGTTIN, signal.SIGTTOU):
        set_handler(signum, IGNORE)


class Termination:
    """SIGTERM, turned into SystemExit once; the second one kills."""

    def __init__(self, asked: Callable[[], None]) -> None:
        """`asked` is called in the signal's handler, before it raises."""
        self.requested = False
        self._asked = asked

    def install(self) -> None:
        """Take SIGTERM, unless the initializer gave it a handler of its own."""
        if get_handler(signal.SIGTERM) == DEFAULT:
            set_handler(signal.SIGTERM, self._handle)

    def _handle(self, signum: int, frame: object) -> None:
        self.requested = True
        self._asked()
        signal.signal(signum, signal.SIG_DFL)
        raise SystemExit(128 + signum)

    def uninstall(self) -> None:
        """Give SIGTERM its default back."""
        if get_handler(signal.SIGTERM) == self._handle:
            set_handler(signal.SIGTERM, DEFAULT)

    def too_late(self) -> None:
        """The worker leaves by itself: a SIGTERM has nothing left to end, and raised in an exit hook it would be printed."""
        if get_handler(signal.SIGTERM) == self._handle:
            set_handler(signal.SIGTERM, IGNORE)

    def die_of_it(self) -> None:
        """End as if SIGTERM had never been caught, so that the exit status says so."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGTERM)


class SoftLimit:
    """The aim of the soft-limit signal: it hits `running`, and the item of it that the scoreboard names, or nothing."""

    def __init__(self, cells: memoryview, rearm: Callable[[int], None]) -> None:
        self.running = 0  # the call on which the signal may act now; 0: none
        self._cells = cells
        self._raised = 0  # of the aims on the scoreboard, the last that was raised
        self._rearm = rearm
        self._asking = self._came = False  # for the signal once more; it came while we asked

    def install(self) -> None:
        set_handler(SOFT_SIGNAL, self._handle)
        self._outer_hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable

    def uninstall(self) -> None:
        """Give the signal its default back."""
        set_handler(SOFT_SIGNAL, DEFAULT)

    def _handle(self, signum: int, frame: object) -> None:
        cells, running = self._cells, self.running
        aim = cells[SOFT_COUNT]
        if running and aim != self._raised and cells[SOFT_NUMBER] == running and cells[SOFT_ITEM] in (cells[ITEM], ANY_ITEM):
            if self._asking:
                self._came = True  # raised in there it would be swallowed as well
                return
            self._raised = aim
            raise SoftTimeLimitExceeded()

    def came_early(self) -> None:
        """The signal for the call that begins now was sent when the scoreboard already named it: where it found nobody running
        it did nothing, and it will not be sent again."""
        self._handle(SOFT_SIGNAL, None)

    def _unraisable(self, unraisable: Any) -> None:
        # raised inside a __del__ or a weakref callback the exception ends here, and the task would run on for ever:
        # ask the parent to send the signal again
        swallowed = unraisable.exc_type is SoftTimeLimitExceeded
        if swallowed and self.running and threading.current_thread() is threading.main_thread():
            self._raised = 0
            self._asking, self._came = True, False
            self._rearm(self.running)
            if self._came:
                # the parent was faster than we are: again, as soon as we have returned
                again = threading.Timer(_RETURNED_S, os.kill, (os.getpid(), SOFT_SIGNAL))
                again.daemon = True
                again.start()
            self._asking = False
            return
        self._outer_hook(unraisable)
