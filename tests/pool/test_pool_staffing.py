"""How many workers, which, and for how long: growth, recycling, restarts, and what is in flight."""

import contextlib
import json
import os
import signal
import sys
import threading
import time

import pool_tasks as t
import pytest

from billiard import TimeLimitExceeded, WorkerLostError, current_process
from billiard._api.worker_handle import WorkerHandle
from billiard._core.state import Worker
from billiard.exceptions import RestartFreqExceeded, Terminated
from billiard.pool import LaxBoundedSemaphore
from pool_helpers import WITHIN_S, wait_until


def pids(pool):
    return {int(handle) for handle in pool._pool}


@pytest.fixture
def handle(make_pool):
    """The handle that a hook was given of the only worker, which is up."""
    given = []
    pool = make_pool(1, on_process_up=given.append)
    pool.apply(t.pid)
    wait_until(lambda: given)
    return given[0]


def test_a_handle_does_for_its_pid(handle):
    pid = handle.pid
    assert (handle == pid, pid == handle, handle != pid, handle == pid + 1) == (True, True, False, False)
    assert handle in {pid}
    assert pid in {handle}
    assert {pid: "found"}[handle] == "found"
    assert hash(handle) == hash(pid)
    assert (f"{handle}", f"{handle:d}", f"{handle:>9}", f"{handle:x}", "%d" % handle) == (  # noqa: UP031 - it is one of the ways
        str(pid), str(pid), f"{pid:>9}", f"{pid:x}", str(pid),
    )  # fmt: skip
    assert sorted([handle, pid + 1, 3]) == [3, pid, pid + 1]
    assert 3 < handle <= pid <= handle < pid + 1
    assert json.dumps([int(handle)]) == f"[{pid}]"
    with pytest.raises(TypeError):
        _ = handle < "3"
    assert handle != "3"


def test_a_handle_says_of_the_worker_what_the_worker_does(make_pool):
    pool = make_pool(1)
    [handle] = pool._pool
    assert handle.daemon is pool.apply(is_daemon) is False


def is_daemon():
    return current_process().daemon


def test_a_handle_without_a_pid_is_no_key():
    worker = Worker(1, 0, None)
    handle = WorkerHandle(worker, None)
    assert handle == handle
    assert handle != WorkerHandle(worker, None)
    with pytest.raises(TypeError, match="not started"):
        hash(handle)
    worker.pid = 7
    assert handle == WorkerHandle(worker, None)
    assert {handle: 1} == {7: 1}


def test_grow_and_shrink(make_pool):
    pool = make_pool(1)
    pool.grow(2)
    wait_until(lambda: len(pool._pool) == 3)
    assert len(set(pool.map(t.nap, [0.1] * 3, 1))) == 1
    pool.shrink()
    wait_until(lambda: len(pool._pool) == 2)
    pool.shrink(1)
    wait_until(lambda: len(pool._pool) == 1)
    assert pool.map(t.square, range(4), 1) == [0, 1, 4, 9]


def test_shrink_lets_a_busy_worker_finish(make_pool, tmp_path):
    pool = make_pool(2)
    results = [pool.apply_async(t.record_and_nap, (str(tmp_path / "log"), i, 0.4)) for i in range(2)]
    wait_until(lambda: len(t.noted(tmp_path / "log")) == 2)
    pool.shrink(1)
    assert [result.get(10) for result in results] == [0, 1]
    wait_until(lambda: len(pool._pool) == 1)
    assert sorted(t.noted(tmp_path / "log")) == ["0", "1"]


def test_restart_replaces_everybody_after_their_calls(make_pool):
    pool = make_pool(2, allow_restart=True)
    pool.apply(t.pid)
    wait_until(lambda: len(pool._pool) == 2)
    before = pids(pool)
    running = pool.apply_async(t.nap, (0.3, "done"))
    pool.restart()
    assert running.get(10) == "done"
    wait_until(lambda: len(pids(pool)) == 2 and not pids(pool) & before)
    assert pool.apply(t.add, (1, 2)) == 3


@pytest.mark.parametrize("share", [1, 2, 3])
def test_maxtasksperchild(make_pool, tmp_path, share):
    pool = make_pool(2, maxtasksperchild=share)
    ran = pool.map(t.pid, range(12), chunksize=1)
    assert max(ran.count(pid) for pid in ran) <= share
    assert len(set(ran)) >= 12 // share
    pool.close()
    pool.join()


def test_a_chunk_is_one_task_for_maxtasksperchild(make_pool):
    pool = make_pool(1, maxtasksperchild=1)
    ran = pool.map(t.pid, range(6), chunksize=3)
    assert len(set(ran[:3])) == len(set(ran[3:])) == 1
    assert ran[0] != ran[3]


def test_replacement_is_ready_before_the_old_one_leaves(make_pool):
    pool = make_pool(1, maxtasksperchild=1)
    first = pool.apply_async(t.nap, (1.0, "old"))
    wait_until(lambda: first.accepted())
    wait_until(lambda: pool._pool and pids(pool) != set(first.worker_pids()), 5, "a replacement")
    assert not first.ready()
    second = pool.apply_async(t.pid)
    assert first.get(10) == "old"
    assert second.get(10)


def test_max_memory_per_child(make_pool):
    pool = make_pool(1, max_memory_per_child=40_000)
    small = pool.apply(t.allocate, (1,))
    assert pool.apply(t.pid) == small
    large = pool.apply(t.allocate, (80,))  # freed again as it returns
    assert large == small
    wait_until(lambda: pool.apply(t.pid) != large)


def test_what_a_worker_inherits_does_not_count(make_pool):
    ballast = bytearray(os.urandom(1 << 16)) * 1500
    pool = make_pool(1, max_memory_per_child=50_000)
    assert len(set(pool.map(t.pid, range(10), chunksize=1))) == 1
    assert len(ballast) > 50_000_000


def test_max_restarts(make_pool):
    pool = make_pool(1, max_restarts=2, max_restart_freq=30)
    seen = []
    for _ in range(6):
        try:
            pool.apply_async(t.die).get(10)
        except (WorkerLostError, RestartFreqExceeded) as exc:
            seen.append(type(exc))
    assert seen[0] is WorkerLostError
    assert seen[-1] is RestartFreqExceeded
    with pytest.raises(RestartFreqExceeded, match=r"max_restarts=2 within max_restart_freq=30 ") as caught:
        pool.apply_async(t.pid)
    about_no_call(caught.value)


def about_no_call(error):
    """What told that the pool has given up: there is no call to name."""
    assert (error.function, error.job, error.started) == (None, None, None)
    assert "any call" not in str(error)


def test_restarts_within_the_rate_are_fine(make_pool):
    pool = make_pool(1, max_restarts=3, max_restart_freq=0.05)
    for _ in range(6):
        with pytest.raises(WorkerLostError):
            pool.apply(t.die)
        time.sleep(0.06)  # the rate is what is tested
    assert pool.apply(t.add, (1, 2)) == 3


def test_recycling_spends_no_restarts(make_pool):
    pool = make_pool(1, maxtasksperchild=1, max_restarts=1, max_restart_freq=60)
    assert pool.map(t.square, range(8), 1) == [x * x for x in range(8)]


@pytest.mark.parametrize("initializer", [t.init_fails, t.init_dies])
@pytest.mark.parametrize("threads", [True, False])
def test_a_worker_that_cannot_start(make_pool, initializer, threads):
    began = time.monotonic()
    pool = make_pool(2, initializer, threads=threads)
    result = pool.apply_async(t.pid)
    with pytest.raises(WorkerLostError) as caught:
        result.get(20)
    assert time.monotonic() - began < 10
    if initializer is t.init_fails:
        assert "no such thing to initialise" in str(caught.value)
    assert "initializer" in str(caught.value)
    with pytest.raises(WorkerLostError, match="the pool: no worker could be started") as caught:
        pool.apply_async(t.pid)
    about_no_call(caught.value)


def test_putlocks_bound_what_is_in_flight(make_pool):
    pool = make_pool(2, putlocks=True)
    began = time.monotonic()
    results = [pool.apply_async(t.nap, (0.2, i)) for i in range(4)]
    assert time.monotonic() - began > 0.15
    assert [result.get(10) for result in results] == [0, 1, 2, 3]


def test_waitforslot_overrides_putlocks(make_pool):
    pool = make_pool(1, putlocks=True)
    began = time.monotonic()
    results = [pool.apply_async(t.nap, (0.2,), waitforslot=False) for _ in range(4)]
    assert time.monotonic() - began < 0.15
    [result.get(10) for result in results]
    other = make_pool(1)
    began = time.monotonic()
    [other.apply_async(t.nap, (0.2,), waitforslot=True) for _ in range(3)]
    assert time.monotonic() - began > 0.3


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize("how", ["value", "error", "death", "limit", "terminate"])
def test_a_slot_is_given_back_however_a_call_ends(make_pool, how, threads):
    semaphore = threading.Semaphore(1)
    pool = make_pool(1, semaphore=semaphore, putlocks=True, threads=threads)
    calls = {
        "value": (t.pid, (), {}), "error": (t.fail, (), {}), "death": (t.die, (), {}), "limit": (t.nap, (9,), {"timeout": 0.1}),
        "terminate": (t.nap, (9,), {}),
    }  # fmt: skip
    func, args, options = calls[how]
    for _ in range(3):
        result = pool.apply_async(func, args, **options)
        if how == "terminate":
            result.terminate(signal.SIGKILL)
        result.wait(10)
    assert pool.apply(t.add, (1, 2)) == 3
    pool.close()
    pool.join()
    assert semaphore.acquire(blocking=False)
    assert not semaphore.acquire(blocking=False)


def test_synack_lets_a_call_be_cancelled(make_pool, tmp_path):
    pool = make_pool(1, synack=True)
    log = str(tmp_path / "log")
    assert pool.apply(t.add, (1, 2)) == 3
    first = pool.apply_async(t.record_and_nap, (log, "first", 0.3))
    second = pool.apply_async(t.record, (log, "second"))
    third = pool.apply_async(t.record, (log, "third"))
    second._cancel()
    assert first.get(10) == "first"
    assert third.get(10) == "third"
    with pytest.raises(Terminated):
        second.get(10)
    assert t.noted(log) == ["first", "third"]


@pytest.mark.parametrize("threads", [True, False])
def test_synack_with_recycling_and_death(make_pool, threads):
    pool = make_pool(2, synack=True, maxtasksperchild=2, threads=threads)
    assert pool.map(t.square, range(10), 1) == [x * x for x in range(10)]
    results = [pool.apply_async(t.square, (x,)) for x in range(10)]
    lost = pool.apply_async(t.die)
    assert [result.get(10) for result in results] == [x * x for x in range(10)]
    with pytest.raises(WorkerLostError):
        lost.get(10)


def test_terminate_a_queued_call(make_pool, tmp_path):
    pool, log = make_pool(1), str(tmp_path / "log")
    running = pool.apply_async(t.record_and_nap, (log, "running", 0.5))
    queued = [pool.apply_async(t.record, (log, i)) for i in range(5)]
    queued[2].terminate(signal.SIGTERM)
    assert running.get(10) == "running"
    with pytest.raises(Terminated):
        queued[2].get(10)
    assert [queued[i].get(10) for i in (0, 1, 3, 4)] == [0, 1, 3, 4]
    assert t.noted(log) == ["running", "0", "1", "3", "4"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGQUIT])
def test_terminate_a_running_call(make_pool, tmp_path, signum):
    pool, log = make_pool(1), str(tmp_path / "log")
    running = pool.apply_async(t.record_and_nap, (log, "running", 30))
    behind = pool.apply_async(t.record, (log, "behind"))
    wait_until(lambda: t.noted(log))
    began = time.monotonic()
    running.terminate(signum)
    with pytest.raises(Terminated):
        running.get(10)
    assert behind.get(10) == "behind"
    assert time.monotonic() - began < 5
    assert t.noted(log) == ["running", "behind"]


def test_terminate_a_call_that_ignores_it(make_pool, tmp_path):
    pool, log = make_pool(1), str(tmp_path / "log")
    result = pool.apply_async(t.ignore_term, (30, log))
    wait_until(lambda: t.noted(log))
    result.terminate(signal.SIGTERM)
    with pytest.raises(Terminated):
        result.get(10)


@pytest.mark.parametrize("signum", [(), (signal.SIGKILL,)])
def test_terminate_a_map(make_pool, signum):
    pool = make_pool(2)
    result = pool.map_async(t.nap, [30] * 6, 1)
    other = pool.apply_async(t.add, (1, 2))
    wait_until(lambda: len(result.worker_pids()) == 2)
    result.terminate(*signum)
    with pytest.raises(Terminated):
        result.get(10)
    assert other.get(10) == 3


def test_terminate_after_the_end_changes_nothing(pool):
    result = pool.apply_async(t.add, (1, 2))
    result.get(10)
    before = pids(pool)
    result.terminate(signal.SIGKILL)
    assert result.get(0) == 3
    assert pool.map(t.square, [1, 2], 1) == [1, 4]
    assert pids(pool) == before


def test_terminate_job_by_pid(make_pool):
    pool = make_pool(2)
    running = pool.apply_async(t.nap, (30,))
    wait_until(running.worker_pids)
    pool.terminate_job(running.worker_pids()[0])
    with pytest.raises(Terminated) as caught:
        running.get(10)
    assert caught.value.args[0] == signal.SIGTERM
    assert pool.map(t.square, [1, 2], 1) == [1, 4]


def test_terminate_job_of_an_idle_worker(make_pool):
    pool = make_pool(1)
    pid = pool.apply(t.pid)
    pool.terminate_job(pid, signal.SIGKILL)
    wait_until(lambda: pool.apply(t.pid) != pid)


def test_discard_keeps_a_queued_call_from_starting(make_pool, tmp_path):
    pool, log, fifo = make_pool(1), str(tmp_path / "log"), tmp_path / "fifo"
    os.mkfifo(fifo)
    running = pool.apply_async(t.record_and_wait, (log, "running", fifo))
    queued = pool.apply_async(t.record, (log, "queued"))
    queued.discard()
    fifo.write_text("go on")
    running.get(10)
    assert pool.apply(t.add, (1, 2)) == 3
    assert t.noted(log) == ["running"]


def test_workers_have_seeds_of_their_own(make_pool):
    import random

    random.seed(1)
    pool = make_pool(2, maxtasksperchild=1)
    drawn = pool.map(draw, range(6), 1)
    assert len(set(drawn)) == 6


def draw(_):
    import random

    return random.random()


def test_a_limit_spends_no_restart(make_pool):
    """The pool kills that worker itself, because of one call."""
    pool = make_pool(1, max_restarts=1, max_restart_freq=100)
    for _ in range(4):
        with pytest.raises(TimeLimitExceeded):
            pool.apply_async(t.nap, (60,), timeout=0.05).get(WITHIN_S)
    assert pool.apply(t.add, (1, 2)) == 3


def slots_of(pool):
    """How many calls the pool takes before one has to wait."""
    taken = 0
    while pool._putlock.acquire(False):
        taken += 1
    for _ in range(taken):
        pool._putlock.release()
    return taken


def test_there_is_a_slot_for_each_worker(make_pool):
    pool = make_pool(3, putlocks=True)
    running = [pool.apply_async(t.nap, (0.2,)) for _ in range(3)]
    pool.shrink(2)  # their slots are taken now, and go when they are given back
    for call in running:
        call.get(WITHIN_S)
    wait_until(lambda: slots_of(pool) == 1)
    pool.grow(2)
    assert slots_of(pool) == 3


def test_threads_that_shrink_at_once_leave_the_last_slot(make_pool):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(5):
            pool, together = make_pool(4, putlocks=True), threading.Barrier(4)

            def shrink(pool=pool, together=together):
                together.wait()
                with contextlib.suppress(ValueError):
                    pool.shrink(3)

            threads = [threading.Thread(target=shrink) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(WITHIN_S)
            assert (pool._processes, slots_of(pool)) == (1, 1)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("threads", [True, False])
def test_shrink_waits_for_no_slot(make_pool, threads):
    """Also of a semaphore whose own `shrink` does: without a thread nobody but the caller could give one back."""
    pool = make_pool(2, threads=threads, putlocks=True, semaphore=LaxBoundedSemaphore(2))
    running = [pool.apply_async(t.nap, (0.3,)) for _ in range(2)]
    began = time.monotonic()
    pool.shrink(1)
    assert time.monotonic() - began < 0.2
    calls = [pool.apply_async(t.echo, (i,)) for i in range(4)]
    assert [call.get(WITHIN_S) for call in (*running, *calls)] == [None, None, 0, 1, 2, 3]


def test_a_semaphore_that_cannot_be_resized_is_its_owners(make_pool):
    semaphore = threading.BoundedSemaphore(1)
    pool = make_pool(1, semaphore=semaphore)
    pool.grow(1)
    pool.shrink(1)
    assert pool.apply(t.add, (1, 2)) == 3
    assert semaphore.acquire(False)


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_who_waited_for_a_slot_while_the_pool_ended_is_refused(make_pool, end):
    semaphore = threading.Semaphore(0)
    pool, refused = make_pool(1, semaphore=semaphore), []

    def submit():
        try:
            pool.apply_async(abs, (-3,), waitforslot=True)
        except ValueError as exc:
            refused.append(exc)

    thread = threading.Thread(target=submit)
    thread.start()
    wait_until(lambda: pool._claiming)
    getattr(pool, end)()
    pool.join()
    semaphore.release()
    thread.join(WITHIN_S)
    assert refused
    assert semaphore.acquire(False), "its slot was not given back"
