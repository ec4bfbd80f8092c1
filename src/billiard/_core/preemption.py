"""Taking calls back, and interrupting or killing the right one: recalls, time limits, terminations.

A worker cannot be asked what it is doing without being made slow, and whatever its scoreboard says may be over
by the time a signal arrives. So nothing lethal is sent before the worker is fenced in:

    1. recall: forbid it to start anything behind the call it is on   (scoreboard.recall)
    2. wait the fence, then read all that it has sent
    3. look again: only if it is still on that very call, and no result came, send the signal

Between 2 and 3 it may finish the call, but it cannot be in another one. The same fence, without a signal, takes
prefetched calls back from a worker that stays on one call. A recall ends when the worker holds nothing more: the driver
then writes RESUME before the next call.

Limits count running time only: a worker has one timer, the least over what it holds; when it comes up the scoreboard says
which call is running since when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import nextafter

from .._typing import Final
from .dispatch import ALONE_FROM, Dispatch
from .outbox import HARD, INTERRUPT, KILL, SOFT, Outbox
from .state import FATE, NEVER_S, Cause, Job, KillRequest, Phase, Progress, Worker
from .timers import Timers

FENCE_S: Final = 0.0015  # longer than any store stays invisible; see billiard._wire.scoreboard
STALL_S: Final = 0.010  # on one call for this long with others behind it: take them back
HOARD_S: Final = 0.002  # ... or for this long, if another worker has nothing to do and the call was taken for a brief one
TERM_GRACE_S: Final = 0.5  # from a signal that may be caught to SIGKILL
SIGKILL: Final = 9
SIGTERM: Final = 15

# timer kinds
LIMIT: Final = "limit"
STALL: Final = "stall"
HOARD: Final = "hoard"
MARK: Final = "mark"
FENCE: Final = "fence"
ESCALATE: Final = "escalate"


def _nothing() -> None: ...


class Preemption:
    """Recalls, limits and terminations of one pool's workers."""

    soft_signal = 0  # the number of the soft limit's signal, which the driver knows

    def __init__(self, dispatch: Dispatch, timers: Timers, outbox: Outbox) -> None:
        self._dispatch = dispatch
        self._timers = timers
        self._outbox = outbox
        self._suspensions: deque[tuple[float, float]] = deque(maxlen=256)  # from, until
        self.on_kill: Callable[[], None] = _nothing  # told when a worker is killed: it needs a replacement

    # -- arming

    def on_assigned(self, worker: Worker, now: float) -> None:
        """`worker` was given calls: watch it for a stall behind a slow one."""
        several, idle = len(worker.inflight) > 1, self._dispatch.idle
        if not several and not idle:
            return  # nobody could take it over
        if STALL not in worker.due:
            worker.stalled_at = -1  # no look yet: 0 is a call that none is on
            self._timers.set(worker, STALL, now + STALL_S)
        if several and idle and HOARD not in worker.due:
            self._timers.set(worker, HOARD, now + HOARD_S)

    def watch_limit(self, worker: Worker, least_s: float, now: float) -> None:
        """Watch `worker` for a limit of `least_s`, unless a nearer one is watched already."""
        if now + least_s < worker.due.get(LIMIT, NEVER_S):
            self._timers.set(worker, LIMIT, now + least_s)

    def exclude_suspension(self, until: float, slept_s: float) -> None:
        """Nobody could run for `slept_s` before `until` (the machine was suspended): it does not count as running time."""
        self._suspensions.append((until - slept_s, until))

    # -- what the timers say (the driver has read all that the worker sent)

    def on_timer(self, worker: Worker, kind: str, now: float) -> None:
        """A deadline of `worker` is due: decide by what its scoreboard says now."""
        if worker.scoreboard is None:
            return
        if kind == MARK:
            self._timers.set(worker, FENCE, now + FENCE_S)
        elif kind == ESCALATE:
            self._outbox.signals.append((KILL, worker, SIGKILL))
        else:
            check = {LIMIT: self._check_limits, STALL: self._check_stall, HOARD: self._check_hoard, FENCE: self._fenced}[kind]
            check(worker, worker.scoreboard.read(), now)

    def _check_stall(self, worker: Worker, progress: Progress, now: float) -> None:
        current = progress.current
        if not worker.inflight or (len(worker.inflight) == 1 and current in worker.inflight):
            return  # there is nothing behind what it is on
        if worker.recalled:
            if MARK not in worker.due and worker.due.get(FENCE, NEVER_S) == NEVER_S:
                self.recall(worker, worker.recalled, now)  # it was cut short before the fence
            return
        if current in worker.inflight and (worker.stalled_at == current or self._hoards(worker, current)):
            self.recall(worker, current + 1, now)
        elif self._is_blocked(worker, current, now):
            first = min(worker.inflight)
            # one whose bytes are still on their way would only set out once more
            worker.mute = worker.inflight[first].size <= ALONE_FROM
            self.recall(worker, first if worker.mute else first + 1, now)
        if not worker.recalled:
            worker.stalled_at, worker.held_to = current, worker.next_number
            self._timers.set(worker, STALL, now + STALL_S)

    def _is_blocked(self, worker: Worker, current: int, now: float) -> bool:
        """Whether it has not begun what it was given, for two looks, though another worker has nothing to do: it still frees
        what the last call left, receives much, or was stopped."""
        unheard = worker.stalled_at == current and now - worker.heard_at >= STALL_S
        return unheard and current not in worker.inflight and bool(self._dispatch.idle)

    def _hoards(self, worker: Worker, current: int) -> bool:
        """Whether calls have waited here since the last look while another worker has nothing to do: none of those before
        them was slow enough to be a stall, but all of them are slower than what their window was measured by."""
        if not self._dispatch.idle:
            return False
        return any(current < number < worker.held_to for number in worker.inflight)

    def _check_hoard(self, worker: Worker, progress: Progress, now: float) -> None:
        """Calls were given to `worker` though another had nothing to do: it was thought to be sooner (see `Dispatch`)."""
        if len(worker.inflight) < 2 or worker.recalled or not self._dispatch.idle:
            return
        job = worker.inflight.get(progress.current)
        run_s = self.run_time(progress, now)
        if job is not None and run_s >= HOARD_S / 2:
            self._dispatch.proved_slow(job.function_id, run_s * 1e6)
            self.recall(worker, progress.current + 1, now)
        elif now - worker.heard_at < STALL_S:  # else it is kept from beginning, and that is looked at less often
            self._timers.set(worker, HOARD, now + HOARD_S)

    def _check_limits(self, worker: Worker, progress: Progress, now: float) -> None:
        job = worker.inflight.get(progress.current)
        if job is None or job.least_s == NEVER_S:
            # between two calls, or on one without limits: the earliest that anything can be over is a full limit away
            self._reset_limit_timer(worker, now)
            return
        run_s = self.run_time(progress, now)
        if job.hard_s is not None and run_s >= job.hard_s:
            self.request_kill(worker, KillRequest(progress.current, progress.item, SIGKILL, Cause.TIME_LIMIT, job.hard_s), now)
            return
        aim = (progress.current, progress.item)
        if job.soft_s is not None and worker.soft_sent != aim and run_s >= job.soft_s:
            if worker.scoreboard is not None:
                worker.scoreboard.aim(*aim)
            # no call from here on: ordered, told and noted, or all of it once more
            self._outbox.signals += ((INTERRUPT, worker, progress.current),)
            self._outbox.notifications += ((SOFT, job, job.soft_s),)
            worker.soft_sent = aim
        pending = [limit_s for limit_s in (job.hard_s, job.soft_s if worker.soft_sent != aim else None) if limit_s is not None]
        rest_s = max(min(pending) - run_s, 0.0005) if pending else NEVER_S
        # the next call, or the next item of this one, may be over sooner: at the earliest its own limit from now
        behind_s = min(other.least_s for other in worker.inflight.values())
        self._set_limit_timer(worker, min(rest_s, behind_s), now)

    def _reset_limit_timer(self, worker: Worker, now: float) -> None:
        """Look at the limits of what `worker` holds when the least of them can be over at the earliest."""
        self._set_limit_timer(worker, min((job.least_s for job in worker.inflight.values()), default=NEVER_S), now)

    def _set_limit_timer(self, worker: Worker, least_s: float, now: float) -> None:
        """The next limit to be looked at is so far away, whatever was thought before."""
        # Set, never cleared and set: an exception in between would leave a call without its limit.
        if least_s < NEVER_S:
            self._timers.set(worker, LIMIT, now + least_s)
        else:
            self._timers.clear(worker, LIMIT)

    def run_time(self, progress: Progress, now: float) -> float:
        """For how long the call that was seen (the item of a chunk) has been running."""
        started = progress.started_ns / 1e9
        # by time and not by call: a worker may have been between its stores of STARTED and of CURRENT
        excused_s = sum(until - max(since, started) for since, until in self._suspensions if until > started)
        return max(0.0, now - started - excused_s)  # a call that waits for its verdict starts in the far future

    # -- recall

    def recall(self, worker: Worker, number: int, now: float) -> None:
        """Take back what `worker` has not started, from call `number` on."""
        if worker.scoreboard is None or worker.phase is Phase.GONE:
            return
        if not worker.recalled:
            if worker.current < worker.since > 1:
                # It is still letting calls of the last recall be, and would run those not reached yet if the scoreboard named
                # a later number. It will soon have read the RESUME.
                self._timers.set(worker, FENCE, now + FENCE_S)
                return
            worker.recalled = max(number, worker.since)  # beyond every earlier recall, or the worker would not heed it
            self._dispatch.open.pop(worker, None)
            self._dispatch.idle.pop(worker, None)
        worker.scoreboard.recall(worker.recalled)
        self._fence(worker, now)

    def _fence(self, worker: Worker, now: float) -> None:
        # `now` may be older than what was just written to the scoreboard, by as much as this turn has taken. The next turn's is
        # not: the fence begins there.
        self._timers.replace(worker, FENCE, MARK, nextafter(now, NEVER_S))

    def skipped(self, worker: Worker, number: int) -> None:
        """The worker says that the recall kept `number` from running."""
        if 0 < worker.recalled <= number:  # else it is the echo of a recall that is over: what it holds came after that
            self.take_back(worker, number - 1)
            self._dispatch.released(worker)

    def take_back(self, worker: Worker, current: int) -> None:
        """Everything behind `current` is certain not to start: back to the backlog with it."""
        # FATE: settled here before, and an exception came before it was out of flight; the worker may have reached it since
        behind = [(number, job) for number, job in worker.inflight.items() if number > current or job.state == FATE]
        if behind:
            self._dispatch.suspects[worker] = behind[0][1]
        # first into the backlog, then out of flight: interrupted in between, a job is found in both, and dropped from one
        self._dispatch.requeue(job for _, job in behind if job.holder is worker or job.holder is None)
        inflight = worker.inflight
        for number, _ in behind:
            # no call in here, or a signal's handler could raise between the two
            if number in inflight:
                del inflight[number]
                if worker.quota is not None:
                    worker.quota += 1

    def _fenced(self, worker: Worker, progress: Progress, now: float) -> None:
        if worker.recalled:
            self.take_back(worker, max(progress.current, worker.recalled - 1))
            if worker.inflight or not worker.mute:
                self._dispatch.released(worker)
        request = worker.kill_request
        if request is None or request.sent:
            return
        if not worker.recalled and request.number in worker.inflight:
            self.recall(worker, min(progress.current, request.number) + 1, now)  # it had to wait: see `recall`
            return
        moved_on = request.number and (progress.current != request.number or request.number not in worker.inflight)
        # another item of the chunk may run by now, or the wait for a verdict may just have ended
        in_time = request.limit_s is not None and self.run_time(progress, now) < request.limit_s
        job = worker.inflight.get(request.number or progress.current)
        if moved_on or in_time:
            self._withdraw_kill(worker, progress.current, now)
        elif job is not None and request.signum == self.soft_signal:
            # It has begun just before it was kept from that. Or it will be let be yet: then it ends, as it is wanted to.
            self._interrupt(worker, job)
            self._reset_limit_timer(worker, now)
            worker.kill_request = None
        else:
            self._send_kill(worker, request, now)

    def _withdraw_kill(self, worker: Worker, current: int, now: float) -> None:
        # it finished in time after all, and has been kept from starting another: nothing was harmed
        self._reset_limit_timer(worker, now)
        for job in worker.inflight.values():
            if job.terminate_signal and not job.state:
                # wanted while the other kill was under way; any others are taken back with it
                worker.kill_request = KillRequest(job.number, 0, job.terminate_signal, Cause.TERMINATED)
                self.recall(worker, min(current, job.number) + 1, now)
                return
        worker.kill_request = None

    # -- kills

    def request_kill(self, worker: Worker, request: KillRequest, now: float) -> None:
        """Fence the worker in, then send the signal if it is still on that call."""
        if worker.struck_by is not None:
            return
        worker.kill_request = request
        self.recall(worker, request.number + 1, now)

    def _send_kill(self, worker: Worker, request: KillRequest, now: float) -> None:
        self.on_kill()
        if request.signum != SIGKILL:
            self._timers.set(worker, ESCALATE, now + TERM_GRACE_S)
        job = worker.inflight.get(request.number)
        # no call from here on: ordered, told and noted, or all of it once more
        if job is not None and request.cause is Cause.TIME_LIMIT:
            self._outbox.notifications += ((HARD, job, request.limit_s),)
        self._outbox.signals += ((KILL, worker, request.signum),)
        request.sent = True
        worker.phase = Phase.KILLED

    def kill_now(self, worker: Worker, signum: int, cause: Cause, now: float) -> None:
        """Send a lethal signal at once, whatever the worker is on."""
        if worker.phase is Phase.GONE:
            return
        request = KillRequest(0, 0, signum, cause)
        if worker.struck_by is None:
            worker.kill_request = request  # its death is told by this one; an earlier one, to a single call, was never sent
        self._send_kill(worker, request, now)

    def _interrupt(self, worker: Worker, job: Job) -> None:
        """Have the soft limit's signal delivered to `job`, which `worker` is on, as its limit would."""
        if worker.scoreboard is not None:
            worker.scoreboard.aim(job.number)  # the one that runs now may be over when the signal comes
        self._outbox.signals.append((INTERRUPT, worker, job.number))

    def terminate(self, job: Job, signum: int, now: float) -> None:
        """End this job and no other: before it starts if it has not, with `signum` if it has. The soft limit's signal only
        interrupts one that has; one that a worker holds may be taken back, and who got it next would know nothing of that."""
        worker = job.holder
        if job.state:
            return
        if signum == self.soft_signal and worker is not None and worker.current == job.number:
            self._interrupt(worker, job)
            return
        job.terminate_signal = signum
        if worker is None:
            self._dispatch.settle(job, None)
            return
        if worker.scoreboard is None or worker.inflight.get(job.number) is not job:
            return
        current = worker.current
        if current < job.number:
            # not started: take it back with its neighbours; the backlog drops it
            self.recall(worker, current + 1, now)
            if worker.kill_request is None:
                worker.kill_request = KillRequest(job.number, 0, signum, Cause.TERMINATED)
        else:
            self.request_kill(worker, KillRequest(job.number, 0, signum, Cause.TERMINATED), now)

    def terminate_worker(self, worker: Worker, signum: int, now: float) -> None:
        """End `worker`, or if it is between two calls the one that it comes to."""
        if worker.phase is Phase.GONE:
            return
        if not worker.inflight:
            self.kill_now(worker, signum, Cause.TERMINATED, now)
        else:
            self.request_kill(worker, KillRequest(0, 0, signum, Cause.TERMINATED), now)

    def dropped(self, worker: Worker, number: int) -> None:
        """The worker says that it dropped call `number`, as the verdict told it to."""
        job = worker.inflight.get(number)
        if job is not None:
            job.terminate_signal = job.terminate_signal or SIGTERM
            self._dispatch.settle(job, None)
            del worker.inflight[number]
        self._dispatch.released(worker)
