"""The core's rules one by one, in virtual time: no process, no clock, no sleep."""

from __future__ import annotations

import itertools
import weakref

import pytest

from billiard._core import outbox
from billiard._core.core import Core
from billiard._core.dispatch import (
    ALONE_FROM,
    MAX_WINDOW_BYTES,
    MUTE_S,
    OLDEST_EVERY,
    OLDEST_EVERY_S,
    OVERHEAD_US,
    REST_US,
    SLOW_TURNS_US,
    WAKING_US,
    Dispatch,
)
from billiard._core.preemption import ESCALATE, FENCE, FENCE_S, HOARD, HOARD_S, LIMIT, MARK, SIGKILL, STALL_S, TERM_GRACE_S
from billiard._core.restarts import RestartIntensity
from billiard._core.state import FATE, NEVER_S, Cause, Job, KillRequest, Phase, Worker
from billiard._core.timers import Timers
from billiard._core.worker_set import FAILED_SPAWNS, FAILED_STARTS, PoolState
from billiard._wire.exit_status import EX_OK, EX_RECYCLE
from billiard._wire.scoreboard import Progress

RESULT = 2


class FakeScoreboard:
    """Says what the test wants it to say, and remembers what it was told."""

    def __init__(self):
        self.current = self.started_ns = self.item = self.skipped_from = 0
        self.recalled = []
        self.aims = []

    def read(self):
        return Progress(self.current, self.started_ns, self.item, self.skipped_from)

    def recall(self, number):
        self.recalled.append(number)

    def aim(self, number, item=-1):
        self.aims.append((number, item))

    def on(self, number, since=0.0, item=0):
        self.current, self.started_ns, self.item = number, int(since * 1e9), item


class Bench:
    """A core with workers that are up, and short names for what a driver does."""

    def __init__(self, size=1, **options):
        self.core = Core(size, **options)
        self.core.decide(0.0)
        self.scoreboards = {}
        self.up()

    def up(self, now=0.0):
        self.core.decide(now)
        for _, worker, _ in self.orders(outbox.SPAWN):
            worker.scoreboard = self.scoreboards[worker] = FakeScoreboard()
            worker.pid = worker.ident
            self.core.worker_set.ready(worker)
        self.core.decide(now)

    def orders(self, kind):
        found = []
        for queue in (self.core.outbox.orders, self.core.outbox.signals):
            kept = [order for order in queue if order[0] != kind]
            found += [order for order in queue if order[0] == kind]
            queue.clear()
            queue.extend(kept)
        return found

    @property
    def workers(self):
        return list(self.core.worker_set.workers.values())

    @property
    def worker(self):
        (worker,) = self.workers
        return worker

    @property
    def scoreboard(self):
        return self.scoreboards[self.worker]

    def submit(self, *jobs, now=0.0):
        for job in jobs:
            self.core.dispatch.backlog.append(job)
        self.core.decide(now)
        self.core.dispatch.unwritten.clear()
        return jobs[0] if len(jobs) == 1 else jobs

    def result(self, worker, number, run_us=1):
        return self.core.dispatch.results(worker, [(RESULT, run_us, number, b"")])

    def warm(self, function_id=1, run_us=1.0):
        self.core.dispatch._measure(function_id, run_us)

    def run_timers(self, now):
        on_timer = self.core.timers.due(now)
        for worker, kind in on_timer:
            self.core.on_timer(worker, kind, now)
        self.core.decide(now)
        return [kind for _, kind in on_timer]

    @property
    def deadline(self):
        """The earliest real one."""
        core = self.core
        return min((when for worker in [*self.workers, core._pool] for when in worker.due.values()), default=None)

    def fence(self, now):
        """Both steps of it; returns when it is over."""
        begun = now + 1e-6
        assert MARK in self.run_timers(begun)
        assert FENCE in self.run_timers(begun + FENCE_S)
        return begun + FENCE_S


def job(function_id=1, size=10, soft_s=None, hard_s=None, watched=False):
    made = Job()
    made.function_id, made.size, made.watched = function_id, size, watched
    if soft_s is not None or hard_s is not None:
        made.limit(soft_s, hard_s)
    return made


def jobs(count, **options):
    return [job(**options) for _ in range(count)]


class TestBlocked:
    """A worker that begins nothing of what it holds, though another one has nothing to do."""

    def held_by_one_of_two(self, *held):
        """Two workers, of which one was given these jobs and has not begun."""
        bench = Bench(2)
        bench.warm()
        blocked, other = bench.workers
        bench.core.dispatch.idle.pop(other)
        bench.submit(*held, now=1.0)
        assert [*blocked.inflight.values()] == [*held]
        bench.core.dispatch.idle[other] = None
        bench.core.preemption.on_assigned(blocked, 1.0)
        return bench, blocked, other

    @pytest.mark.parametrize("count", [1, 5])
    def test_loses_all_of_it_and_gets_nothing_until_it_is_heard_of(self, count):
        held = jobs(count)
        bench, blocked, other = self.held_by_one_of_two(*held)
        bench.run_timers(1.0 + STALL_S)
        assert not blocked.recalled, "it may just not have woken yet"
        bench.run_timers(1.0 + 2 * STALL_S)
        bench.fence(1.0 + 2 * STALL_S)
        assert [*other.inflight.values()] == held
        assert not blocked.inflight
        assert blocked not in bench.core.dispatch.idle
        bench.core.preemption.skipped(blocked, 1)
        assert blocked in bench.core.dispatch.idle
        assert blocked.resume
        assert not blocked.mute

    def test_that_begins_in_time_keeps_what_it_is_on(self):
        held = jobs(3)
        bench, blocked, other = self.held_by_one_of_two(*held)
        bench.run_timers(1.0 + STALL_S)
        bench.run_timers(1.0 + 2 * STALL_S)
        bench.scoreboards[blocked].on(1, since=1.02)  # between the recall and the end of the fence
        bench.fence(1.0 + 2 * STALL_S)
        assert [*blocked.inflight.values()] == held[:1]
        assert [*other.inflight.values()] == held[1:]
        bench.result(blocked, 1)
        assert blocked in bench.core.dispatch.idle
        assert not blocked.mute

    def test_keeps_a_call_that_is_on_its_way(self):
        large, small = job(size=ALONE_FROM + 1), job()
        bench, blocked, other = self.held_by_one_of_two(small)
        blocked.inflight = {1: large, 2: small}
        large.holder, large.number, small.number = blocked, 1, 2
        bench.run_timers(1.0 + STALL_S)
        bench.run_timers(1.0 + 2 * STALL_S)
        bench.fence(1.0 + 2 * STALL_S)
        assert [*blocked.inflight.values()] == [large]
        assert [*other.inflight.values()] == [small]

    def test_waits_for_nobody_who_could_not_help(self):
        bench, blocked, other = self.held_by_one_of_two(*jobs(2))
        del bench.core.dispatch.idle[other]
        for looks in range(1, 5):
            bench.run_timers(1.0 + looks * STALL_S)
        assert not blocked.recalled


class TestTimers:
    def setup_method(self):
        self.timers = Timers()
        self.worker = Worker(1, 0, None)

    def test_come_up_in_order_and_stay_until_done(self):
        other = Worker(2, 1, None)
        self.timers.set(self.worker, "b", 2.0)
        self.timers.set(other, "a", 1.0)
        assert self.timers.due(0.5) == []
        assert self.timers.due(3.0) == [(other, "a"), (self.worker, "b")]
        assert self.timers.due(3.0) == [(other, "a"), (self.worker, "b")]
        self.timers.done(other, "a", 3.0)
        assert self.timers.due(3.0) == [(self.worker, "b")]

    def test_the_last_setting_counts(self):
        self.timers.set(self.worker, "a", 1.0)
        self.timers.set(self.worker, "a", 2.0)
        assert self.timers.due(1.5) == []
        assert self.timers.due(2.0) == [(self.worker, "a")]

    def test_an_earlier_setting_counts_too(self):
        self.timers.set(self.worker, "a", 5.0)
        self.timers.set(self.worker, "a", 2.0)
        assert self.timers.due(2.0) == [(self.worker, "a")]
        self.timers.done(self.worker, "a", 2.0)
        assert self.timers.due(9.0) == []
        assert len(self.timers) == 0

    def test_cleared_never_comes_up_and_leaves_nothing(self):
        self.timers.set(self.worker, "a", 1.0)
        self.timers.clear(self.worker, "a")
        assert self.timers.due(9.0) == []
        assert len(self.timers) == 0

    def test_of_a_worker_that_is_gone_never_comes_up(self):
        self.timers.set(self.worker, "a", 1.0)
        self.worker.phase = Phase.GONE
        assert self.timers.due(9.0) == []
        assert self.timers.next() is None

    def test_done_keeps_what_was_set_anew(self):
        self.timers.set(self.worker, "a", 1.0)
        self.timers.set(self.worker, "a", 7.0)
        self.timers.done(self.worker, "a", 1.0)
        assert self.timers.due(7.0) == [(self.worker, "a")]

    def test_setting_the_same_twice_adds_nothing(self):
        self.timers.set(self.worker, "a", 1.0)
        self.timers.set(self.worker, "a", 1.0)
        assert len(self.timers) == 1

    def test_next_changes_nothing(self):
        self.timers.set(self.worker, "a", 1.0)
        assert self.timers.next() == self.timers.next() == 1.0
        assert self.timers.due(1.0) == [(self.worker, "a")]


class TestRestarts:
    def test_so_many_within_the_period(self):
        intensity = RestartIntensity(2, 10.0)
        assert [intensity.exceeded(at) for at in (0.0, 1.0, 2.0)] == [False, False, True]

    def test_old_ones_are_forgotten(self):
        intensity = RestartIntensity(2, 10.0)
        assert not any(intensity.exceeded(at) for at in (0.0, 6.0, 10.0, 16.0, 20.0))
        assert intensity.exceeded(20.5)

    def test_none_allowed(self):
        assert RestartIntensity(0, 1.0).exceeded(0.0)


class TestWindow:
    def test_an_unknown_function_goes_one_at_a_time(self):
        bench = Bench()
        bench.submit(*jobs(3))
        assert len(bench.worker.inflight) == 1
        assert len(bench.core.dispatch.backlog) == 2

    def test_the_window_is_one_call_and_the_horizon_over_the_run_time(self):
        dispatch = Dispatch()
        dispatch._measure(1, 94.0)
        assert dispatch._window[1] == 1 + int(REST_US / 100.0)
        dispatch._measure(2, 1e9)
        assert dispatch._window[2] == 1
        assert Dispatch(max_window=3)._window == {}
        small = Dispatch(max_window=3)
        small._measure(1, 0.0)
        assert small._window[1] == 3

    def test_slower_at_once_faster_by_a_quarter(self):
        dispatch = Dispatch()
        dispatch._measure(1, 100.0)
        dispatch._measure(1, 1000.0)
        assert dispatch.run_time_s(1) == pytest.approx(1e-3)
        dispatch._measure(1, 200.0)
        assert dispatch.run_time_s(1) == pytest.approx(8e-4)
        dispatch.forget_function(1)
        assert dispatch.run_time_s(1) is None
        assert dispatch._window == {}

    def test_slow_turns_widen_it_and_quick_ones_narrow_it_slowly(self):
        dispatch = Dispatch()
        dispatch._horizon_us, dispatch.last_turn = REST_US, 100.0
        dispatch.turned(100.005)
        assert dispatch._horizon_us == pytest.approx(20_000.0)
        dispatch.turned(200.0)
        assert dispatch._horizon_us == pytest.approx(SLOW_TURNS_US)  # at most
        dispatch.turned(200.0001)
        assert dispatch._horizon_us == pytest.approx(0.9 * SLOW_TURNS_US + 0.1 * REST_US)

    def test_a_pause_of_the_pool_is_no_slow_turn(self):
        bench = Bench()
        dispatch = bench.core.dispatch
        dispatch._horizon_us = REST_US
        bench.submit(job(), now=100.0)
        dispatch.turned(100.0001)
        assert dispatch._horizon_us == pytest.approx(REST_US)

    def test_the_worker_that_was_busy_last_goes_first(self):
        bench = Bench(3)
        _, second, third = bench.core.dispatch.idle
        assert bench.submit(job(1)).holder is third
        assert bench.submit(job(2)).holder is second
        bench.result(third, 1)
        assert bench.submit(job()).holder is third

    def test_no_idle_worker_is_forgotten(self):
        bench = Bench(3)
        met = set()
        for i in range(3 * OLDEST_EVERY):
            one = bench.submit(job(), now=100.0 + i * OLDEST_EVERY_S / OLDEST_EVERY)
            met.add(one.holder)
            bench.result(one.holder, one.number)
        assert met == set(bench.workers)

    def test_workers_are_not_changed_all_the_time(self):
        bench = Bench(3)
        holders = []
        for i in range(30 * OLDEST_EVERY):
            one = bench.submit(job(), now=100.0 + i * OLDEST_EVERY_S / (30 * OLDEST_EVERY))
            holders.append(one.holder)
            bench.result(one.holder, one.number)
        assert sum(a is not b for a, b in itertools.pairwise(holders)) == 1

    def test_spare_is_what_the_least_loaded_worker_has_behind_its_call(self):
        bench = Bench(2)
        bench.warm(run_us=394.0)
        assert bench.core.spare_s() == 0.0  # nobody has anything
        bench.submit(job())
        assert bench.core.spare_s() == 0.0  # one worker has nothing
        bench.submit(*jobs(9))
        least = min(len(worker.inflight) for worker in bench.workers)
        assert least >= 3
        assert bench.core.spare_s() == pytest.approx((least - 1) * 400e-6)

    def test_a_large_call_goes_to_an_idle_worker_only(self):
        bench = Bench()
        bench.warm()
        small, large = bench.submit(job(), job(size=ALONE_FROM + 1))
        assert small.holder is bench.worker
        assert large.holder is None
        bench.result(bench.worker, small.number)
        bench.core.decide(0.0)
        assert large.holder is bench.worker

    def test_no_more_bytes_than_can_be_taken_back(self):
        bench = Bench()
        bench.warm()
        size = MAX_WINDOW_BYTES // 8
        bench.submit(*jobs(20, size=size))
        assert len(bench.worker.inflight) == 8

    def test_idle_workers_share(self):
        bench = Bench(2)
        bench.warm()
        bench.submit(*jobs(70))
        assert sum(len(worker.inflight) for worker in bench.workers) == 70
        assert min(len(worker.inflight) for worker in bench.workers) >= 20

    def test_brief_calls_go_to_one_who_is_idle_again_before_another_is_awake(self):
        bench = Bench(3)
        bench.warm()
        first = bench.submit(job())
        bench.scoreboards[first.holder].on(first.number, since=1.0)
        holders = [bench.submit(job(), now=1.0).holder for _ in range(8)]
        ahead = holders.index(next(holder for holder in holders if holder is not first.holder)) + 1
        assert ahead * (1.0 + OVERHEAD_US) >= WAKING_US > (ahead - 1) * (1.0 + OVERHEAD_US)
        assert len(set(holders)) == 3

    @pytest.mark.parametrize("before", ["unknown", "long", "late"])
    def test_nothing_waits_for_one_who_will_not_soon_be_idle(self, before):
        bench = Bench(2)
        bench.warm()
        bench.warm(2, run_us=50.0)
        first = bench.submit(job({"unknown": 3, "long": 2, "late": 1}[before]))
        bench.scoreboards[first.holder].on(first.number, since=1.0)
        late_s = 1.5 * WAKING_US / 1e6 if before == "late" else 0.0
        assert bench.submit(job(), now=1.0 + late_s).holder is not first.holder

    def test_nor_for_one_who_is_kept_from_beginning(self):
        bench = Bench(2)
        bench.warm()
        first = bench.submit(job(), now=1.0)
        assert bench.submit(job(), now=1.0 + 0.9 * MUTE_S).holder is first.holder
        assert bench.submit(job(), now=1.0 + 1.1 * MUTE_S).holder is not first.holder

    def test_who_was_heard_of_a_moment_ago_is_not_kept_from_it(self):
        bench = Bench(2)
        bench.warm()
        first, second = bench.submit(job(), now=1.0), bench.submit(job(), now=1.0)
        bench.core.dispatch.turned(2.0)
        bench.result(first.holder, first.number)
        assert bench.submit(job(), now=2.0 + 0.9 * MUTE_S).holder is second.holder

    def test_parts_of_a_map_and_calls_nobody_would_rescue_wait_for_nobody(self):
        bench = Bench(3)
        bench.warm()
        first, part, call = job(), job(), job()
        part.may_follow = False
        bench.submit(first, part)
        assert part.holder is not first.holder
        bench.core.dispatch.rescues = False
        bench.submit(call)
        assert call.holder not in (first.holder, part.holder)

    def test_a_call_that_is_not_known_as_brief_waits_for_nobody(self):
        bench = Bench(2)
        bench.warm()
        first, second = bench.submit(job(1)), bench.submit(job(2))
        assert first.holder is not second.holder

    def test_ended_and_taken_entries_of_the_backlog_are_dropped(self):
        bench = Bench()
        ended, held, fresh = job(), job(), job()
        ended.state, held.holder = RESULT, bench.worker
        bench.submit(ended, held, fresh)
        assert list(bench.worker.inflight.values()) == [fresh]
        assert not bench.core.dispatch.backlog

    def test_the_least_limit_counts_however_often_a_worker_is_filled(self):
        bench = Bench()
        bench.warm()
        dispatch = bench.core.dispatch
        dispatch.backlog.extend([job(hard_s=0.5), job(hard_s=9.0)])
        dispatch._fill(bench.worker, 1)
        dispatch._fill(bench.worker, 1)
        assert dispatch.limited == {bench.worker: 0.5}

    def test_results_that_nobody_waits_for_are_ignored_and_rare_frames_come_back(self):
        bench = Bench()
        only = bench.submit(job(watched=True))
        rest = bench.core.dispatch.results(bench.worker, [(RESULT, 1, 77, b"?"), (1, 2, 0, b"rare"), (RESULT, 1, 1, b"!")])
        assert rest == [(1, 2, 0, b"rare")]
        assert (only.state, only.body) == (RESULT, b"!")
        assert list(bench.core.dispatch.settled) == [only]
        assert bench.worker in bench.core.dispatch.idle


    def test_an_end_is_kept_when_the_same_result_is_told_again(self):
        bench = Bench()
        only = bench.submit(job())
        only.body, only.state = "fate", FATE
        bench.result(bench.worker, 1)
        assert (only.body, only.state) == ("fate", FATE)

    def test_what_the_user_wants_ended_is_not_given_out(self):
        bench = Bench()
        unwanted = job()
        unwanted.terminate_signal = 15  # an exception came between this and its end
        bench.submit(unwanted)
        assert (unwanted.holder, unwanted.body.cause) == (None, Cause.TERMINATED)

    def test_numbers_after_a_resume_lie_beyond_the_recall(self):
        bench = Bench()
        bench.submit(job(), job())
        worker = bench.worker
        bench.scoreboard.on(1)
        bench.core.preemption.recall(worker, 2, 0.0)  # the next number to be given
        bench.fence(0.0)
        bench.result(worker, 1)
        bench.core.decide(1.0)
        assert list(worker.inflight) == [3]
        assert worker.since == 3


class TestSeats:
    def test_a_replacement_waits_for_the_seat_of_the_one_that_leaves(self):
        bench = Bench(1, max_tasks_per_child=1)
        first = bench.worker
        bench.submit(job(), job())
        assert first.phase is Phase.RETIRING
        bench.up()
        (second,) = [worker for worker in bench.workers if worker is not first]
        assert (first.seated, second.seated) == (True, False)
        bench.result(first, 1)
        bench.core.worker_set.emptied(first)
        assert (first.seated, second.seated) == (False, True)

    def test_quota_is_what_a_worker_is_given_and_taken_back_calls_do_not_count(self):
        bench = Bench(1, max_tasks_per_child=3)
        bench.warm()
        bench.submit(*jobs(5))
        worker = bench.workers[0]
        assert (worker.quota, len(worker.inflight), worker.phase) == (0, 3, Phase.RETIRING)
        assert bench.orders(outbox.RETIRE) == [(outbox.RETIRE, worker, EX_RECYCLE)]
        bench.scoreboards[worker].on(1)
        bench.core.preemption.recall(worker, 2, 0.0)
        bench.fence(0.0)
        assert worker.quota == 2
        assert list(worker.inflight) == [1]

    def test_a_turn_cut_short_after_giving_is_made_up_for(self):
        bench = Bench(1, max_tasks_per_child=1)
        worker = bench.worker
        bench.core.dispatch.backlog.append(job(hard_s=1.0))
        bench.core.dispatch.assign(0.0)  # and then an exception
        bench.core.dispatch.limited.clear()
        bench.core.decide(0.0)
        assert worker.phase is Phase.RETIRING

    def test_growing_and_shrinking(self):
        bench = Bench(1)
        bench.core.worker_set.resize(2)
        bench.up()
        assert [worker.index for worker in bench.workers] == [0, 1, 2]
        assert all(worker.seated for worker in bench.workers)
        busy = bench.submit(job()).holder
        bench.core.worker_set.resize(-2)
        bench.core.decide(0.0)
        retired = {order[1] for order in bench.orders(outbox.RETIRE)}
        assert len(retired) == 2
        assert busy not in retired

    def test_a_dead_workers_index_is_used_again(self):
        bench = Bench(2)
        first, _ = bench.workers
        bench.core.worker_set.exited(first, -9, 0.0)
        bench.up()
        assert sorted(worker.index for worker in bench.workers) == [0, 1]
        assert bench.core.worker_set.worker_died


class TestDeaths:
    def test_the_started_one_is_lost_the_others_go_back_in_order(self):
        bench = Bench()
        bench.warm()
        worker = bench.worker
        first, second, third = bench.submit(*jobs(3))
        later = bench.submit(job()) if len(worker.inflight) == 3 else None
        bench.scoreboard.on(1, since=1.0)
        waiting = list(worker.inflight.values())[1:]
        bench.core.worker_set.exited(worker, -11, 3.0)
        assert (first.state, first.body.cause, first.body.status, first.body.started) == (FATE, Cause.LOST, -11, True)
        assert first.body.run_s == pytest.approx(2.0)
        assert list(bench.core.dispatch.backlog)[: len(waiting)] == waiting
        assert [one.state for one in (second, third)] == [0, 0]
        assert [one.deaths for one in (second, third)] == [0, 0]  # it was not reading them, but on the first
        assert later is None or later.deaths == 0

    def test_a_burial_that_is_repeated_counts_one_death(self, monkeypatch):
        bench = Bench()
        waiting = bench.submit(Job())
        worker = bench.worker
        with monkeypatch.context() as patch:
            patch.setattr(bench.core.dispatch, "requeue", lambda jobs: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                bench.core.worker_set.exited(worker, -9, 0.0)
        bench.core.worker_set.exited(worker, -9, 0.0)
        assert waiting.deaths == 1

    def test_three_deaths_at_receipt(self):
        bench = Bench()
        victim = bench.submit(job())
        for death in range(3):
            assert not victim.state, death
            bench.core.worker_set.exited(bench.worker, -11, 0.0)
            bench.up()
        assert (victim.body.cause, victim.body.started) == (Cause.LOST, False)

    def test_three_deaths_at_receipt_with_one_call_a_child(self):
        bench = Bench(1, max_tasks_per_child=1)
        victim = bench.submit(job())
        for _ in range(3):
            bench.core.worker_set.exited(victim.holder, -11, 0.0)
            bench.up()
        assert (victim.body.cause, victim.body.started) == (Cause.LOST, False)

    def test_a_death_at_receipt_counts_although_a_recall_took_the_call_back(self):
        bench = Bench()
        bench.warm()
        first, second = bench.submit(*jobs(2))
        worker = bench.worker
        bench.core.worker_set.retire(worker, 0)
        bench.core.preemption.terminate(second, 15, 0.0)  # the first is taken back with it, and may be being read
        bench.fence(0.0)
        assert (worker.inflight, second.state) == ({}, FATE)
        bench.core.worker_set.exited(worker, -11, 0.1)
        assert first.deaths == 1
        assert first in bench.core.dispatch.backlog

    def test_it_counts_when_another_worker_has_the_call_by_then(self):
        bench = Bench(2)
        worker = list(bench.core.dispatch.idle)[-1]
        first = bench.submit(job())
        bench.core.preemption.take_back(worker, 0)
        bench.core.decide(0.0)
        assert first.holder not in (worker, None)
        first.deaths = 2
        bench.core.worker_set.exited(worker, -11, 0.1)
        assert (first.deaths, first.state) == (3, 0)  # whoever runs it now decides

    def test_a_worker_that_is_given_nothing_more_does_not_keep_a_call_that_was_taken_back(self):
        bench = Bench(2)
        idle = list(bench.core.dispatch.idle)[-1]
        first = bench.submit(job())
        bench.core.preemption.take_back(idle, 0)
        bench.core.decide(0.0)
        bench.result(first.holder, first.number)
        bench.core.decide(0.0)
        ended = weakref.ref(first)
        del first
        assert ended() is None

    def test_who_was_condemned_with_nothing_to_do_is_given_nothing(self):
        bench = Bench(2)
        one, other = bench.core.dispatch.idle
        bench.core.preemption.kill_now(other, 9, Cause.TERMINATED, 0.0)
        assert [bench.submit(job()).holder for _ in range(2)] == [one, None]

    def test_no_process_for_now_is_tried_again_in_time(self):
        core = Core(1)
        core.decide(0.0)
        _, worker, _ = core.outbox.orders.popleft()
        core.not_spawned(worker, OSError(11, "no"), 5.0)
        assert 5.0 < core.next_deadline() < 6.0

    def test_leaving_is_no_death_at_receipt(self):
        bench = Bench()
        bench.warm()
        bench.submit(*jobs(3))
        worker = bench.worker
        bench.result(worker, 1)
        bench.core.worker_set.leaving(worker, 1)
        bench.core.worker_set.emptied(worker)
        assert (worker.phase, worker.inflight, worker.seated) == (Phase.RETIRING, {}, False)
        bench.core.worker_set.exited(worker, EX_RECYCLE, 0.0)
        assert [waiting.deaths for waiting in bench.core.dispatch.backlog] == [0, 0]
        assert not bench.core.worker_set.worker_died

    def test_who_was_struck_says_nothing_about_what_came_next(self):
        bench = Bench()
        bench.warm()
        bench.submit(*jobs(2))
        bench.scoreboard.on(1)
        bench.core.preemption.kill_now(bench.worker, 9, Cause.TERMINATED, 0.0)
        bench.core.worker_set.exited(bench.worker, -9, 0.0)
        (second,) = bench.core.dispatch.backlog
        assert second.deaths == 0

    def test_a_death_of_its_own_is_no_blow_that_was_under_way(self):
        bench = Bench()
        victim = bench.submit(job())
        bench.scoreboard.on(1)
        bench.core.preemption.request_kill(bench.worker, KillRequest(1, 0, SIGKILL, Cause.TIME_LIMIT, 1.0), 0.0)
        bench.core.worker_set.exited(bench.worker, -11, 0.0)
        assert (victim.body.cause, victim.body.limit_s) == (Cause.LOST, None)

    def test_a_blow_to_one_call_names_no_other(self):
        bench = Bench()
        bench.warm()
        first, second = bench.submit(*jobs(2))
        worker = bench.worker
        worker.kill_request = KillRequest(1, 0, SIGKILL, Cause.TIME_LIMIT, 1.0)
        worker.kill_request.sent = True
        bench.scoreboard.on(2)
        bench.core.worker_set.exited(worker, -9, 0.0)
        assert (first.body.cause, second.body.cause) == (Cause.TIME_LIMIT, Cause.LOST)

    def test_who_is_told_to_leave_is_given_nothing(self):
        bench = Bench()
        worker = bench.worker
        bench.core.worker_set.retire(worker, 0)
        waiting = job()
        bench.core.dispatch.backlog.append(waiting)
        bench.core.assign(0.0)
        assert waiting.holder is None

    def test_what_it_let_be_is_not_lost(self):
        bench = Bench()
        bench.warm()
        bench.submit(*jobs(3))
        worker, scoreboard = bench.worker, bench.scoreboard
        scoreboard.on(1)
        bench.core.preemption.recall(worker, 2, 0.0)
        bench.result(worker, 1)
        scoreboard.on(3)
        scoreboard.skipped_from = 2
        held = list(worker.inflight.values())
        bench.core.worker_set.exited(worker, -9, 0.0)
        assert [one.state for one in held] == [0, 0]

    def test_undecided_counts_as_started(self):
        bench = Bench()
        bench.warm()
        bench.submit(*jobs(3))
        worker, scoreboard = bench.worker, bench.scoreboard
        scoreboard.on(1)
        bench.core.preemption.recall(worker, 2, 0.0)
        bench.result(worker, 1)
        scoreboard.on(2)  # it came to the call; whether it let it be is not known
        undecided, behind = worker.inflight.values()
        bench.core.worker_set.exited(worker, -9, 0.0)
        assert undecided.body.cause is Cause.LOST
        assert behind.state == 0

    def test_exited_may_be_repeated(self):
        bench = Bench()
        lost = bench.submit(job())
        bench.scoreboard.on(1)
        worker = bench.worker
        for _ in range(2):
            bench.core.worker_set.exited(worker, -9, 0.0)
        assert lost.state == FATE
        assert [notification[0] for notification in bench.core.outbox.notifications].count(outbox.DOWN) == 1


class TestBreakdown:
    def test_too_many_failed_starts(self):
        bench = Bench(2)
        stuck = job()
        for worker in bench.workers:
            bench.core.worker_set.exited(worker, 1, 0.0)
        bench.core.dispatch.backlog.append(stuck)
        for _ in range(FAILED_STARTS + 2):
            assert bench.core.worker_set.pool_state is PoolState.RUN
            bench.core.decide(0.0)
            bench.core.worker_set.exited(bench.workers[0], 1, 0.0, b"story")
        assert bench.core.worker_set.pool_state is PoolState.BROKEN
        assert (stuck.body.cause, stuck.body.detail) == (Cause.UNSTARTABLE, b"story")

    def test_a_start_that_works_forgives(self):
        bench = Bench(1)
        for _ in range(3 * FAILED_STARTS):
            bench.core.worker_set.exited(bench.worker, 1, 0.0)
            bench.core.decide(0.0)
            bench.core.worker_set.exited(bench.worker, 1, 0.0)  # died while it started
            bench.core.decide(0.0)
            bench.up()
        assert bench.core.worker_set.pool_state is PoolState.RUN

    def test_no_process_can_be_made(self):
        bench = Bench(1)
        bench.core.worker_set.exited(bench.worker, 1, 0.0)
        stuck, now = job(), 0.0
        bench.core.dispatch.backlog.append(stuck)
        waits = []
        for _ in range(FAILED_SPAWNS):
            bench.core.decide(now)
            ((_, worker, _),) = bench.orders(outbox.SPAWN)
            bench.core.not_spawned(worker, OSError(11, "no"), now)
            bench.core.decide(now)
            assert not bench.orders(outbox.SPAWN)  # not at once
            if bench.core.worker_set.pool_state is PoolState.BROKEN:
                break
            then = bench.deadline
            waits.append(then - now)
            now = then
            bench.run_timers(now)
        assert stuck.body.cause is Cause.UNSTARTABLE
        assert waits == sorted(waits)
        assert waits[-1] <= 1.0

    def test_one_moment_without_processes_does_not_break_a_large_pool(self):
        """Its template died, and all that are to be started anew fail together."""
        bench = Bench(2 * FAILED_SPAWNS)
        for worker in bench.workers:
            bench.core.worker_set.exited(worker, -9, 0.0)
        waiting, now = job(), 0.0
        bench.core.dispatch.backlog.append(waiting)
        for _ in range(FAILED_SPAWNS - 1):
            bench.core.decide(now)
            ordered = bench.orders(outbox.SPAWN)
            assert len(ordered) == 2 * FAILED_SPAWNS
            for _, worker, _ in ordered:
                bench.core.not_spawned(worker, OSError(11, "no"), now)
            now = bench.deadline
            bench.run_timers(now)
        assert bench.core.worker_set.pool_state is PoolState.RUN
        assert not waiting.state

    def test_restart_intensity(self):
        bench = Bench(1, restarts=RestartIntensity(2, 10.0))
        for now in (0.0, 1.0, 2.0):
            assert bench.core.worker_set.pool_state is PoolState.RUN
            bench.core.worker_set.exited(bench.worker, -9, now)
            bench.up(now)
        assert bench.core.worker_set.pool_state is PoolState.BROKEN
        late = job()
        bench.core.dispatch.backlog.append(late)
        bench.core.worker_set.mark_dirty()
        bench.core.decide(3.0)
        assert late.body.cause is Cause.RESTARTS

    @pytest.mark.parametrize("status", [EX_OK, EX_RECYCLE])
    def test_good_order_is_not_counted(self, status):
        bench = Bench(1, restarts=RestartIntensity(0, 10.0))
        bench.core.worker_set.exited(bench.worker, status, 0.0)
        assert bench.core.worker_set.pool_state is PoolState.RUN

    def test_what_it_let_be_is_not_what_it_was_reading(self):
        bench = Bench()
        bench.warm()
        running, skipped, unread = bench.submit(*jobs(3))
        bench.scoreboard.on(1)
        bench.core.preemption.recall(bench.worker, 2, 1.0)
        bench.result(bench.worker, 1)
        bench.scoreboard.on(2)
        bench.scoreboard.skipped_from = 2
        bench.core.worker_set.exited(bench.worker, -9, 2.0)
        assert running.state == RESULT
        assert (skipped.deaths, unread.deaths) == (0, 1)
        assert list(bench.core.dispatch.backlog) == [skipped, unread]

    def test_what_ran_when_the_pool_gave_up_had_started(self):
        bench = Bench(2, restarts=RestartIntensity(0, 10.0))
        running, waiting, fatal = bench.submit(job(), job(), job())
        one, other = running.holder, waiting.holder
        bench.scoreboards[one].on(running.number, since=1.0)
        bench.core.worker_set.exited(other, -9, 3.0)
        assert bench.core.worker_set.pool_state is PoolState.BROKEN
        bench.core.worker_set.exited(one, -9, 3.0)
        bench.core.decide(3.0)
        assert running.body.cause is waiting.body.cause is fatal.body.cause is Cause.RESTARTS
        assert running.body.started
        assert running.body.run_s == 2.0
        assert not waiting.body.started
        assert not fatal.body.started

    def test_what_the_user_ends_is_not_counted(self):
        bench = Bench(1, restarts=RestartIntensity(0, 10.0))
        bench.core.preemption.kill_now(bench.worker, 15, Cause.TERMINATED, 0.0)
        bench.core.worker_set.exited(bench.workers[0], -15, 0.0)
        assert bench.core.worker_set.pool_state is PoolState.RUN

    def test_terminate_fails_what_waits_and_what_comes(self):
        bench = Bench()
        running, waiting = bench.submit(job(), job())
        bench.core.worker_set.terminate()
        assert (running.state, waiting.body.cause) == (0, Cause.POOL_TERMINATED)
        late = job()
        bench.core.dispatch.backlog.append(late)
        bench.core.decide(0.0)
        assert late.state == FATE
        bench.core.worker_set.exited(bench.worker, -15, 0.0)
        assert bench.core.worker_set.over

    def test_close_ends_when_nothing_is_left(self):
        bench = Bench(2)
        last = bench.submit(job())
        bench.core.worker_set.close()
        bench.core.decide(0.0)
        assert not bench.orders(outbox.RETIRE)
        bench.result(last.holder, 1)
        bench.core.decide(0.0)
        assert len(bench.orders(outbox.RETIRE)) == 2
        for worker in bench.workers:
            bench.core.worker_set.exited(worker, 0, 0.0)
        bench.core.decide(0.0)
        assert bench.core.worker_set.over
        assert not bench.orders(outbox.SPAWN)


class TestStall:
    def test_what_waits_behind_a_slow_call_goes_elsewhere(self):
        bench = Bench()
        bench.warm()
        _, *behind = bench.submit(*jobs(4))
        bench.scoreboard.on(1)
        bench.run_timers(STALL_S)
        assert bench.scoreboard.recalled == []  # it may just have begun
        bench.run_timers(2 * STALL_S)
        assert bench.scoreboard.recalled == [2]
        bench.fence(2 * STALL_S)
        assert [one.holder for one in behind] == [None] * 3
        assert list(bench.core.dispatch.backlog) == behind

    def test_nothing_is_given_while_a_recall_is_in_force_and_a_resume_ends_it(self):
        bench = Bench()
        bench.warm()
        bench.submit(*jobs(3))
        worker = bench.worker
        bench.scoreboard.on(1)
        bench.core.preemption.recall(worker, 2, 0.0)
        bench.fence(0.0)
        bench.core.decide(0.0)
        assert list(worker.inflight) == [1]
        bench.result(worker, 1)
        bench.core.decide(0.0)
        assert (worker.resume, worker.recalled) == (2, 0)
        assert min(worker.inflight) == worker.since > 2

    def test_the_fence_lasts_and_begins_after_the_store(self):
        bench = Bench()
        bench.warm()
        _, *behind = bench.submit(*jobs(3))
        bench.scoreboard.on(1)
        bench.core.preemption.recall(bench.worker, 2, 0.0)
        bench.run_timers(5.0)  # the turn that recalled took long
        bench.run_timers(5.0 + 0.0009)  # a store may still be on its way
        assert all(one.holder is bench.worker for one in behind)
        bench.run_timers(5.0 + FENCE_S)
        assert all(one.holder is None for one in behind)

    def test_a_fence_that_came_up_with_the_limit_is_not_the_new_ones(self):
        bench = Bench()
        bench.warm()
        bench.submit(*jobs(2, hard_s=1.0))
        worker, scoreboard = bench.worker, bench.scoreboard
        scoreboard.on(1)
        worker.due.clear()
        bench.core.timers.set(worker, LIMIT, 1.0)
        bench.core.timers.set(worker, MARK, 1.0)
        bench.core.timers.set(worker, FENCE, 1.0)
        bench.run_timers(1.0)
        assert scoreboard.recalled == [2]
        assert worker.due[FENCE] == NEVER_S
        assert worker.due[MARK] > 1.0
        assert not bench.orders(outbox.KILL)

    def test_a_recall_is_never_lower_than_the_last(self):
        bench = Bench()
        bench.warm()
        bench.submit(*jobs(3))
        worker, scoreboard = bench.worker, bench.scoreboard
        scoreboard.on(1)
        bench.core.preemption.recall(worker, 2, 0.0)
        bench.fence(0.0)
        bench.result(worker, 1)
        bench.core.decide(1.0)
        scoreboard.on(worker.since)
        bench.core.preemption.request_kill(worker, KillRequest(0, 0, 15, Cause.TERMINATED), 1.0)
        assert scoreboard.recalled[-1] >= worker.since

    def test_quick_calls_are_left_alone(self):
        bench = Bench()
        bench.warm()
        bench.submit(*jobs(9))
        for number in range(1, 8):
            bench.scoreboard.on(number)
            if number > 1:
                bench.result(bench.worker, number - 1)
            bench.run_timers(number * STALL_S)
        assert bench.scoreboard.recalled == []

    def test_hoarded_calls_are_taken_back_when_somebody_is_idle(self):
        bench = Bench(2)
        bench.warm()
        bench.submit(*jobs(8))
        lazy, busy = bench.workers
        for number in list(lazy.inflight):
            bench.result(lazy, number)
        bench.scoreboards[busy].on(1)
        bench.run_timers(STALL_S)
        bench.result(busy, 1)
        bench.scoreboards[busy].on(2)
        bench.run_timers(2 * STALL_S)
        assert bench.scoreboards[busy].recalled == [3]

    def test_calls_that_wait_for_one_who_was_thought_to_be_sooner_are_soon_taken_back(self):
        bench = Bench(2)
        bench.warm()
        slow = bench.submit(job())
        scoreboard = bench.scoreboards[slow.holder]
        behind = bench.submit(job())
        assert behind.holder is slow.holder
        scoreboard.on(slow.number, since=0.9 * HOARD_S)
        assert bench.run_timers(HOARD_S) == [HOARD]
        assert scoreboard.recalled == []  # it has only begun
        assert bench.run_timers(2 * HOARD_S) == [HOARD]
        assert scoreboard.recalled == [behind.number]
        bench.fence(2 * HOARD_S)
        assert behind.holder not in (slow.holder, None)
        assert 2 * HOARD_S + FENCE_S < STALL_S
        assert bench.core.dispatch.run_time_s(1) >= HOARD_S  # or it would be behind another brief one next

    def test_who_is_kept_from_beginning_is_not_looked_at_for_ever(self):
        bench = Bench(2)
        bench.warm()
        first = bench.submit(job(), now=1.0)
        bench.submit(job(), now=1.0)
        now, looks = 1.0, 0
        while now < 1.0 + 3 * STALL_S:
            now += HOARD_S
            looks += HOARD in bench.run_timers(now)
        assert HOARD not in first.holder.due
        assert 2 < looks <= 1 + STALL_S / HOARD_S

    def test_calls_that_wait_while_nobody_is_idle_are_not(self):
        bench = Bench(2)
        bench.warm()
        slow = bench.submit(job())
        bench.scoreboards[slow.holder].on(slow.number)
        behind = bench.submit(job())
        other = bench.submit(job(2), now=STALL_S / 10)
        assert slow.holder is behind.holder is not other.holder
        bench.run_timers(HOARD_S)
        assert bench.scoreboards[slow.holder].recalled == []
        assert HOARD not in slow.holder.due

    def test_the_echo_of_a_recall_that_is_over_takes_nothing_back(self):
        bench = Bench()
        bench.warm()
        bench.submit(*jobs(3))
        worker = bench.worker
        bench.scoreboard.on(1)
        bench.core.preemption.recall(worker, 2, 0.0)
        bench.fence(0.0)
        bench.result(worker, 1)
        bench.core.decide(0.0)
        given = dict(worker.inflight)
        assert given
        bench.core.preemption.skipped(worker, 2)
        assert worker.inflight == given

    def test_no_recall_begins_while_the_last_one_may_still_be_obeyed(self):
        bench = Bench()
        bench.warm()
        bench.submit(*jobs(3))
        worker, scoreboard = bench.worker, bench.scoreboard
        scoreboard.on(1)
        bench.core.preemption.recall(worker, 2, 0.0)
        now = bench.fence(0.0)
        bench.result(worker, 1)
        bench.core.decide(now)
        victim = worker.inflight[worker.since]
        bench.core.preemption.terminate(victim, 15, now)
        assert scoreboard.recalled == [2]  # the worker may not have come to 2 and 3 yet: 4 on the scoreboard would free them
        scoreboard.on(worker.since)
        bench.run_timers(now + FENCE_S)
        assert scoreboard.recalled[-1] > worker.since
        bench.fence(now + FENCE_S)
        assert bench.orders(outbox.KILL) == [(outbox.KILL, worker, 15)]


class TestLimits:
    def test_hard(self):
        bench = Bench()
        late = bench.submit(job(hard_s=1.0))
        worker = bench.worker
        bench.scoreboard.on(1, since=0.2)
        assert bench.run_timers(1.0) == [LIMIT]
        assert bench.scoreboard.recalled == []  # 0.8 s
        assert bench.deadline == pytest.approx(1.2)
        bench.run_timers(1.2)
        assert bench.scoreboard.recalled == [2]
        bench.fence(1.2)
        assert bench.orders(outbox.KILL) == [(outbox.KILL, worker, SIGKILL)]
        assert (outbox.HARD, late, 1.0) in bench.core.outbox.notifications
        bench.core.worker_set.exited(worker, -9, 1.3)
        assert (late.body.cause, late.body.limit_s) == (Cause.TIME_LIMIT, 1.0)

    def test_finished_behind_the_fence(self):
        bench = Bench()
        bench.submit(job(hard_s=1.0), job())
        worker = bench.worker
        bench.scoreboard.on(1)
        bench.run_timers(1.0)
        bench.result(worker, 1)
        bench.fence(1.0)
        assert not bench.orders(outbox.KILL)
        assert worker.phase is Phase.UP
        assert (worker.kill_request, worker.recalled) == (None, 0)

    def test_measured_again_behind_the_fence(self):
        bench = Bench()
        bench.submit(job(hard_s=1.0))
        bench.scoreboard.on(1)
        bench.run_timers(1.0)
        bench.scoreboard.on(1, since=1.0, item=1)
        bench.fence(1.0)
        assert not bench.orders(outbox.KILL)
        assert bench.deadline <= 2.1

    def test_soft_then_hard(self):
        bench = Bench()
        slow = bench.submit(job(soft_s=1.0, hard_s=3.0))
        bench.scoreboard.on(1)
        bench.run_timers(1.0)
        assert bench.orders(outbox.INTERRUPT) == [(outbox.INTERRUPT, bench.worker, 1)]
        assert bench.scoreboard.aims == [(1, 0)]
        assert (outbox.SOFT, slow, 1.0) in bench.core.outbox.notifications
        bench.run_timers(2.0)
        assert not bench.orders(outbox.INTERRUPT)
        assert bench.deadline == pytest.approx(3.0)

    def test_a_shorter_limit_behind_a_longer_one(self):
        bench = Bench()
        bench.warm()
        bench.submit(job(soft_s=1.0, hard_s=3600.0), job(hard_s=2.0))
        bench.scoreboard.on(1)
        bench.run_timers(1.0)
        assert bench.worker.due[LIMIT] <= 3.0

    def test_time_in_which_nobody_could_run_is_excused(self):
        bench = Bench()
        bench.submit(job(hard_s=1.0))
        bench.scoreboard.on(1)
        bench.core.preemption.exclude_suspension(5.0, 5.0)
        bench.core.preemption.exclude_suspension(9.0, 4.0)
        bench.run_timers(9.5)
        assert bench.scoreboard.recalled == []
        bench.run_timers(10.0)
        assert bench.scoreboard.recalled == [2]

    def test_between_two_calls_it_is_a_full_limit_away(self):
        bench = Bench()
        bench.submit(job(hard_s=1.0))
        bench.run_timers(1.0)
        assert bench.deadline == pytest.approx(2.0)

    def test_no_limit_no_timer(self):
        bench = Bench()
        bench.submit(job())
        assert bench.deadline is None
        assert job().least_s == NEVER_S


class TestTerminate:
    def test_in_the_backlog(self):
        bench = Bench()
        _, waiting = bench.submit(job(), job(watched=True))
        bench.core.preemption.terminate(waiting, 15, 0.0)
        assert (waiting.body.cause, waiting.body.status) == (Cause.TERMINATED, -15)
        assert list(bench.core.dispatch.settled) == [waiting]
        bench.core.decide(0.0)
        assert waiting.holder is None

    def test_prefetched(self):
        bench = Bench()
        bench.warm()
        _, victim, other = bench.submit(*jobs(3))
        bench.scoreboard.on(1)
        bench.core.preemption.terminate(victim, 15, 0.0)
        assert bench.scoreboard.recalled == [2]
        bench.fence(0.0)
        assert (victim.body.cause, victim.body.started) == (Cause.TERMINATED, False)
        assert (other.state, other.holder) == (0, None)
        assert not bench.orders(outbox.KILL)

    def test_a_worker_without_a_call_is_struck_at_once(self):
        bench = Bench()
        worker = bench.worker
        bench.core.preemption.terminate_worker(worker, 15, 0.0)
        assert bench.orders(outbox.KILL) == [(outbox.KILL, worker, 15)]

    def test_a_worker_between_two_calls_is_fenced_in_first(self):
        """Until the signal has its effect it would go on with the next ones, which nobody wanted to end."""
        bench = Bench()
        bench.warm()
        bench.submit(*jobs(3))
        worker = bench.worker
        bench.core.preemption.terminate_worker(worker, 15, 0.0)
        assert bench.scoreboard.recalled == [1]
        assert not bench.orders(outbox.KILL)
        bench.fence(0.0)
        assert bench.orders(outbox.KILL) == [(outbox.KILL, worker, 15)]

    def test_running(self):
        bench = Bench()
        victim = bench.submit(job())
        worker = bench.worker
        bench.scoreboard.on(1)
        bench.core.preemption.terminate(victim, 15, 0.0)
        now = bench.fence(0.0)
        assert bench.orders(outbox.KILL) == [(outbox.KILL, worker, 15)]
        assert bench.orders(outbox.SPAWN)  # its replacement starts at once
        assert ESCALATE in bench.run_timers(now + TERM_GRACE_S)
        assert bench.orders(outbox.KILL) == [(outbox.KILL, worker, SIGKILL)]
        bench.core.worker_set.exited(worker, -9, 1.0)
        assert (victim.body.cause, victim.body.started) == (Cause.TERMINATED, True)

    def test_ended_by_a_taking_back_that_was_cut_short(self):
        """It was settled, an exception came before it was out of flight, and the worker has come to it since and let it be."""
        bench = Bench()
        bench.warm()
        _, victim, other = bench.submit(*jobs(3))
        worker, scoreboard = bench.worker, bench.scoreboard
        scoreboard.on(1)
        bench.core.preemption.terminate(victim, 15, 0.0)
        bench.core.dispatch.settle(victim, None)
        bench.result(worker, 1)
        scoreboard.on(2)
        scoreboard.skipped_from = 2
        bench.fence(0.0)
        assert victim not in worker.inflight.values()
        assert other.state == 0
        assert not bench.orders(outbox.KILL)

    def test_wanted_while_another_blow_is_under_way(self):
        bench = Bench()
        bench.warm()
        _, second, third = bench.submit(*jobs(3))
        worker, scoreboard = bench.worker, bench.scoreboard
        scoreboard.on(1)
        bench.core.preemption.terminate(second, 15, 0.0)
        bench.core.preemption.terminate(third, 9, 0.0)
        bench.result(worker, 1)
        bench.result(worker, 2)
        scoreboard.on(3)  # it had read the scoreboard before the recall
        now = bench.fence(bench.fence(0.0))
        assert bench.orders(outbox.KILL) == [(outbox.KILL, worker, 9)], now

    def test_wanted_while_the_blow_for_the_call_before_is_not_withdrawn_yet(self):
        """That one had ended by itself. The worker has not begun the next, which it would run to its end."""
        bench = Bench()
        first = bench.submit(job())
        worker, scoreboard = bench.worker, bench.scoreboard
        bench.core.preemption.terminate(first, 15, 0.0)
        scoreboard.on(1)  # it had read the scoreboard before the recall
        bench.result(worker, 1)
        second = bench.submit(job())
        bench.core.preemption.terminate(second, 9, 0.0)
        now = bench.fence(0.0) + FENCE_S
        scoreboard.on(second.number)
        assert bench.run_timers(now) == [FENCE]
        bench.fence(now)
        assert bench.orders(outbox.KILL) == [(outbox.KILL, worker, 9)]

    def test_a_withdrawal_that_was_cut_short_forgets_nobody(self, monkeypatch):
        bench = Bench()
        preemption = bench.core.preemption
        first = bench.submit(job())
        worker, scoreboard = bench.worker, bench.scoreboard
        preemption.terminate(first, 15, 0.0)
        scoreboard.on(1)
        bench.result(worker, 1)
        second = bench.submit(job())
        preemption.terminate(second, 9, 0.0)

        def cut_short(*_):
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(preemption, "_reset_limit_timer", cut_short)
        with pytest.raises(KeyboardInterrupt):
            bench.fence(0.0)
        now = 1e-6 + FENCE_S
        assert bench.run_timers(now) == [FENCE]  # again
        scoreboard.on(second.number)
        assert bench.run_timers(now + FENCE_S) == [FENCE]
        bench.fence(now + FENCE_S)
        assert bench.orders(outbox.KILL) == [(outbox.KILL, worker, 9)]

    def test_only_a_call_that_has_begun_can_be_interrupted(self):
        bench = Bench()
        bench.warm()
        running, held, waiting = *bench.submit(*jobs(2)), job()
        bench.scoreboard.on(1)
        bench.core.preemption.soft_signal = 10
        for each in (waiting, held, running):
            bench.core.preemption.terminate(each, 10, 0.0)
        assert bench.scoreboard.aims == [(1, -1)]
        assert bench.orders(outbox.INTERRUPT) == [(outbox.INTERRUPT, bench.worker, 1)]
        bench.fence(0.0)
        assert [each.state for each in (waiting, held, running)] == [FATE, FATE, 0]
        assert not bench.orders(outbox.KILL)

    @pytest.mark.parametrize("by", ["call", "worker"])
    def test_a_call_that_begins_as_it_is_to_be_interrupted_is_not_killed(self, by):
        bench = Bench()
        preemption, worker = bench.core.preemption, bench.worker
        preemption.soft_signal = 10
        begun = bench.submit(job())
        if by == "call":
            preemption.terminate(begun, 10, 0.0)
        else:
            preemption.terminate_worker(worker, 10, 0.0)
        bench.scoreboard.on(1)  # it had read the scoreboard before the recall
        bench.fence(0.0)
        assert bench.scoreboard.aims == [(1, -1)]
        assert bench.orders(outbox.INTERRUPT) == [(outbox.INTERRUPT, worker, 1)]
        assert not bench.orders(outbox.KILL)
        assert (worker.phase, worker.kill_request) == (Phase.UP, None)

    def test_a_call_that_is_let_be_only_after_it_was_interrupted_never_starts(self):
        bench = Bench()
        preemption, worker = bench.core.preemption, bench.worker
        preemption.soft_signal = 10
        late = bench.submit(job())
        preemption.terminate(late, 10, 0.0)
        bench.scoreboard.on(1)  # and then it stood still
        bench.fence(0.0)
        preemption.skipped(worker, 1)
        assert (late.body.cause, late.body.started) == (Cause.TERMINATED, False)

    def test_ended_already(self):
        bench = Bench()
        done = bench.submit(job())
        bench.result(bench.worker, 1)
        bench.core.preemption.terminate(done, 15, 0.0)
        assert (done.state, bench.deadline) == (RESULT, None)

    def test_a_condemned_worker_tells_of_its_end_and_not_of_a_blow_that_never_landed(self):
        bench = Bench()
        victim = bench.submit(job())
        worker = bench.worker
        bench.scoreboard.on(1)
        bench.core.preemption.request_kill(worker, KillRequest(1, 0, SIGKILL, Cause.TIME_LIMIT, 1.0), 0.0)
        bench.core.preemption.kill_now(worker, 15, Cause.POOL_TERMINATED, 0.0)
        bench.core.worker_set.exited(worker, -15, 0.0)
        assert victim.body.cause is Cause.POOL_TERMINATED
