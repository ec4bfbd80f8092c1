"""Limits that end when the task does: no signal ever hits another task."""

import math
import random
import signal
import time

import fault_tasks as t
import pytest

from billiard import SoftTimeLimitExceeded, TimeLimitExceeded
from billiard._core.preemption import LIMIT
from billiard.exceptions import Terminated
from pool_helpers import wait_until

LENGTH_S = 0.006


def timed(log, index, seconds):
    t.note(log, index)
    t.nap(seconds)
    return index


@pytest.mark.parametrize("threads", [True, False])
def test_hard_limits_of_the_tasks_length(make_pool, tmp_path, threads):
    """1,000 limited calls, each between calls that have no limit."""
    pool, log, chance = make_pool(2, threads=threads), str(tmp_path / "log"), random.Random(3)
    n, over, results = 500, 0, []
    for i in range(2 * n):
        limit = LENGTH_S + chance.uniform(-0.001, 0.001) if i % 2 else None
        results.append(pool.apply_async(timed, (log, i, LENGTH_S if i % 2 else 0), timeout=limit))
    for i, result in enumerate(results):
        try:
            assert result.get(30) == i
        except TimeLimitExceeded:
            assert i % 2, f"call {i} had no limit"
            over += 1
    ran = list(map(int, t.noted(log)))
    assert len(ran) == len(set(ran)), "something ran twice"
    # on a busy machine a limit may end a call before its note
    assert set(range(0, 2 * n, 2)) <= set(ran)
    assert over <= n


def test_soft_limits_of_the_tasks_length(make_pool, tmp_path):
    pool, log, chance = make_pool(2), str(tmp_path / "log"), random.Random(4)
    n, over, results = 500, 0, []
    for i in range(2 * n):
        limit = LENGTH_S + chance.uniform(-0.001, 0.001) if i % 2 else None
        results.append(pool.apply_async(timed, (log, i, LENGTH_S if i % 2 else 0), soft_timeout=limit))
    for i, result in enumerate(results):
        try:
            assert result.get(30) == i
        except SoftTimeLimitExceeded:
            assert i % 2, f"call {i} had no limit"
            over += 1
    ran = list(map(int, t.noted(log)))
    assert len(ran) == len(set(ran)), "something ran twice"
    assert set(range(0, 2 * n, 2)) <= set(ran)
    assert over <= n


def test_terminate_at_the_tasks_end(make_pool, tmp_path):
    pool, log, chance = make_pool(2), str(tmp_path / "log"), random.Random(5)
    struck = 0
    for i in range(0, 300, 3):
        victim = pool.apply_async(timed, (log, i, LENGTH_S))
        others = [pool.apply_async(timed, (log, i + k, 0)) for k in (1, 2)]
        victim.wait(LENGTH_S + chance.uniform(-0.004, 0.002))  # a fence of 1.5 ms comes before the signal
        victim.terminate(signal.SIGKILL)
        assert [other.get(10) for other in others] == [i + 1, i + 2]
        try:
            assert victim.get(10) == i
        except Terminated:
            struck += 1
    ran = t.noted(log)
    assert len(ran) == len(set(ran))
    assert struck


@pytest.mark.parametrize("turn", ["a caller that waited", "a turn of the user's"])
def test_a_deadline_is_kept_although_somebody_else_took_the_wake_up(make_pool, turn):
    """The supervisor sleeps with no deadline in progress; a caller's turn sets one, and the caller leaves."""
    pool = make_pool(2)
    engine = pool._engine
    assert pool.apply(t.add, (1, 2)) == 3
    wait_until(lambda: list(engine.waiting.sleepers.values()) == [math.inf])
    worker = next(iter(engine.core.worker_set.workers.values()))
    engine.core.timers.set(worker, LIMIT, time.monotonic() + 0.05)  # as a turn does: nobody is woken for it yet
    if turn == "a caller that waited":
        assert pool.apply(t.add, (1, 2)) == 3
    else:
        pool.turn(0.0)
    wait_until(lambda: LIMIT not in worker.due)
