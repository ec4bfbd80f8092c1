"""Who gets which job: the backlog, the prefetch window, results. The hot path of the pool.

A worker may hold several calls at once, or the pool would wait for a round trip after each. How many is the
*window*: the one it is on, and about four turns' worth of the function's run time. One never seen has a window of one,
and whatever is prefetched behind a call that proves slow is taken back (see billiard._core.preemption). Idle workers go first,
but for brief calls: a worker that is through in a few microseconds begins sooner than one that has to be woken.

Everything here may be interrupted by an exception between any two steps and is safe to repeat: the
statements that move a job are single assignments of several targets, in which no signal handler can run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .._typing import Any, Final
from .state import FATE, NEVER_S, PENDING, Cause, Fate, Job, Phase, Worker

MAX_WINDOW: Final = 4096
MAX_WINDOW_BYTES: Final = 1 << 18
ALONE_FROM: Final = 1 << 16  # a call this large goes to an idle worker only: behind it nothing could be taken back
OLDEST_EVERY: Final = 128  # one pick in so many is for the worker that has been idle longest
OLDEST_EVERY_S: Final = 0.1  # ... if this has passed since the last such pick
KEPT_SIZE: Final = 1 << 12  # a larger call is dropped with its result: handles are kept long after
WAKING_US: Final = 40.0  # until a worker that slept has begun: whoever is done sooner with what it holds begins sooner
MUTE_S: Final = 0.001  # a worker that has not begun what it was given for so long is blocked, or given no processor
OVERHEAD_US: Final = 6.0  # what a worker spends on a call besides running it
REST_US: Final = 2_000.0  # window of a pool whose turns come quickly
SLOW_TURNS_US: Final = 25_000.0  # ... and of one whose driver computes: five of the interpreter's switch intervals


class Dispatch:
    """Jobs from the backlog to workers, results from workers to jobs."""

    def __init__(self, max_window: int = MAX_WINDOW) -> None:
        self._max_window = max_window
        self.backlog: deque[Job] = deque()
        self.idle: dict[Worker, None] = {}  # seated workers that hold nothing (an ordered set)
        self.open: dict[Worker, None] = {}  # ... that hold something and perhaps have room
        self.settled: deque[Job] = deque()  # watched jobs that reached their end, whose waiters are to be notified
        self.unwritten: dict[Worker, None] = {}  # given calls that the driver has not written yet
        self.limited: dict[Worker, float] = {}  # ... some of them limited: the least limit
        self.suspects: dict[Worker, Job] = {}  # by a worker's last recall taken back, but perhaps being read by it
        self._run_us: dict[int, float] = {}  # measured run time by function id
        self._window: dict[int, int] = {}
        self._picks = 0
        self._oldest_picked = 0.0
        self._recent_us = 0.0
        self._horizon_us = REST_US
        self.rescues = True  # deadlines are met, so that calls behind one that proves slow are taken back in time
        self.last_turn = 0.0  # when somebody last looked at what the workers sent

    # -- results: the hot path

    def results(self, worker: Worker, batch: Iterable[tuple[int, int, int, Any]]) -> list[tuple[int, int, int, Any]]:
        """What `worker` sent, in order: (kind, run time in us, number, body). Returns the frames that are no results.

        Numbers that are not in flight were dealt with before (or never given): they are ignored.
        """
        inflight = worker.inflight
        rare: list[tuple[int, int, int, Any]] = []
        busy_us = count = function_id = 0
        for kind, tag, number, body in batch:
            job = inflight.get(number)
            if job is None:
                if not number:
                    rare.append((kind, tag, number, body))
                continue
            if not job.state:
                job.body, job.state = body, kind
            if job.watched:
                self.settled.append(job)
            if job.size > KEPT_SIZE:
                job.call = None
            function_id = job.function_id
            del inflight[number]
            busy_us += tag
            count += 1
        if count:
            worker.heard_at = self.last_turn
            self._measure(function_id, busy_us / count)
        self.released(worker)
        return rare

    def released(self, worker: Worker) -> None:
        """`worker` holds less than before: it may have room, and says so to `assign`."""
        if worker.phase is not Phase.UP or not worker.seated:
            return
        if not worker.inflight:
            self.open.pop(worker, None)
            if worker.recalled:
                # what comes next follows a RESUME, and its numbers lie beyond the recall: see `Worker.since`
                since = max(worker.next_number, worker.recalled + 1)
                worker.resume, worker.recalled, worker.next_number, worker.since, worker.mute = (
                    worker.recalled, 0, since, since, False,
                )  # fmt: skip
            self.idle[worker] = None
        elif not worker.recalled:
            self.open[worker] = None

    # -- assignment

    def assign(self, now: float) -> None:
        """Give out as much of the backlog as there is room for, evenly."""
        backlog, idle, open_ = self.backlog, self.idle, self.open
        while backlog:
            worker = self._next_worker(backlog[0], now)
            if worker is None:
                return
            if not worker.inflight:
                worker.heard_at = now
            if worker.phase is not Phase.UP:
                # condemned while it had nothing to do, or room: what it was given now would start, and be lost
                idle.pop(worker, None)
                open_.pop(worker, None)
                continue
            # ceil: the last idle worker must not be left without its share
            share = -(-len(backlog) // (len(idle) + len(open_)))
            self._fill(worker, share)

    def _next_worker(self, job: Job, now: float) -> Worker | None:
        """Who gets `job`, which is next. Idle workers first, but for one that is about to be."""
        idle, open_ = self.idle, self.open
        if not idle:
            return next(iter(open_), None)
        if open_ and self.rescues and job.may_follow and self._window.get(job.function_id, 1) > 1:
            worker = next(iter(open_))
            if self._soon_idle(worker, now):
                return worker
        # The one that was busy last: its memory is at hand, and it may not even sleep yet. Now and then the one that has
        # waited longest, or a caller who wants to have met each of them would ask for ever.
        self._picks += 1
        if self._picks % OLDEST_EVERY or self.last_turn - self._oldest_picked < OLDEST_EVERY_S:
            return next(reversed(idle))
        self._oldest_picked = self.last_turn
        return next(iter(idle))

    def _soon_idle(self, worker: Worker, now: float) -> bool:
        """Whether `worker` should have worked off what it holds by the time at which one that sleeps would be awake.

        One of what it holds may prove slow: see HOARD in billiard._core.preemption.
        """
        ahead_us = 0.0
        for job in worker.inflight.values():
            ahead_us += self._run_us.get(job.function_id, WAKING_US) + OVERHEAD_US
            if ahead_us >= WAKING_US:
                return False
        if worker.scoreboard is None:
            return False
        progress = worker.scoreboard.read()
        if progress.current in worker.inflight:
            return (now - progress.started_ns / 1e9) * 1e6 < WAKING_US
        return now - worker.heard_at < MUTE_S

    def _fill(self, worker: Worker, share: int) -> None:
        """Give `worker` up to `share` jobs; afterwards it is in `open` only if it has room left."""
        backlog, inflight, windows = self.backlog, worker.inflight, self._window
        given = 0
        held = len(inflight)
        full = False
        # before anything is given: interrupted in between, what was given must be written, and its worker looked after
        self.unwritten[worker] = None
        if self.suspects:
            self.suspects.pop(worker, None)
        while backlog and given < share:
            job = backlog[0]
            if job.holder is not None or job.state:
                backlog.popleft()
                continue
            if job.terminate_signal:
                self.settle(job, None)
                continue
            size = job.size
            if worker.quota == 0 or (
                held
                and (held >= windows.get(job.function_id, 1) or size > ALONE_FROM or held * (size + 64) >= MAX_WINDOW_BYTES)
            ):
                full = True
                break
            if job.least_s < NEVER_S and job.least_s < self.limited.get(worker, NEVER_S):
                self.limited[worker] = job.least_s
            number = worker.next_number
            quota = None if worker.quota is None else worker.quota - 1
            # one statement: given and numbered, or not at all
            inflight[number], worker.next_number, worker.quota, job.number, job.holder = (
                job, number + 1, quota, number, worker,
            )  # fmt: skip
            backlog.popleft()
            given += 1
            held += 1
        if inflight or full:  # full and empty: cut short after its last call was given; it is about to be retired
            self.idle.pop(worker, None)
            if full or worker.quota == 0:
                self.open.pop(worker, None)
            elif given:
                # to the end of the queue: the next job goes to another worker
                self.open.pop(worker, None)
                self.open[worker] = None

    def requeue(self, jobs: Iterable[Job]) -> None:
        """Put jobs that did not start back, before all others, in their order."""
        for job in reversed(list(jobs)):
            if job.terminate_signal:
                self.settle(job, None)
            elif not job.state:
                job.holder = None
                self.backlog.appendleft(job)

    def drop_suspects(self) -> None:
        """Forget those that have ended elsewhere. Their worker may be given nothing for long, and a job keeps its result, that
        of a map its pool: forgotten by its owner it would never end."""
        for worker, job in list(self.suspects.items()):
            if job.state:
                self.suspects.pop(worker, None)

    # -- endings that are no result

    def settle(self, job: Job, fate: Fate | None) -> None:
        """End `job` with `fate` (None: terminated before it started), unless it has an end already."""
        if job.state == PENDING:
            job.body, job.state = fate or Fate(Cause.TERMINATED, status=-job.terminate_signal), FATE
        if job.watched:
            self.settled.append(job)

    # -- measuring

    def turned(self, now: float) -> None:
        """A turn began: the time since the last one sets how much work a worker must hold not to run dry."""
        gap_us = (now - self.last_turn) * 1e6
        self.last_turn = now
        wanted = min(max(4 * gap_us, REST_US), SLOW_TURNS_US)
        # up at once, down slowly: a driver that computes is seen only every few milliseconds
        self._horizon_us = wanted if wanted > self._horizon_us else 0.9 * self._horizon_us + 0.1 * wanted

    def proved_slow(self, function_id: int, run_us: float) -> None:
        """A call has taken that long, and is not over: those behind it, wherever they go now, are not brief ones."""
        if run_us > self._run_us.get(function_id, 0.0):
            self._measure(function_id, run_us)

    def _measure(self, function_id: int, mean_us: float) -> None:
        old = self._run_us.get(function_id, mean_us)
        # up at once (what is behind a slow call waits), down by a quarter
        run_us = mean_us if mean_us > old else 0.75 * old + 0.25 * mean_us
        self._run_us[function_id] = self._recent_us = run_us
        # the one it is on, and behind it what it can work off until we come again
        self._window[function_id] = min(1 + int(self._horizon_us / (run_us + OVERHEAD_US)), self._max_window)

    def spare_s(self, workers: Iterable[Worker]) -> float:
        """For how long each of `workers` has work behind the call it is on, by what the latest calls took. 0: one has none."""
        if self.idle or not workers:
            return 0.0
        behind = min(len(worker.inflight) for worker in workers) - 1
        return max(behind, 0) * (self._recent_us + OVERHEAD_US) / 1e6

    def run_time_s(self, function_id: int) -> float | None:
        """The measured run time of a function, if it has been run."""
        run_us = self._run_us.get(function_id)
        return None if run_us is None else run_us / 1e6

    def forget_function(self, function_id: int) -> None:
        """No job will name this function again."""
        self._run_us.pop(function_id, None)
        self._window.pop(function_id, None)
