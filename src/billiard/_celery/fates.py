"""What becomes of a job that a dead worker held. The engine decides the same in `_core.staff`, with its board at hand."""

from __future__ import annotations

import enum

from .._core.staff import MAX_DEATHS_AT_RECEIPT


class JobFate(enum.Enum):
    """What becomes of one job that a dead worker held."""

    KEPT = "kept"  # it has its result already
    TERMINATED = "terminated"  # the pool struck the worker because of this job
    LOST = "lost"  # it had started; nobody may run it again
    RETURNED = "returned"  # it had not started: another worker takes it
    POISON = "poison"  # it had not started, but too many workers died of receiving it


def fate_of_job(*, ready: bool, started: bool, struck: bool = False, deaths_at_receipt: int = 0) -> JobFate:
    """Decide about one job of a dead worker, after everything the worker had sent was delivered.

    `deaths_at_receipt` counts the workers, this one included, that died unexpectedly while holding the job unstarted;
    one that leaves of its own accord (recycled, told to stop) has not looked at it.
    """
    if ready:
        return JobFate.KEPT
    if started:
        return JobFate.TERMINATED if struck else JobFate.LOST
    if deaths_at_receipt >= MAX_DEATHS_AT_RECEIPT:
        return JobFate.POISON
    return JobFate.RETURNED
