"""A life from beginning to end: a hostile phase, a healthy one in which everything must come to rest, and the pool's end."""

from __future__ import annotations

from collections.abc import Callable

from tests.core.world import (
    ACCEPT_FLAG,
    GRACE_S,
    NEVER,
    SIGKILL,
    SIGTERM,
    SYNACK_FLAG,
    CoreBomb,
    Interrupted,
    Process,
    SimJob,
    Violation,
    World,
)  # fmt: skip

from billiard._core.state import Phase
from billiard._core.worker_set import PoolState
from billiard._wire.exit_status import EX_RECYCLE

MAX_TURNS = 20_000


class Life(World):
    """What is done to a pool, and what must have become of it."""

    bomb_places = 0  # the next turn is cut short inside the core, after so many places

    def live(self) -> None:
        """Raises `Violation` at the first broken promise."""
        self._guarded(lambda: self.driver.carry_out(self.now))
        deeds = {
            "submit": self._submit, "kill": self._kill, "terminate": self._terminate,
            "terminate worker": self._terminate_worker, "resize": self._resize, "restart": self._restart,
            "stop": self._stop, "pause": self._pause, "suspend": self._suspend, "bomb": self._bomb,
            "core bomb": self._core_bomb, "distrust": self._distrust,
        }  # fmt: skip
        self._submit()
        for _ in range(self.actions_left):
            self._drive(self.now + self.chance_() * self.gap_s)
            self._guarded(deeds[self.rng.choice(self.deeds)])
        self._drive(self.now + self.chance_() * 4 * self.gap_s)
        if self.ending == "terminate" and self.rng.random() < 0.5:
            self._end_by_termination()
            return
        self._heal()
        self._come_to_rest()
        self._end_by_closing() if self.ending == "close" else self._end_by_termination()

    # -- driving

    def _guarded(self, do: Callable[[], object]) -> bool:
        try:
            if self.bomb_places and self.hostile:
                places, self.bomb_places = self.bomb_places, 0
                with CoreBomb(self, places):
                    do()
            else:
                do()
        except Interrupted:
            return False
        return True

    def _drive(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Turn whenever there is something to do, until then, or until `done`."""
        driver = self.driver
        if done is not None and done():
            return True
        while self.now < until:
            if self.verdicts and min(self.verdicts.values()) <= self.now:
                job = min(self.verdicts, key=self.verdicts.__getitem__)
                del self.verdicts[job]
                job.asked_to_end = job.asked_to_end or not job.verdict
                self._guarded(lambda job=job: driver.send_verdict(job, job.verdict))
                if not self.driver.unfinished and job.holder is None and not job.state:
                    continue
            deadline = driver.deadline()
            if driver.readable or deadline <= self.now:
                # between the poll and the turn; a turn is never free, or a pool that spins would stop the clock
                late_s = 2e-6 + self.delay()
                self.lag_s += late_s
                self.elapse(self.now + late_s, bystander=True)
                if self._guarded(driver.turn):
                    self.check()
                if driver.turns > MAX_TURNS:
                    raise Violation(f"{MAX_TURNS} turns, and no end")
                if done is not None and done():
                    return True
                continue
            stop = min(until, deadline)
            if self.verdicts:
                stop = min(stop, *self.verdicts.values())
            if stop == NEVER:
                stop = self.now + 1.0
            self.elapse(stop)
        return done is not None and done()

    # -- deeds

    def _submit(self) -> None:
        rng = self.rng
        for _ in range(rng.choice((1, 1, 2, 3, 6))):
            job = SimJob(self, len(self.jobs))
            job.function_id = rng.choice((0, 1, 1, 1, 2))
            job.size = 70_000 if rng.random() < 0.05 else 60
            job.watched = rng.random() < 0.7
            kind = rng.random()
            if kind < 0.5:
                job.duration_s = 0.0
            elif kind < 0.8:
                job.duration_s = rng.random() * 0.003
            else:
                job.duration_s = rng.random() * 0.08
            if rng.random() < 0.1:
                job.items = rng.randint(1, 4)
            self._limit(job)
            if self.deadly and rng.random() < self.deadly:
                job.murderer = rng.choice((-9, -11, 1, 0, EX_RECYCLE))
            job.poison = bool(self.poisoned) and rng.random() < self.poisoned
            job.ignores_term = rng.random() < 0.2
            if self.synack:
                job.accept, job.verdict = SYNACK_FLAG, rng.random() < 0.8
            elif rng.random() < 0.1:
                job.accept = ACCEPT_FLAG
            job.waiting_since = self.now - self.lag_s
            if self.log is not None:
                self.note(
                    f"submit {job}: {job.duration_s * 1e3:.3f} ms x {job.items or 1}, function {job.function_id},"
                    f" size {job.size}, soft {job.soft_s}, hard {job.hard_s}, murderer {job.murderer}, poison {job.poison}"
                )
            dispatch = self.core.dispatch
            self.jobs.append(job)
            self.queued[job] = self.unended[job] = None
            dispatch.backlog.append(job)
            if dispatch.idle or dispatch.open:
                self.driver.kick()
            else:
                self.driver.readable = True

    def _limit(self, job: SimJob) -> None:
        rng = self.rng
        if not self.limits or rng.random() < 0.4:
            return
        if self.edge:
            hard_s: float | None = max(0.0005, job.duration_s + (rng.random() - 0.5) * 0.002)
        else:
            hard_s = rng.choice((None, 0.004, 0.03, 3600.0))
        soft_s = rng.choice((None, None, 0.003, max(0.0005, job.duration_s - 0.0005)))
        job.limit(soft_s, hard_s)
        job.swallows_soft = rng.random() < 0.2

    def _victim(self) -> Process | None:
        return self.rng.choice(self.processes) if self.processes else None

    def _kill(self) -> None:
        victim = self._victim()
        if victim is not None:
            victim.die(self.rng.choice((-9, -9, -11, 1, 0, EX_RECYCLE)))

    def _terminate(self) -> None:
        if self.unended:
            self._terminate_job(self.rng.choice(list(self.unended)), self.rng.choice((SIGTERM, SIGTERM, SIGKILL)))

    def _terminate_job(self, job: SimJob, signum: int) -> None:
        job.asked_to_end = True
        if job not in self.asked:
            job.asked_at = self.now - self.lag_s
            self.asked.append(job)
        self.note(f"terminate {job} with {signum}")

        self.driver.change(lambda: self.core.preemption.terminate(job, signum, self.now))

    def _terminate_worker(self) -> None:
        workers = list(self.core.worker_set.workers.values())
        if not workers:
            return
        worker = self.rng.choice(workers)
        signum = self.rng.choice((SIGTERM, SIGKILL))
        self.note(f"terminate what {worker} is on with {signum}")
        current = worker.current
        job = worker.inflight.get(current)
        if job is not None:
            self._terminate_job(job, signum)
            return
        self.terminated_workers[worker.ident] = None

        self.driver.change(lambda: self.core.preemption.terminate_worker(worker, signum, self.now))

    def _resize(self) -> None:
        worker_set = self.core.worker_set
        by = self.rng.choice((-2, -1, 1, 2))
        if worker_set.size + by >= 1:
            self.note(f"resize by {by}")
            self.seats = sum(worker.seated for worker in worker_set.workers.values())
            self.driver.change(lambda: worker_set.resize(by))

    def _restart(self) -> None:
        self.note("restart")

        def decide() -> None:
            for worker in list(self.core.worker_set.workers.values()):
                self.core.worker_set.retire(worker, 0)

        self.driver.change(decide)

    def _stop(self) -> None:
        victim = self._victim()
        if victim is not None:
            for_s = self.rng.choice((0.002, 0.02, 0.2))
            self.lag_s += for_s
            self.stopped[victim.ident] = max(self.now + for_s, self.stopped.get(victim.ident, 0.0))
            self.note(f"worker {victim.ident} is stopped for {for_s} s")

    def _pause(self) -> None:
        for_s = self.rng.choice((0.002, 0.008, 0.04))
        self.lag_s += for_s
        self.note(f"the driver is late by {for_s} s")
        self.elapse(self.now + for_s, bystander=True)

    def _suspend(self) -> None:
        for_s = self.rng.choice((0.3, 5.0))
        self.lag_s += for_s
        self.note(f"the machine sleeps for {for_s} s")
        for process in self.processes:
            process.settle_stores(NEVER)
            process.settle_parent()
            process.wake += for_s
            process.paused_s += for_s
        self.now += for_s
        self.core.preemption.exclude_suspension(self.now, for_s)

    def _bomb(self) -> None:
        self.driver.bomb = self.rng.randint(1, 30)

    def _core_bomb(self) -> None:
        self.bomb_places = self.rng.randint(1, 60)

    def _distrust(self) -> None:
        victim = self._victim()
        if victim is not None and victim.worker.link is not None and victim.worker.phase is not Phase.GONE:
            self.note(f"worker {victim.ident} sends what is no frame")
            victim.distrusted = True
            self.driver.change(lambda: self.driver.distrust(victim.worker))

    # -- the healthy phase

    def _heal(self) -> None:
        self.note("from here on all is well")
        self.hostile = False
        self.driver.bomb = self.bomb_places = 0
        self.lag_s += 0.1  # what was stopped has to be given the time to come round
        self._continue_all()

    def _continue_all(self) -> None:
        for process in self.processes:
            is_stopped = self.stopped.get(process.ident, 0.0) > self.now
            if is_stopped or (process.wake > self.now + 0.1 and not process.blocked):
                process.wake = min(process.wake, self.now)
        self.stopped.clear()

    def _at_rest(self) -> bool:
        worker_set = self.core.worker_set
        if self.unended:
            return False
        if worker_set.pool_state is PoolState.BROKEN:
            return worker_set.over
        workers = worker_set.workers.values()
        if len(self.processes) != len(workers) or any(process.outbox for process in self.processes):
            return False
        return len(workers) == worker_set.size and all(w.phase is Phase.UP and w.seated and not w.inflight for w in workers)

    def _come_to_rest(self) -> None:
        if not self._drive(self.now + GRACE_S, self._at_rest):
            waiting = [(job, job.holder) for job in self.unended]
            worker_set = self.core.worker_set
            raise Violation(f"no rest: {waiting} wait, {list(worker_set.workers.values())}, size {worker_set.size}")
        # an idle pool wakes nobody, in the end: what is left on the heap comes up once and is gone
        before = self.driver.turns
        self._drive(self.now + 2 * 3600.0, lambda: not len(self.core.timers))
        if len(self.core.timers) or self.core.next_deadline() is not None:
            raise Violation(f"an idle pool keeps {len(self.core.timers)} timers")
        if self.driver.turns - before > 12 + 3 * len(self.jobs):
            raise Violation(f"an idle pool turned {self.driver.turns - before} times")
        if not self._drive(self.now + 1.0, self._at_rest):
            raise Violation("the pool was at rest, and is no more")

    def _over(self) -> bool:
        return self.core.worker_set.over

    def _end_by_closing(self) -> None:
        worker_set = self.core.worker_set
        self.note("close")
        worker_set.close()
        self._end(5.0)

    def _end_by_termination(self) -> None:
        self.note("terminate")
        self.hostile = False
        self.driver.bomb = self.bomb_places = 0
        self._continue_all()
        self.terminated = True
        self.driver.terminate_wanted = True
        self._end(5.0)

    def _end(self, within_s: float) -> None:
        self.driver.readable = True
        if not self._drive(self.now + within_s, self._over):
            raise Violation(f"the pool does not end: {list(self.core.worker_set.workers.values())}")
        if self._guarded(self.driver.turn):
            self.check()
        if self.unended:
            raise Violation(f"the pool ended, and {list(self.unended)} did not")
        if self.processes:
            raise Violation(f"{len(self.processes)} processes outlived the pool")
