"""One pool's life in virtual time: the real core, and everything around it simulated.

    user   ---- submit, terminate, resize, restart, close ---->  Driver  ---- frames ---->  Process (one per worker)
    enemy  ---- deaths, stops, pauses, failing forks, ------->   (the engine's turn,        (the worker's loop,
                exceptions in the middle of a turn               step by step)  <- frames -  access by access)

Nothing here knows what is right by asking the core. A `Process` notes what really happened (what it ran, what it sent,
when it died), a `SimJob` compares its end with that, and `World.check` compares the rest after each turn.

The process takes one access to its scoreboard per step, in the order of `billiard._worker.loop`, and whoever is next is
drawn: a worker may stand between any two of them for as long as a preemption lasts, also while the driver is in the
middle of a decision. Stores reach the other side late, by up to `STORE_S`, in order, as a processor's store buffer does it.

A life is made of its seed alone: the same seed tells the same story.
"""

from __future__ import annotations

import dis
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import billiard._core
from billiard._core import outbox
from billiard._core.core import Core
from billiard._core.preemption import TERM_GRACE_S
from billiard._core.restarts import RestartIntensity
from billiard._core.state import FATE, PENDING, Cause, Job, Phase, Worker
from billiard._core.worker_set import FAILED_SPAWNS, FAILED_STARTS, MAX_DEATHS_AT_RECEIPT, PoolState
from billiard._wire.exit_status import EX_RECYCLE
from billiard._wire.frames import (
    ACCEPTED,
    CALL,
    DROPPED,
    ERROR,
    LEAVING,
    READY,
    RESULT,
    RESUME,
    RETIRE,
    SKIPPED,
    VERDICT,
)  # fmt: skip
from billiard._wire.scoreboard import (
    ANY_ITEM,
    CURRENT,
    ITEM,
    RECALLED,
    SKIPPED_FROM,
    SOFT_COUNT,
    SOFT_ITEM,
    SOFT_NUMBER,
    STARTED,
    Scoreboard,
)

NEVER = float("inf")
STORE_S = 0.001  # no store stays invisible for longer than this
RESCUE_S = 0.050  # no job waits longer than this while a worker is idle
LIMIT_LATE_S = 0.050  # no limit is enforced later than this
GRACE_S = 60.0  # virtual seconds in which the healthy phase must come to rest
SIGKILL, SIGTERM, SIGUSR1 = 9, 15, 10
SYNACK_FLAG, ACCEPT_FLAG = 2, 1


_CELLS = {RECALLED: "recalled", SOFT_NUMBER: "soft number", SOFT_ITEM: "soft item", SOFT_COUNT: "soft count"}


class Violation(AssertionError):  # noqa: N818 - it is one, and not an error of the simulation
    """A promise was broken."""


class Interrupted(BaseException):
    """What Ctrl-C or a raising signal handler does to a turn."""


class SimJob(Job):
    """A job that knows the truth about itself, and refuses an end that is not true."""

    def __init__(self, world: World, name: int) -> None:
        self.world = world
        self.name = name
        self._state = PENDING
        self.duration_s = 0.0
        self.items = 0  # of a chunk; 0: a single call
        self.accept = 0
        self.verdict = True
        self.murderer: int | None = None  # the status with which running it ends the worker
        self.poison = False  # its mere receipt does
        self.swallows_soft = False
        self.ignores_term = False
        self.notified = False
        # the truth
        self.runs = 0
        self.sent: tuple[int, int] | None = None
        self.touched: dict[int, int] = {}  # worker ident -> number, where CURRENT was written for it
        self.let_be: dict[int, int] = {}  # ... where it was seen to be skipped
        self.deaths_held = 0
        self.receipt_deaths = 0
        self.waiting_since = 0.0
        self.asked_to_end = False
        self.asked_at = NEVER  # by `terminate`

    @property
    def state(self) -> int:  # type: ignore[override]  # an attribute there
        return self._state

    @state.setter
    def state(self, state: int) -> None:
        if self._state:
            raise Violation(f"{self} ended twice: {self._state} {self.body!r}, then {state}")
        self._state = state
        self.world.ended(self, state)

    def notify_settled(self) -> None:
        self.notified = True

    def __repr__(self) -> str:
        return f"job {self.name}"


class Cells:
    """The parent's view of a scoreboard: each access is a step of its own, and its stores are seen a little later."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def __getitem__(self, index: int) -> int:
        process = self.process
        world = process.world
        world.driver.point()
        process.settle_stores(world.now - STORE_S)
        return process.cells[index]

    def __setitem__(self, index: int, value: int) -> None:
        process = self.process
        process.world.driver.point()
        if process.world.log is not None:
            process.world.note(f"to the scoreboard of worker {process.ident}: {_CELLS[index]} = {value}")
        process.parent_stores.append((process.world.now, index, value))


class SimScoreboard(Scoreboard):
    """The real scoreboard's code over simulated memory."""

    def __init__(self, process: Process) -> None:
        self.cells = Cells(process)  # type: ignore[assignment]  # they stand in for memory


class Process:
    """A worker process: `step` is one access of `billiard._worker.loop` to the world outside it."""

    def __init__(self, world: World, worker: Worker) -> None:
        self.world = world
        self.worker = worker
        self.ident = worker.ident
        self.pid = 1000 + worker.ident
        self.cells = [0] * 12
        self.stores: list[tuple[float, int, int]] = []  # not yet seen by the parent
        self.parent_stores: list[tuple[float, int, int]] = []  # not yet seen by the worker
        self.inbox: deque[tuple[int, int, int, Any]] = deque()
        self.outbox: deque[tuple[int, int, int, Any]] = deque()
        self.alive = True
        self.status: int | None = None
        self.distrusted = False
        self.running: SimJob | None = None  # user code runs
        self.run_from = self.run_lag_s = 0.0
        self.known_at = 0.0  # when its scoreboard first named the call: before, nobody could tell that it had begun
        self.number = 0
        self.paused_s = 0.0  # of the present run
        self.soft_running = self.soft_item = 0
        self.soft_raised = 0
        self.term_pending = False
        self.term_on_continue = False
        self.soft_pending = False
        self.ready = self.reaped = False
        self.seated_at: float | None = None
        self.poisoned_by: SimJob | None = None
        self.retire: int | None = None  # told to while a call waited for its verdict
        self.ran = 0
        self.idle_since: float | None = None
        self.blocked = False
        self.wake = world.now
        self.steps = self._life()
        self.struck_while: tuple[SimJob | None, float] | None = None

    # -- memory

    def store(self, index: int, value: int) -> None:
        self.stores.append((self.world.now, index, value))

    def load(self, index: int) -> int:
        for _, at, value in reversed(self.stores):
            if at == index:
                return value
        limit = self.world.now - STORE_S
        while self.parent_stores and self.parent_stores[0][0] <= limit:
            _, at, value = self.parent_stores.pop(0)
            self.cells[at] = value
        return self.cells[index]

    def settle_stores(self, until: float) -> None:
        while self.stores and self.stores[0][0] <= until:
            _, index, value = self.stores.pop(0)
            self.cells[index] = value

    def settle_parent(self) -> None:
        while self.parent_stores:
            _, index, value = self.parent_stores.pop(0)
            self.cells[index] = value

    # -- the scheduler

    def step(self) -> None:
        world = self.world
        if self.ident in world.stopped:
            until = world.stopped[self.ident]
            if until > world.now:
                self.wake = until
                return
            if self.term_on_continue:
                self.die(-SIGTERM)
                return
        if self.stores and world.chance(0.6):
            self.settle_stores(world.now)
        try:
            self.wake = world.now + next(self.steps)
        except StopIteration as stop:
            self.die(stop.value)

    def die(self, status: int) -> None:
        if not self.alive:
            return
        world = self.world
        self.settle_stores(NEVER)
        self.alive, self.status, self.wake = False, status, NEVER
        self.running = None
        self.idle_since = None
        self.steps.close()
        if world.log is not None:
            world.note(f"worker {self.ident} ends with {status}")
        world.processes.remove(self)
        world.unbidden_deaths += status not in (0, EX_RECYCLE)
        world.failed_starts += not self.ready
        world.driver.expect(world.now + world.delay(), ("exited", self.worker, status))

    def send(self, kind: int, tag: int, number: int, body: Any) -> None:
        self.settle_stores(NEVER)  # a system call
        self.outbox.append((kind, tag, number, body))
        self.world.driver.readable = True

    def arrived(self) -> None:
        if self.blocked and self.alive:
            self.blocked = False
            self.wake = self.world.now + self.world.delay()

    # -- the worker's loop

    def _receive(self) -> Iterator[float]:
        while not self.inbox:
            self.settle_stores(NEVER)
            self.blocked = True
            self.idle_since = self.world.now - self.world.lag_s
            yield NEVER
        self.idle_since = None
        self.world.driver.flush_wanted(self)

    def _life(self) -> Iterator[float]:
        world, rng = self.world, self.world.rng
        delay = world.delay
        yield world.start_s()
        if world.hostile and world.bad_starts and rng.random() < world.bad_starts:
            return rng.choice((1, 1, -11, -9, 0))
        self.ready = True
        self.send(READY, self.pid, 0, None)
        yield delay()
        honoured = 0
        while True:
            yield from self._receive()
            kind, tag, number, job = self.inbox.popleft()
            if kind == RESUME:
                honoured = number
                continue
            if kind == RETIRE:
                return tag
            if kind != CALL:
                continue
            if job.poison and world.hostile and not honoured < self.load(RECALLED) <= number:
                self.poisoned_by = job
                return -11
            self.store(STARTED, int(world.now * 1e9))
            started = self.run_from = world.now
            self.paused_s = 0.0
            yield delay()
            self.store(ITEM, 0)
            yield delay()
            self.store(CURRENT, number)
            self.known_at = world.now
            job.touched[self.ident] = number
            job.let_be.pop(self.ident, None)
            self.number = number
            yield delay()
            recalled = self.load(RECALLED)
            yield delay()
            if recalled > honoured and number >= recalled:
                skipped = self.load(SKIPPED_FROM)
                yield delay()
                if skipped < recalled:
                    self.store(SKIPPED_FROM, number)
                    job.let_be[self.ident] = number
                    if world.log is not None:
                        world.note(f"worker {self.ident} lets {number} and what is behind it be")
                    yield delay()
                    self.send(SKIPPED, 0, 0, (number, 0))
                    yield delay()
                else:
                    job.let_be[self.ident] = number
                continue
            if job.accept:
                if job.accept & SYNACK_FLAG:
                    self.store(STARTED, 1 << 63)
                    yield delay()
                self.send(ACCEPTED, 0, 0, (number, int(started * 1e9)))
                yield delay()
                if job.accept & SYNACK_FLAG:
                    run = yield from self._verdict(number)
                    if run is None:
                        return 0
                    if not run:
                        if self.retire is not None:
                            return self.retire
                        continue
            reply = yield from self._run(job, number)
            if type(reply) is int:
                return reply
            yield delay()
            job.sent = (self.ident, number)
            self.send(reply[0], int(min((world.now - started) * 1e6, 4e9)), number, job.sent)
            yield delay()
            if self.retire is not None:
                return self.retire
            if world.leaves and rng.random() < world.leaves:
                self.send(LEAVING, 0, 0, (number, 0))
                yield delay()
                return EX_RECYCLE

    def _verdict(self, number: int) -> Iterator[float]:
        while True:
            yield from self._receive()
            kind, tag, of, _ = self.inbox.popleft()
            if kind == VERDICT and of == number:
                if tag:
                    self.store(STARTED, int(self.world.now * 1e9))
                    self.run_from, self.paused_s = self.world.now, 0.0
                    yield self.world.delay()
                    return True
                self.send(DROPPED, 0, 0, (number, 0))
                yield self.world.delay()
                return False
            if kind == RETIRE:
                self.retire = tag

    def _run(self, job: SimJob, number: int) -> Iterator[Any]:
        """User code. Returns the frame to send, or the status that the worker ended with."""
        world = self.world
        self.soft_running = number
        world.starts(self, job, number)
        if job.murderer is not None and world.hostile:
            yield world.delay()
            return job.murderer
        reply = (RESULT,)
        for item in range(job.items or 1):
            if job.items:
                self.store(STARTED, int(world.now * 1e9))
                begun = world.now
                yield world.delay()
                self.store(ITEM, item)
                self.soft_item = item
                if item:  # the first one's time is the call's: its unpickling counts
                    self.run_from, self.paused_s = begun, 0.0
                yield world.delay()
            rest = job.duration_s
            while rest > 1e-7:
                before = world.now - self.paused_s
                self.settle_stores(NEVER)
                yield min(rest, 0.02)
                rest -= world.now - self.paused_s - before
                if self.term_pending:
                    self.term_pending = False
                    if not job.ignores_term:
                        self.running = None
                        return -SIGTERM
                if self.soft_pending:
                    self.soft_pending = False
                    if (yield from self._soft(job)):
                        reply = (ERROR,)
                        break
            if reply[0] == ERROR:
                break
        self.soft_running = self.soft_item = 0
        self.running = None
        self.number = 0
        return reply

    def _soft(self, job: SimJob) -> Iterator[Any]:
        """The handler of the soft limit's signal. Whether the exception got through."""
        number = self.load(SOFT_NUMBER)
        yield self.world.delay()
        item = self.load(SOFT_ITEM)
        aim = self.load(SOFT_COUNT)
        if number != self.soft_running or item not in (self.soft_item, ANY_ITEM) or aim == self.soft_raised:
            return False
        self.soft_raised = aim
        self.world.soft_raises(self, job)
        if job.swallows_soft:
            job.swallows_soft = False
            self.soft_raised = 0
            self.soft_pending = True  # the worker signals itself
            return False
        return True

    # -- signals

    def signal(self, signum: int) -> None:
        if not self.alive:
            return
        if signum == SIGUSR1:
            # between two calls the handler runs at once, and finds nothing to aim at
            self.soft_pending = self.running is not None
            self._hurry()
        elif signum == SIGKILL:
            self.die(-SIGKILL)
        elif self.running is None or not self.running.ignores_term:
            until = self.world.stopped.get(self.ident, 0.0)
            if until <= self.world.now:
                self.die(-signum)
            else:
                self.term_on_continue, self.wake = True, until
        else:
            self.term_pending = True
            self._hurry()

    def _hurry(self) -> None:
        if self.running is not None and self.wake < NEVER and self.world.stopped.get(self.ident, 0.0) <= self.world.now:
            self.wake = min(self.wake, self.world.now + self.world.delay())


class WorkerLink:
    """What the engine keeps of a worker (`billiard._supervisor.worker_link`)."""

    def __init__(self) -> None:
        self.process: Process | None = None
        self.outgoing: deque[tuple[int, int, int, Any]] = deque()
        self.written = 1
        self.control: tuple[Any, ...] = ()
        self.retired = False
        self.exited = False
        self.exit_status: int | None = None
        self.kill_on_start = 0
        self.closed_by_peer = False
        self.reading = 0  # so many frames were applied, perhaps not all of them wholly, and not consumed


class Driver:
    """The engine's turn (`billiard._supervisor.turning`), in its order, cut short wherever the enemy likes."""

    def __init__(self, world: World, core: Core) -> None:
        self.world = world
        self.core = core
        self.random = world.rng.random
        self.readable = self.news = False
        self.unfinished = False
        self.events: deque[tuple[float, tuple[str, Worker, int]]] = deque()
        self.exits: dict[Worker, None] = {}
        self.writable: dict[Worker, None] = {}
        self.terminate_wanted = False
        self.grace_over: float | None = None
        self.bomb = 0  # an exception in so many steps
        self.turns = 0
        self.in_turn = False

    # -- interruptions

    def point(self) -> None:
        """Between two steps: time passes, and sometimes an exception comes."""
        world = self.world
        if self.bomb:
            self.bomb -= 1
            if not self.bomb:
                if world.log is not None:
                    world.note("an exception in the driver")
                raise Interrupted
        if self.random() < world.slow_driver:
            delay = world.delay()
            world.lag_s += delay
            world.elapse(world.now + delay, bystander=True)

    def expect(self, when: float, event: tuple[str, Worker, int]) -> None:
        """The launcher will tell, in the order in which things happened."""
        if self.events:
            when = max(when, self.events[-1][0])
        self.events.append((when, event))
        self.news = True

    def flush_wanted(self, process: Process) -> None:
        link = process.worker.link
        if link is not None and link.outgoing:
            self.writable[process.worker] = None
            self.readable = True

    # -- the turn

    def deadline(self) -> float:
        if self.unfinished:
            return 0.0
        when = self.core.next_deadline()
        if self.events:
            return min(NEVER if when is None else when, self.events[0][0])
        return NEVER if when is None else when

    def turn(self) -> None:
        self.turns += 1
        self.readable = False
        world = self.world
        for process in world.processes:
            process.settle_parent()  # the poll was a system call
        self.process(world.now)
        dispatch = self.core.dispatch
        if dispatch.backlog and (dispatch.idle or dispatch.open):
            self.kick()

    def kick(self) -> None:
        dispatch = self.core.dispatch
        for _ in range(100):
            try:
                self.core.assign(self.world.now)
                self.point()
                self._write_all()
            except Interrupted:
                self.unfinished = True
                raise
            finally:
                if dispatch.unwritten:
                    self.readable = True
            if not (dispatch.backlog and (dispatch.idle or dispatch.open)):
                return
        raise Violation("the kick does not come to an end")

    def process(self, now: float) -> None:
        everything = self.unfinished
        self.unfinished = True
        self.core.dispatch.turned(now)
        self.point()
        writable = list(self.writable)
        if everything:
            self.core.worker_set.mark_dirty()
            writable = list(self.core.worker_set.workers.values())
        for worker in writable:
            if worker.link is not None:
                self._flush(worker)
                self._write(worker)
            self.writable.pop(worker, None)
        for worker in list(self.core.worker_set.workers.values()):
            link = worker.link
            if link is not None and link.process is not None and link.process.outbox and not link.closed_by_peer:
                self._receive(worker)
            if link is not None and link.process is not None and link.process.distrusted:
                self.distrust(worker)
        while self.events and self.events[0][0] <= now:
            self._on_event(*self.events[0][1], now)
            self.events.popleft()
        for worker in list(self.exits):
            self.point()
            self._reap(worker, now)
        deadline = self.core.timers.next()
        if deadline is not None and deadline <= now:
            for worker, kind in self.core.timers.due(now):
                if worker.link is not None and not worker.link.closed_by_peer:
                    self._drain(worker)
                self.point()
                self.core.on_timer(worker, kind, now)
        if self.terminate_wanted:
            self.core.worker_set.terminate()
            self._kill_all(SIGTERM, Cause.POOL_TERMINATED, now)
            self.terminate_wanted = False
        self.carry_out(now)
        self.unfinished = False

    def distrust(self, worker: Worker) -> None:
        """What it sent is no frame. It is there to be found again until it is condemned."""
        if not worker.link.closed_by_peer:
            self.core.preemption.kill_now(worker, SIGKILL, Cause.LOST, self.world.now)
            self.point()
            worker.link.closed_by_peer = True

    def carry_out(self, now: float) -> None:
        core = self.core
        core.decide(now)
        self.point()
        orders, signals, notifications = core.outbox.orders, core.outbox.signals, core.outbox.notifications
        while orders or signals:
            queue = signals or orders
            self._obey(*queue[0], now)
            self.point()
            queue.popleft()
        if core.dispatch.unwritten:
            self._write_all()
        if core.worker_set.pool_state is PoolState.BROKEN and self.grace_over is None:
            self._kill_all(SIGKILL, Cause.RESTARTS, now)
        while notifications:
            self._notify(*notifications[0], now)
            notifications.popleft()
        settled = core.dispatch.settled
        while settled:
            settled[0].notify_settled()  # type: ignore[attr-defined]  # of this world's jobs
            self.point()
            settled.popleft()

    def _notify(self, kind: str, subject: Any, value: Any, now: float) -> None:
        world = self.world
        if world.log is not None:
            world.note(f"notification {kind} of {subject} {value}")
        if kind == outbox.ACCEPTED and subject.accept & SYNACK_FLAG and subject not in world.verdicts:
            world.verdicts[subject] = now + world.delay()

    def send_verdict(self, job: SimJob, run: bool) -> None:
        worker = job.holder
        if worker is not None and worker.link is not None and job.number in worker.inflight:

            def decide() -> None:
                worker.link.control += ((VERDICT, int(run), job.number, None),)
                self.core.dispatch.unwritten[worker] = None

            self.change(decide)

    def change(self, decide: Callable[[], object]) -> None:
        rest, self.unfinished = self.unfinished, True
        decide()
        self.point()
        self.carry_out(self.world.now)
        self.unfinished = rest
        dispatch = self.core.dispatch
        if dispatch.backlog and (dispatch.idle or dispatch.open):
            self.kick()

    def _write_all(self) -> None:
        unwritten = self.core.dispatch.unwritten
        while unwritten:
            worker = next(iter(unwritten))
            self._write(worker)
            self.point()
            del unwritten[worker]

    # -- a channel

    def _receive(self, worker: Worker) -> bool:
        process = worker.link.process
        held = len(process.outbox)
        if not held:
            return True
        world = self.world
        count = held if world.chance(0.8) else world.rng.randint(1, held)
        worker.link.reading = count = max(count, worker.link.reading)  # what was not consumed is read again
        batch = [process.outbox[index] for index in range(count)]
        self.point()
        self._apply(worker, batch)
        self.point()
        worker.link.reading = 0
        for _ in range(count):
            process.outbox.popleft()
        if process.outbox:
            self.readable = True
        return False

    def _drain(self, worker: Worker) -> None:
        while worker.link.process is not None and not self._receive(worker):
            pass

    def _apply(self, worker: Worker, batch: list[tuple[int, int, int, Any]]) -> None:
        for kind, tag, _, body in self.core.dispatch.results(worker, batch):
            self._apply_rare(worker, kind, tag, body)
        if worker.phase >= Phase.RETIRING:
            self.core.worker_set.emptied(worker)

    def _apply_rare(self, worker: Worker, kind: int, tag: int, body: Any) -> None:
        core = self.core
        if kind == READY:
            core.worker_set.ready(worker)
            return
        number, value = body
        job = worker.inflight.get(number)
        if kind == ACCEPTED:
            if job is not None:
                core.outbox.notifications.append((outbox.ACCEPTED, job, (worker.pid, value / 1e9)))
        elif kind == SKIPPED:
            core.preemption.skipped(worker, number)
        elif kind == LEAVING:
            core.worker_set.leaving(worker, number)
            core.worker_set.emptied(worker)
        elif kind == DROPPED:
            core.preemption.dropped(worker, number)
        else:
            raise Violation(f"frame of kind {kind}")

    def _write(self, worker: Worker) -> None:
        link: WorkerLink | None = worker.link
        if link is None or link.exited:
            return
        while not link.outgoing:
            parts: list[tuple[int, int, int, Any]] = []
            if worker.resume:
                parts.append((RESUME, 0, worker.resume, None))
            parts += link.control
            number, stop, inflight = link.written, worker.next_number, worker.inflight
            while number < stop:
                job = inflight.get(number)
                if job is not None:
                    if job.number != number:
                        raise Violation(f"{job} stands at {number} and is numbered {job.number}")
                    parts.append((CALL, job.function_id, number, job))
                number += 1
            retire = worker.phase is Phase.RETIRING and not link.retired
            if retire:
                parts.append((RETIRE, worker.retire_status, 0, None))
            if not parts:
                link.written = number
                return
            self.point()
            link.outgoing.extend(parts)
            link.written, worker.resume, link.control, link.retired = number, 0, (), link.retired or retire
            self._flush(worker)

    def _flush(self, worker: Worker) -> None:
        link = worker.link
        process = link.process
        if process is None:
            return  # not forked yet: the socket holds it
        if not process.alive:
            link.outgoing.clear()
            return
        room = self.world.pipe
        while link.outgoing and len(process.inbox) < room:
            process.inbox.append(link.outgoing.popleft())
            process.arrived()
        if link.outgoing and not process.inbox:
            raise Violation("the pipe is stuck")

    # -- orders

    def _obey(self, order: str, worker: Worker, number: int, now: float) -> None:
        world = self.world
        if world.log is not None:
            world.note(f"order {order} {worker} {number}")
        if order == outbox.SPAWN:
            self._spawn(worker, now)
        elif order == outbox.RETIRE:
            if worker.link is None:
                self.core.worker_set.exited(worker, 0, now)
            self.core.dispatch.unwritten[worker] = None
        elif order == outbox.KILL:
            self._kill(worker, number)
        elif order == outbox.INTERRUPT and worker.pid is not None and worker.phase <= Phase.KILLED:
            process = world.by_ident[worker.ident]
            self.point()
            process.signal(SIGUSR1)
        else:
            if order != outbox.INTERRUPT:
                raise Violation(f"an order called {order}")

    def _kill(self, worker: Worker, signum: int) -> None:
        if worker.phase is Phase.GONE or worker.link is None:
            return
        if worker.pid is None:
            worker.link.kill_on_start = signum
        elif not worker.link.exited:
            self.point()
            self.world.blow_lands(worker, signum)

    def _spawn(self, worker: Worker, now: float) -> None:
        if worker.phase is not Phase.STARTING and worker.link is None:
            self.core.worker_set.exited(worker, None, now)
            return
        world = self.world
        if worker.link is None:
            worker.link = WorkerLink()
        link = worker.link
        self.point()
        if link.process is None:
            if world.hostile and world.chance(world.bad_forks):
                worker.link = worker.scoreboard = None
                world.failed_forks += 1
                self.core.not_spawned(worker, OSError(11, "no process"), now)
                return
            process = Process(world, worker)
            worker.scoreboard = SimScoreboard(process)
            link.process = process
            if world.hostile and world.chance(world.bad_forks):
                process.alive = False
                process.wake = NEVER
                world.failed_forks += 1
                self.expect(world.now + world.delay(), ("not started", worker, 11))
                return
            world.processes.append(process)
            world.by_ident[worker.ident] = process
            process.wake = world.now + world.delay()
            self.expect(world.now + world.delay(), ("started", worker, process.pid))
            self._flush(worker)

    # -- what the launcher tells

    def _on_event(self, what: str, worker: Worker, value: int, now: float) -> None:
        if self.core.worker_set.workers.get(worker.ident) is None or worker.link is None:
            return
        link = worker.link
        if what == "started":
            worker.pid = value
            if link.kill_on_start:
                self._kill(worker, link.kill_on_start)
        elif what == "exited":
            link.exited, link.exit_status = True, value
            self.exits[worker] = None
        else:
            worker.link = worker.scoreboard = None
            self.core.not_spawned(worker, OSError(value, "not started"), now)

    def _reap(self, worker: Worker, now: float) -> None:
        link = worker.link
        if link is not None:
            if not link.closed_by_peer:
                self._drain(worker)
            self.point()
            if worker.phase is not Phase.GONE:
                self.world.before_burial(worker)
            self.core.worker_set.exited(worker, link.exit_status, now)
            self.point()
            worker.scoreboard = None
            worker.link = None
        self.exits.pop(worker, None)

    def _kill_all(self, signum: int, cause: Cause, now: float) -> None:
        self.grace_over = now
        for worker in list(self.core.worker_set.workers.values()):
            if worker.link is None:
                self.core.worker_set.exited(worker, None, now)
            elif not worker.link.exited:
                self.core.preemption.kill_now(worker, signum, cause, now)
        signals = self.core.outbox.signals
        while signals:
            self._obey(*signals[0], now)
            signals.popleft()


# -- exceptions inside the core

_CORE_FILES = {str(path) for path in Path(billiard._core.__file__).parent.glob("*.py")}
_CALLS = {opcode for name, opcode in dis.opmap.items() if name.startswith("CALL") and "INTRINSIC" not in name}
_ENTRIES = {dis.opmap["RESUME"]} if "RESUME" in dis.opmap else set()
_LOOPS = {opcode for name, opcode in dis.opmap.items() if name.startswith("JUMP_BACKWARD")}


class CoreBomb:
    """Raises inside the core at the n-th place at which the interpreter would run a signal handler: at the entry
    of a function, after a call, at the end of a loop's body."""

    def __init__(self, world: World, places: int) -> None:
        self.world = world
        self.places = places

    def __enter__(self) -> None:
        sys.settrace(self._call)

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def _call(self, frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in _CORE_FILES or frame.f_code.co_flags & 0x20:
            return None  # a generator expression or somebody else's
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        code = frame.f_code.co_code
        before = -1

        def trace(frame: Any, event: str, arg: Any) -> Any:
            nonlocal before
            if event == "opcode":
                now = code[frame.f_lasti]
                if before in _CALLS or before in _LOOPS or before in _ENTRIES:
                    self.places -= 1
                    if self.places <= 0:
                        sys.settrace(None)
                        world = self.world
                        if world.log is not None:
                            world.note(f"an exception in {frame.f_code.co_qualname}:{frame.f_lineno}")
                        raise Interrupted
                before = now
            return trace

        return trace


# -- the world


class World:
    """A seed, unfolded."""

    def __init__(self, seed: int, log: list[str] | None = None) -> None:
        self.seed = seed
        self.log = log
        self.rng = rng = random.Random(seed)
        self.chance_ = rng.random
        self.now = 100.0
        self.hostile = True
        self.processes: list[Process] = []
        self.by_ident: dict[int, Process] = {}
        self.stopped: dict[int, float] = {}
        self.jobs: list[SimJob] = []
        self.queued: dict[SimJob, None] = {}  # not started
        self.unended: dict[SimJob, None] = {}
        self.fresh: list[SimJob] = []  # ended since the last check
        self.asked: list[SimJob] = []
        self.verdicts: dict[SimJob, float] = {}
        self.failed_forks = self.failed_starts = 0
        self.unbidden_deaths = 0
        self.lag_s = 0.0  # time in which nobody could do anything about it
        self.terminated = False
        self.terminated_workers: dict[int, None] = {}
        self._draw()
        restarts = RestartIntensity(self.max_restarts, 10.0) if self.max_restarts is not None else None
        self.core = Core(self.size, self.quota, restarts, self.window)
        self.driver = Driver(self, self.core)
        self.seats = 0
        self.most_seats = self.size
        for function_id, run_us in self.known.items():
            self.core.dispatch._measure(function_id, run_us)

    def _draw(self) -> None:
        """What kind of life this is. Each kind of trouble is in some lives only, so that none hides another."""
        rng = self.rng

        def some(chance: float, value: Any, otherwise: Any) -> Any:
            return value if rng.random() < chance else otherwise

        self.size = rng.choice((1, 1, 2, 2, 2, 3, 4))
        self.quota = some(0.3, rng.randint(1, 4), None)
        self.synack = rng.random() < 0.08
        self.window = 1 if self.synack else rng.choice((1, 3, 64, 4096))
        self.max_restarts = some(0.15, rng.randint(0, 4), None)
        self.known = some(0.6, {1: rng.choice((0.5, 20.0, 900.0)), 2: rng.choice((5.0, 400.0))}, {})
        self.pipe = rng.choice((1, 3, 1000, 1000))
        self.preempt = rng.choice((0.0, 0.05, 0.3))
        self.slow_driver = rng.choice((0.02, 0.2, 0.5))
        self.bad_starts = some(0.1, rng.choice((0.1, 0.5, 1.0)), 0.0)
        self.bad_forks = some(0.1, rng.choice((0.1, 0.5, 0.95)), 0.0)
        self.leaves = some(0.15, 0.2, 0.0)
        self.limits = rng.random() < 0.5
        self.edge = rng.random() < 0.3  # limits within a millisecond of the run time
        self.deadly = some(0.3, 0.15, 0.0)
        self.poisoned = some(0.1, 0.2, 0.0)
        self.deeds = ["submit"] * 6 + [
            deed
            for deed, chance in {
                "kill": 0.5, "terminate": 0.5, "terminate worker": 0.2, "resize": 0.3, "restart": 0.15, "stop": 0.15,
                "pause": 0.15, "suspend": 0.1, "bomb": 0.3, "core bomb": 0.08, "distrust": 0.05,
            }.items()
            if rng.random() < chance
        ]  # fmt: skip
        self.ending = rng.choice(("close", "close", "close", "terminate"))
        self.actions_left = rng.randint(2, 14)
        self.gap_s = rng.choice((0.0001, 0.001, 0.005, 0.02))

    # -- chance and time

    def chance(self, share: float) -> bool:
        return self.chance_() < share

    def delay(self) -> float:
        """How long the next step is in coming."""
        draw = self.chance_()
        if draw < self.preempt:
            return self.chance_() * 0.004
        return draw * 4e-6

    def start_s(self) -> float:
        return self.chance_() * 0.003

    def note(self, text: str) -> None:
        if self.log is not None:
            self.log.append(f"{(self.now - 100) * 1e3:10.3f} ms  {text}")

    def elapse(self, until: float, bystander: bool = False) -> None:
        """Let the workers live until then. A `bystander` is in the middle of something; else return at the first news."""
        processes = self.processes
        driver = self.driver
        driver.news = False
        while True:
            when, who = until, None
            for process in processes:
                if process.wake < when:
                    when, who = process.wake, process
            if who is None:
                if until < NEVER:
                    self.now = max(self.now, until)
                return
            if when > self.now:
                self.now = when
            who.step()
            if (driver.readable or driver.news) and not bystander:
                return

    # -- the truth, and what contradicts it

    def starts(self, process: Process, job: SimJob, number: int) -> None:
        worker = process.worker
        if self.log is not None:
            self.note(f"worker {process.ident} starts {job} as {number}")
        job.runs += 1
        process.ran += 1
        process.running, process.run_lag_s = job, self.lag_s
        self.queued.pop(job, None)
        if job.runs > 1:
            raise Violation(f"{job} runs twice")
        if job.state:
            raise Violation(f"{job} runs though it ended: {job.body}")
        if self.quota is not None and process.ran > self.quota:
            raise Violation(f"worker {process.ident} runs {process.ran} calls, {self.quota} were allowed")
        if not worker.seated:
            raise Violation(f"worker {process.ident} runs {job} without a seat")

    def soft_raises(self, process: Process, job: SimJob) -> None:
        if job.soft_s is None:
            raise Violation(f"a soft limit struck {job}, which has none")
        run_s = self.now - process.run_from - process.paused_s
        if run_s < job.soft_s - 1e-6:
            raise Violation(f"a soft limit of {job.soft_s} s struck {job} after {run_s} s")

    def blow_lands(self, worker: Worker, signum: int) -> None:
        process = self.by_ident[worker.ident]
        request = worker.kill_request
        job = process.running
        if request is not None and request.number and job is not None:
            if job.number != request.number or process.number != request.number:
                raise Violation(f"a kill meant for {request.number} hits {process.number} ({job})")
            if request.cause is Cause.TIME_LIMIT:
                run_s = self.now - process.run_from - process.paused_s
                least = job.hard_s or 0.0
                # the items of a chunk pass without a message: one may begin while the signal is on its way
                if run_s < least - 1e-6 and not job.items:
                    raise Violation(f"{job} was struck after {run_s} s of {least} s")
            if request.cause is Cause.TERMINATED and not job.asked_to_end:
                raise Violation(f"nobody wanted {job} to end")
        process.signal(signum)

    def before_burial(self, worker: Worker) -> None:
        process = self.by_ident[worker.ident]
        if process.outbox and not worker.link.closed_by_peer:
            raise Violation("reaped before all was read")
        if process.reaped:
            return
        process.reaped = True
        if process.poisoned_by is not None and not (worker.kill_request is not None and worker.kill_request.sent):
            process.poisoned_by.receipt_deaths += 1
            if process.poisoned_by.receipt_deaths > MAX_DEATHS_AT_RECEIPT:
                raise Violation(f"{process.poisoned_by} killed {process.poisoned_by.receipt_deaths} workers by its receipt")
        for number, job in worker.inflight.items():
            if job.touched.get(process.ident) != number:
                job.deaths_held += 1  # type: ignore[attr-defined]  # of this world's jobs
        suspect = self.core.dispatch.suspects.get(worker)
        if suspect is not None and suspect not in worker.inflight.values():
            suspect.deaths_held += 1  # type: ignore[attr-defined]  # of this world's jobs

    def ended(self, job: SimJob, state: int) -> None:
        if self.log is not None:
            self.note(f"{job} ends: {state} {job.body}")
        body = job.body
        self.queued.pop(job, None)
        self.unended.pop(job, None)
        self.fresh.append(job)
        if state in (RESULT, ERROR):
            if job.sent is None or body != job.sent:
                raise Violation(f"{job} has a result that nobody sent: {body}")
            return
        if state != FATE:
            raise Violation(f"{job} ended with the unknown state {state}")
        cause, worker = body.cause, body.worker
        process = self.by_ident.get(worker.ident) if worker is not None else None
        if job.sent is not None and not self.by_ident[job.sent[0]].distrusted:
            raise Violation(f"{job} sent its result and ended with {body}")
        if cause is Cause.LOST and not body.started:
            if job.deaths_held < MAX_DEATHS_AT_RECEIPT:
                raise Violation(f"{job} was given up after {job.deaths_held} deaths")
            if job.runs:
                raise Violation(f"{job} had started, and its end denies it")
        elif cause in (Cause.LOST, Cause.TIME_LIMIT) or (cause is Cause.TERMINATED and worker is not None):
            self._ended_with_worker(job, body, process)
        elif cause is Cause.TERMINATED:
            if not job.asked_to_end or job.runs:
                raise Violation(f"{job} terminated unstarted: asked {job.asked_to_end}, ran {job.runs} times")
        elif cause is Cause.POOL_TERMINATED:
            if not self.terminated:
                raise Violation("the pool was not terminated")
        elif not self._may_break(cause):
            raise Violation(f"the pool broke down without a reason: {body}")

    def _ended_with_worker(self, job: SimJob, fate: Any, process: Process | None) -> None:
        if process is None or process.alive:
            raise Violation(f"{job} failed with a worker that lives: {fate}")
        if job.touched.get(process.ident) is None:
            raise Violation(f"{job} had not started and failed: {fate}")
        if process.ident in job.let_be:
            raise Violation(f"{job} was skipped, and failed: {fate}")
        if fate.status != process.status:
            raise Violation(f"the worker of {job} ended with {process.status}, its fate says {fate.status}")
        request = fate.worker.kill_request
        if fate.cause is Cause.LOST and request is not None and request.sent and request.number not in (0, job.number):
            raise Violation(f"a kill meant for call {request.number} lost {job}")
        if fate.cause is not Cause.LOST and not (request is not None and request.sent and request.number in (0, job.number)):
            raise Violation(f"no kill of {job} was sent: {fate}")
        if fate.cause is Cause.TIME_LIMIT and job.hard_s is None:
            raise Violation(f"{job} has no limit, and exceeded it")
        if fate.cause is Cause.TERMINATED and not (job.asked_to_end or process.ident in self.terminated_workers):
            raise Violation(f"nobody wanted {job} to end")

    def _may_break(self, cause: Cause) -> bool:
        if self.core.worker_set.broken_by is None:
            return False
        if cause is Cause.RESTARTS:
            return self.max_restarts is not None and self.unbidden_deaths > self.max_restarts
        if cause is Cause.UNSTARTABLE:
            return self.failed_starts >= FAILED_STARTS + 1 or self.failed_forks >= FAILED_SPAWNS
        return False

    def check(self) -> None:
        """After a whole turn, with everything carried out."""
        core = self.core
        worker_set = core.worker_set
        seats = 0
        active = 0
        for worker in worker_set.workers.values():
            seats += worker.seated
            active += worker.active
            for number, job in worker.inflight.items():
                if job.number != number or job.holder is not worker:
                    raise Violation(f"{worker} holds {job} at {number}, but {job} says {job.number} of {job.holder}")
                if job.state:
                    raise Violation(f"{worker} holds {job}, which has ended")
            if worker.phase is Phase.GONE:
                raise Violation(f"{worker} is gone and still counted")
        if seats > max(worker_set.size, self.seats):
            raise Violation(f"{seats} seats are taken in a pool of {worker_set.size}")
        self.seats = seats
        if worker_set.pool_state is PoolState.RUN and active > worker_set.size:
            raise Violation(f"{active} active workers in a pool of {worker_set.size}")
        if len(core.timers) > 40 + 20 * len(worker_set.workers) + 4 * len(self.jobs):
            raise Violation(f"{len(core.timers)} timers")
        due, dispatch = core.outbox, core.dispatch
        if due.orders or due.signals or due.notifications or dispatch.settled or dispatch.limited:
            raise Violation("a turn ended with something left to do")
        for job in self.fresh:
            if job.watched and not job.notified:
                raise Violation(f"{job} ended, and nobody was told")
        self.fresh.clear()
        self._check_times()

    def _check_times(self) -> None:
        now = self.now
        idle_from: float = NEVER
        who: Worker | None = None
        for job in self.asked:
            if now - self.lag_s - job.asked_at > LIMIT_LATE_S + TERM_GRACE_S and not job.state:
                raise Violation(f"{job} was to end and did not")
        for process in self.processes:
            job = process.running
            worker = process.worker
            if job is not None and job.hard_s is not None and worker.phase is not Phase.KILLED:
                due = max(process.run_from + process.paused_s + job.hard_s, process.known_at)
                over_s = now - due - (self.lag_s - process.run_lag_s)
                if over_s > LIMIT_LATE_S:
                    raise Violation(f"{job} runs {over_s * 1e3} ms over its limit")
            if process.idle_since is not None and not process.inbox and worker.phase is Phase.UP and worker.seated:
                if process.seated_at is None:
                    process.seated_at = now - self.lag_s
                since = max(process.idle_since, process.seated_at)
                if since < idle_from:
                    idle_from, who = since, worker
        if idle_from == NEVER or self.core.worker_set.pool_state > PoolState.CLOSE:
            return
        bound = now - self.lag_s - RESCUE_S
        if idle_from >= bound:
            return
        for job in self.queued:
            if not job.state and job.waiting_since < bound and not job.asked_to_end:
                holder = job.holder
                if holder is not None:
                    first = next(iter(holder.inflight), 0)
                    if first == job.number or holder.ident in self.stopped:
                        continue  # it is next, or at the door
                raise Violation(f"{job} waits while {who} is idle since {(bound + RESCUE_S - idle_from) * 1e3:.1f} ms")
