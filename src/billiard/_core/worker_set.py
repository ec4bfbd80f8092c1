"""How many workers there are, which of them may work, and what becomes of a dead one's calls.

The rule is a level, not a reaction: `reconcile` compares what there is with what there should be and orders the difference,
so an interrupted or repeated call does no harm. A worker counts towards the size while it starts and while it is up;
one that was told to leave, or struck, does not, so its replacement starts at once. To keep the pool's size a promise
about *concurrency* all the same, a worker works only on a *seat*: there are as many seats as the pool is large, and a
leaving worker keeps its own until it has nothing in flight.
"""

from __future__ import annotations

import enum
from collections import deque
from itertools import count

from .._typing import Any, Final
from .._wire.exit_status import EX_OK, spends_restart
from .dispatch import Dispatch
from .outbox import DOWN, RETIRE, SPAWN, UP, Outbox
from .preemption import Preemption
from .restarts import RestartIntensity
from .state import Cause, Fate, Job, Phase, Worker

FAILED_STARTS: Final = 3  # after as many failures in a row as the pool has workers, plus these, it is declared broken
_KILLED_FROM_OUTSIDE: Final = (-9, -15)
#: A call at whose receipt this many workers died is the likely cause of the deaths: giving it to one more would let it
#: eat the pool for ever.
MAX_DEATHS_AT_RECEIPT: Final = 3
FAILED_SPAWNS: Final = 12  # ... and after so many times in a row that no process could be made, when no worker is left


class PoolState(enum.IntEnum):
    """Of the pool."""

    RUN = 0
    CLOSE = 1  # takes no more jobs; ends when it has none
    TERMINATE = 2  # ends now
    BROKEN = 3  # cannot keep workers alive; every job fails with the reason


class WorkerSet:
    """The workers of one pool."""

    def __init__(
        self,
        size: int,
        dispatch: Dispatch,
        preemption: Preemption,
        outbox: Outbox,
        max_tasks_per_child: int | None = None,
        restarts: RestartIntensity | None = None,
    ) -> None:
        self.size = size
        self.pool_state = PoolState.RUN
        self.broken_by: Fate | None = None
        self.workers: dict[int, Worker] = {}  # by ident; all that are not GONE
        self.dirty = True  # something changed since `reconcile` last found everything as it should be: call it
        self.reading: set[int] = set()  # lazy maps by their number, whose input has more to give: the pool does not end before
        self.worker_died = False  # whether any has without being told to (see `Pool.did_start_ok`)
        self._dispatch = dispatch
        self._preemption = preemption
        self._outbox = outbox
        self._quota = max_tasks_per_child
        self._restarts = restarts
        self._idents = count(1)
        self._failed_starts = 0.0
        self._failed_spawns = 0
        self.respawn_at = 0.0  # no process is to be made before, since the last could not be
        self._unseated: deque[Worker] = deque()  # up, but without a seat
        preemption.on_kill = self.mark_dirty

    def mark_dirty(self) -> None:
        """Have `reconcile` look again."""
        self.dirty = True

    def resize(self, by: int) -> None:
        """So many workers more, or less."""
        self.size += by
        self.dirty = True

    def close(self) -> None:
        """Take no more jobs; end when there are none."""
        if self.pool_state is PoolState.RUN:
            self.pool_state = PoolState.CLOSE
        self.dirty = True

    # -- the level

    def reconcile(self, now: float) -> None:
        """Order what is missing, let go of what is too much."""
        if self.pool_state in (PoolState.TERMINATE, PoolState.BROKEN):
            if self._dispatch.backlog:
                self.fail_backlog(self.broken_by or Fate(Cause.POOL_TERMINATED))
            return
        if self.pool_state is PoolState.CLOSE:
            if self._finished():
                for worker in list(self.workers.values()):
                    self.retire(worker, EX_OK)
            held = [len(worker.inflight) for worker in self.workers.values() if worker.active]
            if not self._dispatch.backlog and sum(held) <= len(held):
                return  # enough for what is left; who leaves, or was struck, finishes what it is on or nobody does
        missing = self.size - self._active()
        self.dirty = self.pool_state is PoolState.CLOSE
        if missing > 0 and now < self.respawn_at:
            missing = 0
            self.dirty = True
        for _ in range(missing):
            worker = Worker(next(self._idents), self._free_index(), self._quota)
            self.workers[worker.ident] = worker
            self._outbox.orders.append((SPAWN, worker, 0))
        for _ in range(-missing):
            self._let_one_go()
        self._seat()

    def _active(self) -> int:
        return sum(1 for worker in self.workers.values() if worker.active)

    def _in_flight(self) -> int:
        return sum(len(worker.inflight) for worker in self.workers.values())

    def _finished(self) -> bool:
        return not self._dispatch.backlog and not self._in_flight() and not self.reading

    def _free_index(self) -> int:
        taken = {worker.index for worker in self.workers.values() if worker.active}
        return next(index for index in count() if index not in taken)

    def _let_one_go(self) -> None:
        candidates = [worker for worker in self.workers.values() if worker.active]
        # who has least to finish goes; among equals the youngest, which knows least
        worker = min(candidates, key=lambda w: (w.seated and bool(w.inflight), w.phase, len(w.inflight), -w.ident))
        self.retire(worker, EX_OK)

    def _seat(self) -> None:
        free = self.size - sum(1 for worker in self.workers.values() if worker.seated)
        while self._unseated and (free > 0 or self._unseated[0].seated):
            worker = self._unseated[0]
            if worker.phase is Phase.UP:
                if not worker.seated:
                    worker.seated = True
                    free -= 1
                self._dispatch.released(worker)  # also again: the last time may have been cut short before it
            self._unseated.popleft()

    # -- a worker's life

    def ready(self, worker: Worker) -> None:
        """The worker is initialised."""
        self.dirty = True
        if worker.phase is Phase.STARTING:
            worker.phase = Phase.UP
            self._failed_starts, self._failed_spawns = 0.0, 0
        if not worker.told_up:
            self._outbox.notifications += ((UP, worker, None),)
            worker.told_up = True
        if worker.phase is Phase.UP and worker not in self._unseated:
            self._unseated.append(worker)
            self._seat()

    def not_spawned(self, worker: Worker, error: OSError, now: float) -> float:
        """No process could be made (EAGAIN, EMFILE, ENOMEM). Returns when to try again: soon, then less often."""
        self.dirty = True
        if now >= self.respawn_at:
            # Not each of them: those that were ordered together meet the same moment, in which a large pool must not give up.
            self._failed_spawns += 1
            self.respawn_at = now + min(0.02 * 2 ** min(self._failed_spawns, 6), 1.0)
        worker.phase = Phase.GONE
        self.workers.pop(worker.ident, None)
        if self._failed_spawns >= FAILED_SPAWNS and not self._active():
            self._break_down(Fate(Cause.UNSTARTABLE, detail=error))
        return self.respawn_at

    def retire(self, worker: Worker, status: int) -> None:
        """Let `worker` finish the calls it holds, and leave with `status`; one that leaves already does as it was told."""
        if worker.phase in (Phase.STARTING, Phase.UP):
            self.dirty = True
            idle, open_ = self._dispatch.idle, self._dispatch.open
            # no call from here on: what is RETIRING was told so and is given nothing, and what is UP is
            self._outbox.orders += ((RETIRE, worker, status),)
            if worker in idle:
                del idle[worker]
            if worker in open_:
                del open_[worker]
            worker.retire_status = status
            worker.phase = Phase.RETIRING

    def leaving(self, worker: Worker, number: int) -> None:
        """The worker says that it leaves, and runs nothing after call `number`."""
        self.dirty = True
        worker.leaving_from = number
        if worker.phase in (Phase.STARTING, Phase.UP):
            worker.phase = Phase.RETIRING
        self._dispatch.idle.pop(worker, None)
        self._dispatch.open.pop(worker, None)
        self._preemption.take_back(worker, number)

    def emptied(self, worker: Worker) -> None:
        """`worker` holds nothing: if it is on its way out it needs its seat no more."""
        if worker.seated and worker.phase >= Phase.RETIRING and not worker.inflight:
            worker.seated = False
            self._seat()

    def exited(self, worker: Worker, status: int | None, now: float, failure: Any = None) -> None:
        """The process is gone and all that it sent was read. Settles its calls. Safe to repeat until it returned.

        `failure`: what it said about an initializer that raised.
        """
        if worker.phase is Phase.GONE:
            return
        self.dirty = True
        worker.status = status
        self._settle_calls(worker, status, now)
        self._dispatch.suspects.pop(worker, None)
        self._dispatch.idle.pop(worker, None)
        self._dispatch.open.pop(worker, None)
        ordered = worker.phase in (Phase.RETIRING, Phase.KILLED) or worker.leaving_from is not None
        failed_start = worker.phase is Phase.STARTING
        if not ordered:
            self.worker_died = True
        # whoever is told of its end was told of it before, also of one that never was ready
        up = () if worker.told_up else ((UP, worker, None),)
        # no call from here on: seat and phase go together, what is GONE is not among the workers, and it is told once
        self._outbox.notifications += (*up, (DOWN, worker, status))
        worker.seated, worker.phase = False, Phase.GONE
        if worker.ident in self.workers:
            del self.workers[worker.ident]
        self._account(worker, status, failed_start, ordered, now, failure)

    def _account(self, worker: Worker, status: int | None, failed_start: bool, ordered: bool, now: float, failure: Any) -> None:
        if self.pool_state is PoolState.TERMINATE:
            return
        on_purpose = worker.kill_request is not None and worker.kill_request.cause in (Cause.TERMINATED, Cause.TIME_LIMIT)
        if failed_start:
            # killed from outside says little about whether a worker can start at all
            self._failed_starts += 0.2 if status in _KILLED_FROM_OUTSIDE else 1
            if self._failed_starts >= FAILED_STARTS + self.size:
                self._break_down(Fate(Cause.UNSTARTABLE, worker, status, detail=failure))
                return
        if self._restarts is None or on_purpose or not spends_restart(status):
            return
        if not (ordered and worker.kill_request is None) and self._restarts.exceeded(now):
            self._break_down(Fate(Cause.RESTARTS, worker, status, detail=self._restarts))

    def _settle_calls(self, worker: Worker, status: int | None, now: float) -> None:
        progress = worker.scoreboard.read() if worker.scoreboard is not None and worker.inflight else None
        current = read = progress.current if progress is not None else 0
        if progress is not None and worker.recalled and worker.recalled <= progress.skipped_from <= current:
            current = progress.skipped_from - 1  # it came to these calls and let them be
        if worker.leaving_from is not None:
            current = min(current, worker.leaving_from)
        unstarted: dict[int, Job] = {}
        died_on_one = False
        for number, job in list(worker.inflight.items()):
            if number <= current and progress is not None:
                died_on_one = True
                self._dispatch.settle(job, self._fate(worker, job, status, progress, now))
            elif job.holder is worker or job.holder is None:
                unstarted[number] = job
        # told to leave by the call's own quota it may still die of reading it
        left = worker.leaving_from is not None or (worker.phase is Phase.RETIRING and status == worker.retire_status)
        # what it let be, it had read
        taken_back = self._dispatch.suspects.get(worker)
        suspect = next((job for number, job in unstarted.items() if number > read), None) if unstarted else taken_back
        if suspect is not None and not suspect.state and not (died_on_one or left or worker.struck_by is not None):
            # it may have been reading this one when it died
            if not worker.blamed:  # one death counts once, however often this is cut short and repeated
                suspect.deaths, worker.blamed = suspect.deaths + 1, True
            if suspect.deaths >= MAX_DEATHS_AT_RECEIPT and suspect.holder in (worker, None):
                self._dispatch.settle(suspect, Fate(Cause.LOST, worker, status, started=False))
        self._dispatch.requeue(unstarted.values())
        worker.inflight.clear()

    def _fate(self, worker: Worker, job: Job, status: int | None, progress: Any, now: float) -> Fate:
        if self.broken_by is not None:
            # also when it is terminated by now; that it had started must be told all the same
            return self.broken_by._replace(started=True, run_s=self._preemption.run_time(progress, now), item=progress.item)
        cause, limit_s = Cause.LOST, None
        request = worker.struck_by
        if request is not None and request.number in (0, job.number):
            cause, limit_s = request.cause, request.limit_s
        return Fate(cause, worker, status, True, self._preemption.run_time(progress, now), progress.item, limit_s)

    # -- the pool's end

    def _break_down(self, fate: Fate) -> None:
        """No worker can be kept alive: fail every job, those to come too, instead of hanging."""
        if self.pool_state in (PoolState.RUN, PoolState.CLOSE):
            self.broken_by, self.pool_state, self.dirty = fate, PoolState.BROKEN, True
        self.fail_backlog(fate)

    def terminate(self) -> None:
        """End now: whatever has no result yet never will."""
        self.pool_state, self.dirty = PoolState.TERMINATE, True
        self.fail_backlog(Fate(Cause.POOL_TERMINATED))

    def fail_backlog(self, fate: Fate) -> None:
        """End with `fate` whatever no worker holds."""
        backlog = self._dispatch.backlog
        while backlog:
            job = backlog[0]
            if job.holder is None:
                self._dispatch.settle(job, fate)
            backlog.popleft()

    @property
    def over(self) -> bool:
        """Nothing is left to wait for."""
        return not self.workers and self.pool_state is not PoolState.RUN
