"""What an ending means: pure rules about exit statuses and about the jobs of a dead worker.

May: compare numbers and flags, and name the outcome.
May not: look at a clock, a process, a job object or the operating system, nor log. Both pools (the engine and the guest
room) ask here, so that a death is judged alike in both.
"""

from __future__ import annotations

import enum

EX_OK = 0
EX_FAILURE = 1
#: "I leave because I have done my share": recycled by task count or by memory.
EX_RECYCLE = 0x9B

#: A call at whose receipt this many workers died is the likely cause of the deaths: giving it to one more would let it
#: eat the pool for ever.
MAX_DEATHS_AT_RECEIPT = 3


class Ending(enum.Enum):
    """How a worker ended."""

    UNKNOWN = "unknown"  # reaped by somebody else: the status is gone
    CLEAN = "clean"
    RECYCLED = "recycled"
    FAILED = "failed"  # left with a status of its own
    KILLED = "killed"  # by a signal


def classify_exit(status: int | None) -> Ending:
    """Name the ending behind an exit status as ``Process.exitcode`` gives it (negative: a signal)."""
    if status is None:
        return Ending.UNKNOWN
    if status == EX_OK:
        return Ending.CLEAN
    if status == EX_RECYCLE:
        return Ending.RECYCLED
    return Ending.KILLED if status < 0 else Ending.FAILED


def is_expected(status: int | None, *, ordered: bool = False) -> bool:
    """True when nobody needs to hear of this exit: the worker was done, or the pool itself had ordered it to go."""
    return ordered or classify_exit(status) in (Ending.CLEAN, Ending.RECYCLED)


def spends_restart(status: int | None) -> bool:
    """True when replacing this worker counts against the restart intensity. Growing and recycling do not."""
    return classify_exit(status) not in (Ending.CLEAN, Ending.RECYCLED)


def signal_behind(exit_argument: int) -> int | None:
    """The signal whose handler asked to leave by ``sys.exit(-(256 - signum))``, or None for any other argument.

    Such a number must not reach the kernel as a status: ``-241 & 0xFF`` is 15, which reads as "left with 15" instead of
    "killed by SIGTERM".
    """
    signum = exit_argument + 256
    return signum if 0 < signum < 65 else None


class Fate(enum.Enum):
    """What becomes of one job that a dead worker held."""

    KEPT = "kept"  # it has its result already
    TERMINATED = "terminated"  # the pool struck the worker because of this job
    LOST = "lost"  # it had started; nobody may run it again
    RETURNED = "returned"  # it had not started: another worker takes it
    POISON = "poison"  # it had not started, but too many workers died of receiving it


def fate_of_job(*, ready: bool, started: bool, struck: bool = False, deaths_at_receipt: int = 0) -> Fate:
    """Decide about one job of a dead worker, after everything the worker had sent was delivered.

    `deaths_at_receipt` counts the workers, this one included, that died unexpectedly while holding the job unstarted;
    one that leaves of its own accord (recycled, told to stop) has not looked at it.
    """
    if ready:
        return Fate.KEPT
    if started:
        return Fate.TERMINATED if struck else Fate.LOST
    if deaths_at_receipt >= MAX_DEATHS_AT_RECEIPT:
        return Fate.POISON
    return Fate.RETURNED
