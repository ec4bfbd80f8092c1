"""A second opinion: hypothesis drives the bare core, without the simulation's driver and worker, and looks at its books."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from billiard._core import outbox
from billiard._core.core import Core
from billiard._core.state import FATE, Cause, Job, Phase
from billiard._core.worker_set import PoolState
from billiard._wire.scoreboard import Progress

RESULT = 2


class Page:
    """A scoreboard whose worker obeys at once."""

    def __init__(self):
        self.current = self.started_ns = self.item = self.skipped_from = self.recalled = 0

    def read(self):
        return Progress(self.current, self.started_ns, self.item, self.skipped_from)

    def recall(self, number):
        assert number > 0
        self.recalled = number

    def aim(self, number, item=-1):
        assert number == self.current


class CoreMachine(RuleBasedStateMachine):
    """Each rule is one fact that a driver tells; the books are balanced after each."""

    workers = Bundle("workers")
    jobs = Bundle("jobs")

    def __init__(self):
        super().__init__()
        self.core = Core(2, max_tasks_per_child=4)
        self.now = 10.0
        self.all = []
        self.pages = {}
        self.dead = []
        self.struck = []

    def settle(self):
        self.core.decide(self.now)
        self.core.dispatch.unwritten.clear()
        self.core.outbox.notifications.clear()
        while self.core.dispatch.settled:
            assert self.core.dispatch.settled.popleft().state
        for queue in (self.core.outbox.orders, self.core.outbox.signals):
            for order, worker, number in list(queue):
                if order == outbox.KILL:
                    assert worker.phase is Phase.KILLED
                    self.struck.append((worker, number))
            kept = [order for order in queue if order[0] == outbox.SPAWN]
            queue.clear()
            queue.extend(kept)

    @rule(
        target=jobs,
        function_id=st.integers(0, 2),
        size=st.sampled_from([10, 70_000]),
        hard_s=st.sampled_from([None, 0.01, 5.0]),
    )
    def submit(self, function_id, size, hard_s):
        job = Job()
        job.function_id, job.size, job.watched = function_id, size, True
        if hard_s is not None:
            job.limit(None, hard_s)
        self.all.append(job)
        self.core.dispatch.backlog.append(job)
        self.settle()
        return job

    @rule(target=workers)
    def spawn(self):
        self.settle()
        orders = self.core.outbox.orders
        while orders:
            _, worker, _ = orders.popleft()
            if worker.phase is Phase.STARTING:
                worker.scoreboard = self.pages[worker] = Page()
                worker.pid = worker.ident
                self.core.worker_set.ready(worker)
                self.settle()
                return worker
        return None

    @rule(worker=workers)
    def take(self, worker):
        """It comes to the next call, or lets it be."""
        if worker is None or worker.phase is Phase.GONE:
            return
        page = self.pages[worker]
        for number in worker.inflight:
            if number > page.current:
                page.started_ns, page.current = int(self.now * 1e9), number
                if worker.recalled and number >= worker.recalled:
                    page.skipped_from = number
                    self.core.preemption.skipped(worker, number)
                break
        self.settle()

    @rule(worker=workers, run_us=st.sampled_from([1, 500, 100_000]))
    def finish(self, worker, run_us):
        if worker is None or worker.phase is Phase.GONE:
            return
        page = self.pages[worker]
        if page.current in worker.inflight and page.skipped_from != page.current:
            job = worker.inflight[page.current]
            for _ in range(2):  # told twice after an interruption
                self.core.dispatch.results(worker, [(RESULT, run_us, page.current, b"")])
            assert job.state == RESULT
        self.core.worker_set.emptied(worker)
        self.settle()

    @rule(worker=consumes(workers), status=st.sampled_from([-9, 1, 0, 0x9B]))
    def die(self, worker, status):
        if worker is None or worker.phase is Phase.GONE:
            return
        held = dict(worker.inflight)
        current = self.pages[worker].current
        for _ in range(2):
            self.core.worker_set.exited(worker, status, self.now)
        for number, job in held.items():
            if number > current and job.state:
                assert job.body.cause in (Cause.LOST, Cause.TERMINATED, Cause.UNSTARTABLE)
                assert not job.body.started
        self.dead.append(worker)
        self.settle()

    @rule(job=jobs, signum=st.sampled_from([9, 15]))
    def terminate(self, job, signum):
        before = job.state
        self.core.preemption.terminate(job, signum, self.now)
        assert job.state == before or job.body.cause is Cause.TERMINATED
        self.settle()

    @rule(by=st.sampled_from([-1, 1]))
    def resize(self, by):
        if 1 <= self.core.worker_set.size + by <= 4:
            self.core.worker_set.resize(by)
        self.settle()

    @rule(seconds=st.sampled_from([0.0005, 0.002, 0.02, 6.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.core.dispatch.turned(self.now)
        for worker, kind in self.core.timers.due(self.now):
            self.core.on_timer(worker, kind, self.now)
        self.settle()

    @invariant()
    def each_job_has_one_place(self):
        places = {}
        for worker in self.core.worker_set.workers.values():
            for number, job in worker.inflight.items():
                assert (job.holder, job.number, job.state) == (worker, number, 0)
                places[job] = places.get(job, 0) + 1
        for job in self.core.dispatch.backlog:
            if job.holder is None and not job.state:
                places[job] = places.get(job, 0) + 1
        for job in self.all:
            assert places.get(job, 0) == (0 if job.state else 1)
            assert job.state in (0, RESULT, FATE)

    @invariant()
    def the_books_of_workers_balance(self):
        worker_set = self.core.worker_set
        workers = list(worker_set.workers.values())
        assert sum(worker.active for worker in workers) <= max(worker_set.size, len(workers))
        for worker in workers:
            assert worker.phase is not Phase.GONE
            assert worker.quota is None or 0 <= worker.quota <= 4
            if worker.inflight:
                assert worker.seated
        for worker in [*self.core.dispatch.idle, *self.core.dispatch.open]:
            assert worker.phase is Phase.UP
            assert worker.seated
            assert not worker.recalled
        assert not any(worker.inflight for worker in self.dead)

    @invariant()
    def timers_are_no_more_than_what_is_watched(self):
        assert len(self.core.timers) <= 60 + 4 * len(self.all) + 4 * len(self.dead)

    def teardown(self):
        """In the end everything is told to stop, and does."""
        self.core.worker_set.terminate()
        for worker in list(self.core.worker_set.workers.values()):
            self.core.worker_set.exited(worker, -15, self.now)
        self.settle()
        assert self.core.worker_set.over or self.core.worker_set.pool_state is PoolState.TERMINATE
        assert all(job.state for job in self.all)


CoreMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
TestCoreMachine = CoreMachine.TestCase
