"""How much resident memory this process has gained, at its peak, since it was made.

Growth and not size: a worker forked from a parent of 2 GB starts with 2 GB resident that are not its own.
The peak and not the present: memory that a task took and freed again counts (Linux: VmHWM, reset at the start;
``ru_maxrss`` would carry the *parent's* peak over an exec).
"""

from __future__ import annotations

import resource
import sys

# plain open(): importing pathlib would cost every spawned worker 4 ms
# ruff: noqa: PTH123

_STATUS = "/proc/self/status"
_CLEAR_REFS = "/proc/self/clear_refs"
_RESET_PEAK = "5"


class PeakGrowth:
    """Call it for the kilobytes gained at the peak; with `in_total`, for the kilobytes resident at the peak."""

    def __init__(self, in_total: bool = False) -> None:
        try:
            with open(_CLEAR_REFS, "w") as clear_refs:
                clear_refs.write(_RESET_PEAK)
        except OSError:
            pass  # no /proc, or it may not be written: the peak before this moment is the base then
        self._base_kb = 0 if in_total else peak_kb()

    def __call__(self) -> int:
        return peak_kb() - self._base_kb


def peak_kb() -> int:
    """This process's peak resident memory in kilobytes."""
    try:
        with open(_STATUS, "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1])
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak
