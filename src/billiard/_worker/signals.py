"""The signals of a worker.

    SIGINT            ignored: a terminal's Ctrl-C is the parent's business
    SIGTTIN, SIGTTOU  ignored: a worker leads a process group in the background, where reading the terminal
                      would stop it for ever
    SIGTERM           leaves by SystemExit, so that ``finally`` blocks and exit hooks run. With ``REMAP_SIGTERM`` the signal
                      that this names does; SIGTERM, which some platforms send to every process of a program, does nothing
    SIGUSR1           the soft limit: raises SoftTimeLimitExceeded in the call it is meant for, and in no other; and from
                      the worker itself: raises once more what Python has dropped (see `SoftLimit`)

SIGTERM and SIGUSR1 are installed after the initializer, since initializers (Celery's does) reset them.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import CodeType, FrameType, TracebackType

from .._typing import Any, Final
from .._wire.scoreboard import ANY_ITEM, ITEM, SOFT_COUNT, SOFT_ITEM, SOFT_NUMBER
from ..common import TERM_SIGNAL
from ..exceptions import SoftTimeLimitExceeded

SOFT_SIGNAL: Final = signal.SIGUSR1
_REMAPPED: Final = TERM_SIGNAL != signal.SIGTERM
_TAKEN: Final = (TERM_SIGNAL, signal.SIGTERM, SOFT_SIGNAL, signal.SIGCHLD)
_AGAIN_S: Final = 0.002  # from one signal to the next, at first, until what was dropped is raised
_AGAIN_AT_MOST_S: Final = 0.05
_DROPPING: Final[set[CodeType]] = set()
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


def dropping(hook: Callable[..., None]) -> Callable[..., None]:
    """Decorates what Python calls without passing on what is raised there. A handler of ours raises nothing in there; the hook
    itself has to see to it, as the last thing it does, that what `SoftLimit.is_due` is raised later."""
    _DROPPING.add(hook.__code__)
    return hook


def _would_drop(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code not in _DROPPING:
        frame = frame.f_back
    return frame is not None


def _spare(signum: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which the programs that a task starts would inherit."""


class Termination:
    """The terminating signal, turned into SystemExit once; the second one kills."""

    def __init__(self, asked: Callable[[], None]) -> None:
        """`asked` is called in the signal's handler, before it raises."""
        self.requested = False
        self.dropped = False  # raised, or held back, where Python drops exceptions: it is to be raised once more
        self._asked = asked

    def install(self) -> None:
        """Take the signal, unless the initializer gave it a handler of its own. (Celery's ignores the one that is named.)"""
        if _REMAPPED:
            set_handler(signal.SIGTERM, _spare)
        if _REMAPPED or get_handler(TERM_SIGNAL) == DEFAULT:
            set_handler(TERM_SIGNAL, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
        self._asked()
        signal.signal(signum, signal.SIG_DFL)
        self.dropped = True
        if not _would_drop(frame):
            self.raise_again()

    def raise_again(self) -> None:
        """Raise what was dropped. No signal is sent for it: a second one kills, as it must when it is the sender's."""
        if self.dropped:
            self.dropped = False
            raise SystemExit(128 + TERM_SIGNAL)

    def uninstall(self) -> None:
        """Give the signals their default back."""
        for signum in (TERM_SIGNAL, signal.SIGTERM):
            if get_handler(signum) in (self._handle, _spare):
                set_handler(signum, DEFAULT)

    def too_late(self) -> None:
        """The worker leaves by itself: the signal has nothing left to end, and raised in an exit hook it would be printed."""
        if get_handler(TERM_SIGNAL) == self._handle:
            set_handler(TERM_SIGNAL, IGNORE)

    def die_of_it(self) -> None:
        """End as if the signal had never been caught, so that the exit status says so."""
        signal.signal(TERM_SIGNAL, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [TERM_SIGNAL])
        os.kill(os.getpid(), TERM_SIGNAL)


class SoftLimit:
    """The aim of the soft-limit signal: it hits `running`, and the item of it that the scoreboard names, or nothing.

    What is raised inside a ``__del__`` or a weakref's callback is dropped there: the task would run on for ever, through its
    limit or a SIGTERM. So a thread, which is there for that long only, sends the soft-limit signal until its handler has
    raised the same where it counts: one signal may come while our hook still runs, or just before a system call, which it then
    does not interrupt. One too many finds nothing to raise.
    """

    def __init__(self, cells: memoryview, termination: Termination) -> None:
        self.running = 0  # the call on which the signal may act now; 0: none
        self._cells = cells
        self._raised = 0  # of the aims on the scoreboard, the last that was raised
        self._termination = termination

    def install(self) -> None:
        set_handler(SOFT_SIGNAL, self._handle)
        self._outer_hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable

    def uninstall(self) -> None:
        """Give the signal its default back."""
        set_handler(SOFT_SIGNAL, DEFAULT)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if _would_drop(frame):
            return
        self._termination.raise_again()
        if aim := self._aim():
            self._raised = aim
            raise SoftTimeLimitExceeded()

    def _aim(self) -> int:
        """The aim that is to be raised now, or 0."""
        cells, running = self._cells, self.running
        aim = cells[SOFT_COUNT]
        if running and aim != self._raised and cells[SOFT_NUMBER] == running and cells[SOFT_ITEM] in (cells[ITEM], ANY_ITEM):
            return aim
        return 0

    def came_early(self) -> None:
        """The signal for the call that begins now was sent when the scoreboard already named it: where it found nobody running
        it did nothing, and it will not be sent again."""
        self._handle(SOFT_SIGNAL, None)

    def is_due(self) -> bool:
        """Whether the signal would raise something now."""
        # a task's own handler must not hear of it, and the default one would kill
        ours = get_handler(SOFT_SIGNAL) == self._handle
        return ours and (self._aim() != 0 or self._termination.dropped)  # this order: nothing can come after the last look

    @dropping
    def _unraisable(self, unraisable: Any) -> None:
        ours = unraisable.exc_type if _raised_here(unraisable.exc_traceback) else None
        if ours is SystemExit:
            self._termination.dropped = True
        elif ours is SoftTimeLimitExceeded:
            self._raised = 0
        else:
            self._outer_hook(unraisable)
        if threading.current_thread() is threading.main_thread() and self.is_due():
            _thread.start_new_thread(self._signal_until_raised, (threading.get_ident(),))

    def _signal_until_raised(self, main: int) -> None:
        pause_s = _AGAIN_S
        while self.is_due():
            signal.pthread_kill(main, SOFT_SIGNAL)
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _AGAIN_AT_MOST_S)


def _raised_here(traceback: TracebackType | None) -> bool:
    """Whether a handler of ours has raised it: a task may raise the same by itself, which is for it to see."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_globals is globals()
