"""The fifteen promises, each broken for real."""

import gc
import os
import random
import select
import signal
import sys
import threading
import time
import weakref
from pathlib import Path

import pool_tasks as t
import pytest

import billiard
from billiard import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from billiard._wire.channel import Channel
from billiard.pool import Pool
from pool_helpers import is_running, kill, wait_until

METHODS = ("fork", "forkserver", "spawn")
# Bars are for a machine at rest; the tests run on any. What is shown is the order of magnitude.
SLACK = 4


def timed_error(result, within_s=10):
    began = time.monotonic()
    result.wait(within_s)
    took = time.monotonic() - began
    with pytest.raises(Exception) as caught:
        result.get(0)
    return caught.value, took


def test_promise_1_holds_for_what_was_to_follow_many_that_die(make_pool):
    pool = make_pool(4)
    pool.map(t.leave_if_negative, range(2000), chunksize=1)  # so that it gives many at a time
    rng = random.Random(2026)
    calls = [(x, pool.apply_async(t.leave_if_negative, (x,))) for x in (rng.choice((-1, 1, 2, 3)) for _ in range(500))]
    for x, result in calls:
        if x < 0:
            with pytest.raises(WorkerLostError) as caught:
                result.get(60)
            assert caught.value.started
        else:
            assert result.get(60) == x


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, None], ids=["SIGKILL", "SIGSEGV", "_exit"])
def test_promise_1_a_death_fails_exactly_its_task_at_once(make_pool, signum):
    pool = make_pool(2)
    pool.map(t.pid, range(8), 1)
    good = [pool.apply_async(t.square, (i,)) for i in range(100)]
    victim = pool.apply_async(t.leave, (1,)) if signum is None else pool.apply_async(t.die, (signum,))
    error, took = timed_error(victim)
    assert type(error) is WorkerLostError
    assert took < 0.25 * SLACK
    assert [result.get(10) for result in good] == [i * i for i in range(100)]


def test_promise_1_a_result_already_sent_is_kept(make_pool):
    pool = make_pool(1, threads=False)
    for _ in range(30):
        pid = pool.apply(t.pid)
        result = pool.apply_async(t.add, (1, 2))
        assert select.select([pool.fileno()], [], [], 10)[0]  # it has answered; nobody has read it
        kill(pid)
        assert result.get(10) == 3


def test_promise_2_random_kills_under_load(make_pool):
    pool, chance = make_pool(4), random.Random(7)
    results, kills, stop = [], 0, threading.Event()

    def murder():
        nonlocal kills
        while kills < 20 and not stop.is_set():
            handles = pool._pool
            if handles:
                kill(chance.choice(handles))
                kills += 1
            stop.wait(0.05)

    murderer = threading.Thread(target=murder)
    murderer.start()
    while murderer.is_alive():
        results += [pool.apply_async(t.nap, (0.002, i)) for i in range(len(results), len(results) + 20)]
        results[-1].wait(10)
    murderer.join()
    lost = 0
    for i, result in enumerate(results):
        try:
            assert result.get(10) == i
        except WorkerLostError:
            lost += 1
    assert lost <= kills == 20
    wait_until(lambda: len(pool._pool) == 4, 5)
    began = time.monotonic()
    pool.terminate()
    assert time.monotonic() - began < 2


def test_promise_3_nothing_runs_twice_or_never(make_pool, tmp_path):
    pool, log, stop = make_pool(2), str(tmp_path / "log"), threading.Event()

    def murder():
        while not stop.wait(0.05):
            for handle in pool._pool[:1]:
                kill(handle)

    murderer = threading.Thread(target=murder)
    murderer.start()
    results = [pool.apply_async(t.record, (log, i)) for i in range(2000)]
    ended = {}
    for i, result in enumerate(results):
        result.wait(20)
        ended[i] = result.successful()
    stop.set()
    murderer.join()
    ran = t.noted(log)
    assert len(ran) == len(set(ran)), "something ran twice"
    missing = {i for i, well in ended.items() if well} - {int(line) for line in ran}
    assert not missing
    for result in results:
        if not result.successful():
            assert type(result._resolve() or result.body.exception) is WorkerLostError


def test_promise_4_payloads_harm_only_their_own_task(make_pool):
    pool = make_pool(2)
    with pytest.raises(RuntimeError, match="not travel"):
        pool.apply_async(t.echo, (t.WontPickle(),))
    bad = [
        pool.apply_async(t.echo, (t.WontUnpickle(),)),
        pool.apply_async(t.make, ("WontPickle",)),
        pool.apply_async(t.make, ("WontUnpickle",)),
        pool.apply_async(t.raise_two_arguments),
        pool.apply_async(t.generator),
        pool.apply_async(t.quit_politely),
        pool.apply_async(t.raise_interrupt),
    ]
    good = [pool.apply_async(t.pid, callback=lambda _: 1 / 0) for _ in range(20)]
    pids = {result.get(10) for result in good}
    for result in bad:
        result.wait(10)
        assert not result.successful()
    assert {pool.apply(t.pid) for _ in range(20)} <= pids | {int(handle) for handle in pool._pool}
    assert pool.did_start_ok(), "a payload cost a worker"


@pytest.mark.parametrize(
    ("func", "args"),
    [(t.nap, (30,)), (t.hold_gil, (30,)), (t.stop_self, ()), (t.ignore_term, (30,))],
    ids=["sleeping", "GIL held", "stopped", "SIGTERM ignored"],
)
def test_promise_5_hard_limit(make_pool, func, args):
    pool = make_pool(1)
    pool.apply(t.pid)
    began = time.monotonic()
    error, _ = timed_error(pool.apply_async(func, args, timeout=0.3))
    assert type(error) is TimeLimitExceeded
    assert 0.3 <= time.monotonic() - began < 0.3 + 0.05 * SLACK
    assert pool.apply(t.add, (1, 2)) == 3


def test_promise_5_the_tasks_children_go_too(make_pool, tmp_path):
    pool, log = make_pool(1), tmp_path / "child"
    error, _ = timed_error(pool.apply_async(t.child_and_nap, (str(log), 60), timeout=0.5))
    assert type(error) is TimeLimitExceeded
    (child,) = map(int, t.noted(log))
    wait_until(lambda: not is_running(child), 2)


@pytest.mark.parametrize("status", [0, billiard.pool.EX_RECYCLE])
def test_a_task_that_ends_its_worker_leaves_no_children(make_pool, tmp_path, status):
    pool, log = make_pool(1), tmp_path / "child"
    error, _ = timed_error(pool.apply_async(t.child_and_leave, (str(log), status)))
    assert type(error) is WorkerLostError
    (child,) = map(int, t.noted(log))
    wait_until(lambda: not is_running(child), 2)


def test_promise_5_limits_count_running_time_only(make_pool):
    pool = make_pool(1)
    results = [pool.apply_async(t.nap, (0.1, i), timeout=0.3) for i in range(8)]
    assert [result.get(10) for result in results] == list(range(8))


def test_promise_6_soft_limit_hits_its_task_and_no_other(make_pool):
    pool = make_pool(1)
    pool.apply(t.pid)
    began = time.monotonic()
    error, _ = timed_error(pool.apply_async(t.snooze, (30,), soft_timeout=0.3))
    assert type(error) is SoftTimeLimitExceeded
    assert 0.3 <= time.monotonic() - began < 0.3 + 0.05 * SLACK
    length = 0.01
    results = [pool.apply_async(t.snooze, (length,), soft_timeout=length if i % 2 else None) for i in range(100)]
    for i, result in enumerate(results):
        try:
            assert result.get(10) == "slept"
        except SoftTimeLimitExceeded:
            assert i % 2, "a task without a limit was struck"


def test_promise_7_errors_are_what_they_say(make_pool):
    pool = make_pool(1)
    try:
        pool.apply(t.die)
    except WorkerLostError as error:
        assert error.signal_name == "SIGKILL"
        assert error.exitcode == -9
        assert error.function == "pool_tasks.die"
        assert error.pid
    try:
        pool.apply_async(t.nap, (9,), timeout=0.1).get()
    except TimeLimitExceeded as error:
        assert error.runtime_s >= 0.1


def test_promise_8_no_task_waits_behind_a_slow_one(make_pool):
    pool = make_pool(2)
    pool.map(t.nap, [0] * 2000, chunksize=1)  # so that the pool believes it to be quick, and gives many at a time
    began = time.monotonic()
    results = [pool.apply_async(t.nap, (1.5 if i == 0 else 0, i)) for i in range(400)]
    assert [result.get(10) for result in results[1:]] == list(range(1, 400))
    assert time.monotonic() - began < 1.0
    assert results[0].get(10) == 0


@pytest.mark.parametrize("waits", ["a caller", "a callback"])
def test_promise_8_what_was_to_follow_a_brief_call_does_not_wait_when_it_proves_slow(make_pool, waits):
    pool = make_pool(2)
    pool.map(t.nap, [0] * 2000, chunksize=1)  # as above: the one who is soon idle is given the next, too
    told = threading.Event()
    slow = pool.apply_async(t.nap, (1.5,))
    began = time.monotonic()
    brief = pool.apply_async(t.nap, (0, "brief"), callback=lambda _: told.set())
    if waits == "a caller":
        assert brief.get(10) == "brief"
    assert told.wait(10)
    assert time.monotonic() - began < 0.05 * SLACK
    assert not slow.ready()
    slow.get(10)


def test_promise_8_holds_for_an_outer_loop_that_asks_for_no_deadline(make_pool):
    pool, told = make_pool(2, threads=False), []
    pool.map(t.nap, [0] * 2000, chunksize=1)
    slow, _ = pool.apply_async(t.nap, (1.5,)), pool.apply_async(t.nap, (0, "brief"), callback=told.append)
    began = time.monotonic()
    while not told and select.select([pool], [], [], 10)[0]:
        pool.turn()
    assert told == ["brief"]
    assert time.monotonic() - began < 0.05 * SLACK
    slow.get(10)


def test_promise_9_imap_over_an_endless_input(make_pool):
    pool, given = make_pool(2), 0

    def items():
        nonlocal given
        while True:
            given += 1
            yield given

    results = pool.imap(t.echo, items())
    rss_before = rss_kb()
    for i in range(1, 30_001):
        assert next(results) == i
        if not i % 5000:
            assert given - i <= 2 * 512
    assert rss_kb() - rss_before < 60_000


def rss_kb():
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError


def test_promise_10_an_idle_pool_ends_at_once():
    took = []
    for _ in range(3):
        pool = Pool(2)
        pool.map(t.pid, range(4), 1)
        began = time.monotonic()
        pool.close()
        pool.join()
        took.append(time.monotonic() - began)
    assert min(took) < 0.1


@pytest.mark.parametrize("share", [1, 2, 25])
def test_promise_11_recycling(make_pool, tmp_path, share):
    pool, log, n = make_pool(2, maxtasksperchild=share), str(tmp_path / "log"), 40 * min(share, 10)
    results = [pool.apply_async(t.record, (log, i)) for i in range(n)]
    assert [result.get(20) for result in results] == list(range(n))
    assert sorted(map(int, t.noted(log))) == list(range(n))


@pytest.mark.parametrize("start", METHODS)
@pytest.mark.parametrize("initializer", [t.init_fails, t.init_dies])
def test_promise_12_a_worker_that_cannot_start(lasting_helpers, start, initializer):
    began = time.monotonic()
    with Pool(2, initializer, context=billiard.get_context(start)) as pool:
        result = pool.apply_async(t.pid)
        with pytest.raises(WorkerLostError, match="no such thing" if initializer is t.init_fails else "SIGKILL"):
            result.get(20)
    assert time.monotonic() - began < 15


def test_promise_13_nothing_leaks(lasting_helpers):
    def fds():
        return len(list(Path("/proc/self/fd").iterdir()))

    def one():
        with Pool(2) as pool:
            pool.map(t.square, range(10), 1)
            pool.apply_async(t.die).wait(10)

    one()
    before, threads, shm = fds(), threading.active_count(), set(Path("/dev/shm").iterdir())
    for _ in range(20):
        one()
    assert fds() == before
    assert threading.active_count() == threads
    assert not {path for path in set(Path("/dev/shm").iterdir()) - shm if "billiard" in path.name}


def test_promise_14_an_idle_pool_wakes_nobody(make_pool):
    pool = make_pool(4)
    pids = set()
    while len(pids) < 4:
        pids.update(pool.map(t.pid, range(16), 1))
    pool.apply_async(t.pid, callback=int).get(10)
    template = pool.apply(os.getppid)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("billiard")]
    watched = [Path(f"/proc/{pid}/status") for pid in (*pids, template)]
    watched += [Path(f"/proc/self/task/{thread.native_id}/status") for thread in threads]

    def switches():
        lines = [line for path in watched for line in path.read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    wait_until(lambda: pool._engine.waiting.sleepers, what="the supervisor's taking over from the last caller")
    wait_until(lambda: all("State:\tS" in path.read_text() for path in watched), what="that all of them sleep")
    before = switches()
    time.sleep(1.5)  # what is measured: time in which nothing happens
    assert switches() == before


def test_promise_15_every_accepted_call_resolves(make_pool):
    pool = make_pool(2)
    results = [pool.apply_async(t.nap, (0.01, i)) for i in range(100)]
    results.append(pool.apply_async(t.die))
    results.append(pool.map_async(t.nap, [0.01] * 30, 1))
    wait_until(results[20].ready)
    pool.terminate()
    for result in results:
        result.wait(5)
        assert result.ready()
    with pytest.raises(ValueError, match="not running"):
        pool.apply_async(t.pid)


def test_promise_15_no_thread_of_ours_ends_the_host(make_pool):
    pool = make_pool(1)
    pool.apply_async(t.pid, callback=sys.exit).get(10)
    assert pool.apply(t.add, (1, 2)) == 3


@pytest.mark.parametrize("size", [20_000, 60_000, 100_000, 300_000])
def test_a_task_may_keep_its_arguments(size):
    """Small ones came in the buffer into which the next call was read: an array that a task had kept changed."""
    with Pool(1) as pool:
        sent = [t.Block(bytearray([fill]) * size) for fill in (1, 2, 3)]
        returned = [pool.apply(t.keep, (block,)) for block in sent]
        returned += pool.map(t.keep, [t.Block(bytearray([fill]) * size) for fill in (4, 5)], 2)
        assert pool.apply(t.kept) == [{1}, {2}, {3}, {4}, {5}]
        assert [set(bytes(block.memory)) for block in returned] == [{1}, {2}, {3}, {4}, {5}]
        assert not any(memoryview(block.memory).readonly for block in returned)


@pytest.mark.parametrize("size", [20_000, 300_000])
@pytest.mark.parametrize("synack", [False, True])
def test_a_task_may_write_to_its_arguments(size, synack):
    accepted = []
    with Pool(1, synack=synack) as pool:
        result = pool.apply_async(t.scribble, (t.Block(bytearray(size)),), accept_callback=lambda *args: accepted.append(args))
        if synack:
            wait_until(lambda: accepted)
            pool.send_ack(0, result, None, None)
        assert result.get(10) == 255


@pytest.mark.parametrize("size", [20_000, 300_000])
@pytest.mark.parametrize("call", ["apply_async", "map_async", "starmap_async", "imap", "imap_unordered"])
def test_the_caller_may_change_its_arrays(size, call):
    """At once after a call, and between two items of a lazy input. All of it lies in the parent still: the worker is busy."""
    memory = bytearray(size)

    def same_block_anew():
        for fill in (1, 2, 3):
            memory[:] = bytes([fill]) * size
            yield t.Block(memory)

    with Pool(1) as pool:
        first = pool.apply_async(t.nap, (0.2,))
        if call == "apply_async":
            results = [pool.apply_async(t.fills, (block,)) for block in same_block_anew()]
        elif call.startswith("imap"):
            results = getattr(pool, call)(t.fills, same_block_anew())
        else:
            blocks = [t.Block(bytearray([fill]) * size) for fill in (1, 2, 3)]
            items = [(block,) for block in blocks] if call == "starmap_async" else blocks
            results = getattr(pool, call)(t.fills, items, chunksize=1)
            for block in blocks:
                block.memory[:] = bytes(size)
        memory[:] = bytes(size)
        assert not first.ready()
        if call == "apply_async":
            results = [result.get(10) for result in results]
        assert list(results.get(10) if hasattr(results, "get") else results) == [{1}, {2}, {3}]


def test_another_thread_that_writes_sends_no_array_that_has_changed(monkeypatch):
    """It had read the array's parts, and not yet put them on their way, when the submitter looked for them there."""
    caught, changed = threading.Event(), threading.Event()
    prepare = Channel.prepare

    def slowly(parts):
        if len(parts) > 2:
            caught.set()
            changed.wait(0.02)  # it comes only if the submitter does not wait for us
        return prepare(parts)

    with Pool(1) as pool:
        pool.apply(t.echo, (1,))
        engine = pool._engine
        writer = threading.Thread(target=engine.kick)

        def submit(job):
            engine.core.dispatch.backlog.append(job)
            writer.start()
            assert caught.wait(10)

        monkeypatch.setattr(Channel, "prepare", staticmethod(slowly))
        monkeypatch.setattr(engine, "submit", submit)
        block = t.Block(bytearray(b"a" * 10_000_000))
        result = pool.apply_async(t.fills, (block,))
        block.memory[:] = b"b" * 10_000_000
        changed.set()
        assert result.get(10) == {ord("a")}
        writer.join()


@pytest.mark.parametrize("call", ["apply", "map", "starmap", "imap", "imap_unordered"])
def test_an_error_that_was_dealt_with_is_free(call):
    """With its traceback and the frames in it, which hold the arguments: not only when a collection comes by."""
    gc.disable()
    try:
        with Pool(1) as pool:
            try:
                made = getattr(pool, call)(t.die, [(9,)] if call == "starmap" else [9])
                list(made)
            except WorkerLostError as exc:
                error = weakref.ref(exc)
            wait_until(lambda: error() is None, 1, "the error's end")
    finally:
        gc.enable()
