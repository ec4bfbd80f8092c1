"""Every deadline of a pool, in one heap, with lazy deletion.

A worker's `due` says which of its deadlines are real; an entry of the heap that `due` does not
confirm is stale and dropped when it comes up. Setting a deadline twice leaves one stale entry, which
wakes the pool once and is gone. A heap that has doubled is cleared of stale entries: workers that live for
seconds, under limits of hours, would be remembered for hours after their end.
"""

from __future__ import annotations

import heapq
from itertools import count

from .._typing import Final
from .state import NEVER_S, Phase, Worker

_ROOM: Final = 64  # entries that are not worth looking through


class Timers:
    """The deadlines of one pool's workers, at most one of each kind for each worker."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Worker, str]] = []
        self._tie = count()
        self._room = _ROOM  # how long the heap may grow before the stale entries are dropped

    def set(self, worker: Worker, kind: str, when: float) -> None:
        """Let `kind` come up for `worker` at `when`, and at no other time."""
        if worker.due.get(kind) != when:
            # the entry first: cut short in between, the old deadline stays real and is dealt with again
            heapq.heappush(self._heap, (when, next(self._tie), worker, kind))
            worker.due[kind] = when
            if len(self._heap) > self._room:
                self._drop_stale()

    def _drop_stale(self) -> None:
        real = [entry for entry in self._heap if self._real(entry)]
        heapq.heapify(real)
        self._heap = real  # at once: cut short before, all is as it was
        self._room = max(_ROOM, 2 * len(real))

    def replace(self, worker: Worker, old: str, new: str, when: float) -> None:
        """Let `new` come up at `when`, and `old` not at all: both or neither, whatever cuts this short."""
        heapq.heappush(self._heap, (when, next(self._tie), worker, new))
        due = worker.due
        due[old], due[new] = NEVER_S, when

    def clear(self, worker: Worker, kind: str) -> None:
        """Let `kind` not come up for `worker`."""
        worker.due.pop(kind, None)

    def next(self) -> float | None:
        """When the earliest entry comes up (it may prove stale then). Changes nothing."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[tuple[Worker, str]]:
        """The real deadlines that have passed, in order. They stay until `done`, so asking again is safe."""
        heap = self._heap
        while heap and heap[0][0] <= now and not self._real(heap[0]):
            heapq.heappop(heap)
        if not heap or heap[0][0] > now:
            return []
        return [(entry[2], entry[3]) for entry in sorted(e for e in heap if e[0] <= now) if self._real(entry)]

    def done(self, worker: Worker, kind: str, now: float) -> None:
        """Say that a deadline was dealt with, unless dealing with it set it anew."""
        if worker.due.get(kind, now) <= now:
            worker.due.pop(kind, None)

    @staticmethod
    def _real(entry: tuple[float, int, Worker, str]) -> bool:
        when, _, worker, kind = entry
        return worker.phase is not Phase.GONE and worker.due.get(kind) == when

    def __len__(self) -> int:
        return len(self._heap)
