"""What a worker's exit status means: the last thing it tells. Numbers only, for both sides."""

from __future__ import annotations

import enum

from .._typing import Final

EX_OK: Final = 0
EX_FAILURE: Final = 1
EX_RECYCLE: Final = 0x9B  # billiard's status of a worker that has done its share: recycled by task count or by memory


class ExitKind(enum.Enum):
    """How a worker ended."""

    UNKNOWN = "unknown"  # reaped by somebody else: the status is gone
    CLEAN = "clean"
    RECYCLED = "recycled"
    FAILED = "failed"  # left with a status of its own
    KILLED = "killed"  # by a signal


def classify_exit(status: int | None) -> ExitKind:
    """Name what is behind an exit status as ``Process.exitcode`` gives it (negative: a signal)."""
    if status is None:
        return ExitKind.UNKNOWN
    if status == EX_OK:
        return ExitKind.CLEAN
    if status == EX_RECYCLE:
        return ExitKind.RECYCLED
    return ExitKind.KILLED if status < 0 else ExitKind.FAILED


def is_expected(status: int | None, *, ordered: bool = False) -> bool:
    """True when nobody needs to hear of this exit: the worker was done, or the pool itself had ordered it to go."""
    return ordered or classify_exit(status) in (ExitKind.CLEAN, ExitKind.RECYCLED)


def spends_restart(status: int | None) -> bool:
    """True when replacing this worker counts against the restart intensity. Growing and recycling do not."""
    return classify_exit(status) not in (ExitKind.CLEAN, ExitKind.RECYCLED)


def signal_behind(exit_argument: int) -> int | None:
    """The signal whose handler asked to leave by ``sys.exit(-(256 - signum))``, or None for any other argument.

    Such a number must not reach the kernel as a status: ``-241 & 0xFF`` is 15, which reads as "left with 15" instead of
    "killed by SIGTERM".
    """
    signum = exit_argument + 256
    return signum if 0 < signum < 65 else None
