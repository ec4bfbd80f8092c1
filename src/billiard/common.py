"""What parent and child agree on: the terminating signal, clean shutdown by signal, restart intensity.

A leaf: standard library and ``exceptions`` only.  The signal tables are module attributes read when a function
runs, not when it is defined, because embedders (and tests) replace them.
"""

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable
from io import BytesIO
from time import monotonic
from types import FrameType

from ._typing import Any
from .exceptions import RestartFreqExceeded

__all__ = [
    "EX_SOFTWARE",
    "REMAP_SIGTERM",
    "SIGMAP",
    "TERMSIGS_DEFAULT",
    "TERMSIGS_FORCE",
    "TERMSIGS_FULL",
    "TERMSIGS_IGNORE",
    "TERM_SIGNAL",
    "TERM_SIGNAME",
    "clear_terminate_handler_fired",
    "human_status",
    "maybe_setsignal",
    "pickle_load",
    "pickle_loads",
    "reset_signals",
    "restart_state",
    "signum",
    "terminate_handler_fired",
]

pickle_load = pickle.load

#: Name of the signal that takes SIGTERM's part (``REMAP_SIGTERM=SIGQUIT`` makes a worker shut down on SIGQUIT).
REMAP_SIGTERM = os.environ.get("REMAP_SIGTERM")
TERM_SIGNAME = REMAP_SIGTERM or "SIGTERM"
TERM_SIGNAL = getattr(signal, TERM_SIGNAME)

#: Signals ignored, and signals handled even where the current handler says "ignore".
TERMSIGS_IGNORE: set[str] = {"SIGTERM"} if REMAP_SIGTERM else set()
TERMSIGS_FORCE: set[str] = {"SIGQUIT"} if REMAP_SIGTERM else set()

TERMSIGS_DEFAULT: Iterable[str] = {"SIGHUP", "SIGQUIT", TERM_SIGNAME, "SIGUSR1"}
TERMSIGS_FULL: Iterable[str] = {
    "SIGHUP",
    "SIGQUIT",
    "SIGTRAP",
    "SIGABRT",
    "SIGEMT",
    "SIGSYS",
    "SIGPIPE",
    "SIGALRM",
    TERM_SIGNAME,
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGUSR1",
    "SIGUSR2",
}

#: Signal number to name; an enum knows one canonical name per number (SIGABRT, not SIGIOT).
SIGMAP: dict[int, str] = {int(member): member.name for member in signal.Signals}

#: Exit status of a process told twice to stop while it was cleaning up (sysexits.h).
EX_SOFTWARE = 70

_should_have_exited = [False]


def human_status(status: int | None) -> str:
    """Say an exit code the way a person would: ``signal 9 (SIGKILL)`` or ``exitcode 1``."""
    if status is not None and status < 0:
        name = SIGMAP.get(-status)
        return f"signal {-status} ({name})" if name else f"signal {-status}"
    return f"exitcode {status}"


def pickle_loads(s: Any, load: Callable[[BytesIO], Any] = pickle_load) -> Any:
    """Unpickle from any bytes-like object."""
    return load(BytesIO(s))


def signum(name: str) -> int | None:
    """The number of the signal called ``name``, or ``None`` where this platform lacks it."""
    return getattr(signal, name, None)


def maybe_setsignal(signum: int, handler: Any) -> None:
    """Install ``handler`` if that is possible here.

    Not possible: an unknown or uncatchable signal, or any thread but the main one. A worker must start all the same.
    """
    try:
        signal.signal(signum, handler)
    except (OSError, AttributeError, ValueError, RuntimeError):
        pass


def _shutdown_cleanup(signum: int, frame: FrameType | None) -> None:
    """Handler of the terminating signals: unwind the stack once, then stop asking.

    The signal goes back to its default first, so that sending it again kills; *another* terminating signal during
    clean-up ends the process at once.
    """
    if _should_have_exited[0]:
        os._exit(EX_SOFTWARE)
    maybe_setsignal(signum, signal.SIG_DFL)
    _should_have_exited[0] = True
    sys.exit(-(256 - signum))


def terminate_handler_fired() -> bool:
    """Whether a terminating signal has arrived, so that a worker can tell it from a ``sys.exit`` of its task."""
    return _should_have_exited[0]


def clear_terminate_handler_fired() -> None:
    """Forget it: a forked child inherits the flag, and its parent's shutdown is not its own."""
    _should_have_exited[0] = False


def reset_signals(handler: Callable[[int, FrameType | None], Any] = _shutdown_cleanup, full: bool = False) -> None:
    """Make the terminating signals unwind the stack, leaving alone what is ignored or not Python's."""
    for name in TERMSIGS_FULL if full else TERMSIGS_DEFAULT:
        num = signum(name)
        if num is None:
            continue
        # None: a handler installed from C, which only its owner may replace.
        if name in TERMSIGS_FORCE or _is_replaceable(num):
            maybe_setsignal(num, handler)
    for name in TERMSIGS_IGNORE:
        num = signum(name)
        if num is not None:
            maybe_setsignal(num, signal.SIG_IGN)


def _is_replaceable(num: int) -> bool:
    current = signal.getsignal(num)
    return current is not None and current != signal.SIG_IGN


class restart_state:  # noqa: N801 - the published name
    """A restart *rate*: at most ``maxR`` restarts in ``maxT`` seconds. ``maxR`` of ``None`` or 0 means unlimited."""

    RestartFreqExceeded = RestartFreqExceeded

    def __init__(self, maxR: int | None, maxT: float) -> None:  # noqa: N803 - the published names
        self.maxR, self.maxT = maxR, maxT
        self.R: int = 0
        self.T: float | None = None

    def __repr__(self) -> str:
        return f"<restart_state: {self.R} of {self.maxR} in {self.maxT}s>"

    def step(self, now: float | None = None) -> None:
        """Count one restart, or raise :class:`RestartFreqExceeded` if it is one too many."""
        now = monotonic() if now is None else now
        if self.T is not None and now - self.T >= self.maxT:
            self.T, self.R = now, 0
        elif self.maxR and self.maxR <= self.R:
            count, self.R = self.R, 0  # the next window starts fresh, for whoever survives the error
            raise self.RestartFreqExceeded(f"{count} in {self.maxT}s")
        if self.T is None:
            self.T = now
        self.R += 1
