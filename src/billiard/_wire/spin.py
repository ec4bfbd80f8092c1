"""Spin, then sleep: look again and again for a moment, where being woken costs more than what is waited for takes.

A processor with nothing to do halts, and a virtual one takes 30 to 50 us to come back: a receiver that sleeps pays that for
every message, a sender for every call that wakes it. An answer of 10 us is better awaited awake (docs/decisions/engine.md
has the figures).

What it may cost is bounded. A wait spins for at most SPIN_S, about twice what two sleeps cost. One that spun in vain is not
repeated for the next 1, 3, 7 ... 127 waits, and then for half as long, and each success forgives one failure: so hardly
anything is spent where less than half of the answers come in time, nor where both sides share a processor and the one that
spins is what keeps the other from answering. Who waits for long sleeps, and an idle pool wakes nobody.

Who has been idle for a while and is busy again must not sleep through 127 waits first. So sleeps are measured: after a pause,
each that was short enough for a spin takes three quarters of what is still to be skipped. Not after a spin that ended just
before the answer came: there it was the spin that kept the answer away.
"""

from __future__ import annotations

import os

from .._typing import Final

SPIN_S: Final = 200e-6
_MOST_SKIPPED: Final = 127


class SpinWait:
    """Whether the next wait of one waiter begins with a spin, and for how long."""

    __slots__ = ("_paused", "_penalty", "_skip", "_spun")

    def __init__(self) -> None:
        self._penalty = 0  # how many waits the last spin in vain made it skip
        # with a single processor, whoever spins keeps from running what it waits for
        self._skip: float = 0 if processors() > 1 else float("inf")
        self._spun = False  # in vain, and the sleep that follows is not over
        self._paused = False  # nothing came for long after the last spin in vain

    def seconds(self) -> float:
        """How long to spin this time. Counts the waits: ask once for each."""
        if self._skip:
            self._skip -= 1
            return 0.0
        return SPIN_S / 2 if self._penalty else SPIN_S

    def found(self) -> None:
        """The spin saved a sleep."""
        self._penalty //= 2

    def in_vain(self) -> None:
        """Nothing came while it spun."""
        self._skip = self._penalty = min(2 * self._penalty + 1, _MOST_SKIPPED)
        self._spun = True

    def slept(self, seconds: float) -> None:
        """The wait ended after a sleep of that length."""
        short = seconds < SPIN_S
        if self._spun:
            self._spun, self._paused = False, not short
        elif short and self._paused:
            self._skip //= 4


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
