"""What a worker's exit status means: the last thing it tells. Numbers only, for both sides."""

from __future__ import annotations

from .._typing import Final

EX_OK: Final = 0
EX_FAILURE: Final = 1
EX_RECYCLE: Final = 0x9B  # billiard's status of a worker that has done its share: recycled by task count or by memory


def spends_restart(status: int | None) -> bool:
    """Whether replacing this worker counts against the restart intensity. Growing and recycling do not."""
    return status not in (EX_OK, EX_RECYCLE)


def is_expected(status: int | None, *, ordered: bool = False) -> bool:
    """Whether nobody needs to hear of this exit: the worker was done, or the pool itself had ordered it to go."""
    return ordered or not spends_restart(status)


def signal_behind(exit_argument: int) -> int | None:
    """The signal whose handler asked to leave by ``sys.exit(-(256 - signum))``, or None for any other argument.

    Such a number must not reach the kernel as a status: ``-241 & 0xFF`` is 15, which reads as "left with 15" instead of
    "killed by SIGTERM".
    """
    signum = exit_argument + 256
    return signum if 0 < signum < 65 else None
