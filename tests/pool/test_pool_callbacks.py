"""Callbacks and hooks: in order, out of the pool's way, whatever they raise."""

import gc
import logging
import select
import threading
import time

import pool_tasks as t
import pytest

import billiard
from billiard import TimeLimitExceeded
from billiard._supervisor.callback_runner import CallbackRunner
from billiard.einfo import ExceptionInfo
from billiard.exceptions import PayloadError, TaskError
from pool_helpers import WITHIN_S, wait_until


def test_success_and_error(pool):
    told = []
    pool.apply_async(t.add, (1, 2), callback=told.append, error_callback=told.append).wait(10)
    pool.apply_async(t.fail, callback=told.append, error_callback=told.append).wait(10)
    wait_until(lambda: len(told) == 2)
    assert told[0] == 3
    assert isinstance(told[1], ExceptionInfo)
    assert type(told[1].exception) is ValueError
    assert "ValueError: broken" in told[1].traceback


def test_in_the_order_of_the_results(make_pool):
    pool, told = make_pool(1), []
    results = [pool.apply_async(t.echo, (i,), callback=told.append) for i in range(200)]
    results[-1].get(10)
    wait_until(lambda: len(told) == 200)
    assert told == list(range(200))


def test_accept_comes_first(make_pool):
    pool, told = make_pool(1), {i: [] for i in range(50)}
    for i, mine in told.items():
        pool.apply_async(t.echo, (i,), callback=mine.append, accept_callback=lambda pid, at, mine=mine: mine.append((pid, at)))
    wait_until(lambda: all(len(mine) == 2 for mine in told.values()))
    for i, ((pid, at), value) in told.items():
        assert value == i
        assert pid == int(pool._pool[0])
        assert abs(time.monotonic() - at) < 60


def test_timeout_callback(pool):
    told = []
    pool.apply_async(
        t.ignore_term, (20,), soft_timeout=0.1, timeout=0.3, timeout_callback=lambda **said: told.append(said)
    ).wait(10)
    wait_until(lambda: told)
    assert {"soft": True, "timeout": 0.1} in told
    pool.apply_async(t.nap, (20,), timeout=0.1, timeout_callback=lambda soft, timeout: told.append((soft, timeout))).wait(10)
    wait_until(lambda: (False, 0.1) in told)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, MemoryError])
def test_a_raising_callback_harms_nobody(pool, error):
    def bad(_):
        raise error("from a callback")

    told = []
    for _ in range(3):
        assert pool.apply_async(t.add, (1, 2), callback=bad).get(10) == 3
    pool.apply_async(t.add, (1, 2), callback=told.append)
    wait_until(lambda: told)
    assert pool.apply(t.add, (2, 2)) == 4


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(("how", "becomes"), [("result", PayloadError), ("error", TaskError)])
def test_a_callback_is_told_of_a_payload_that_wants_to_leave(pool, kind, how, becomes):
    """No Ctrl-C can come in the thread for callbacks: it is the payload's error."""
    told = []
    pool.apply_async(t.leave_reader, ((how, kind),), callback=told.append, error_callback=told.append)
    pool.map_async(t.leave_reader, [1, (how, kind)], 1, callback=told.append, error_callback=told.append)
    wait_until(lambda: len(told) == 2)
    assert [(type(einfo.exception), type(einfo.exception.__cause__)) for einfo in told] == [(becomes, kind)] * 2


@pytest.mark.parametrize("propagate", [(LookupError,), [KeyError, IndexError], LookupError])
def test_callbacks_propagate_leaves_the_turn(make_pool, propagate):
    pool = make_pool(1, threads=False)

    def bad(_):
        raise IndexError("let me out")

    result = pool.apply_async(t.add, (1, 2), callback=bad, callbacks_propagate=propagate)
    with pytest.raises(LookupError, match="let me out"):
        while True:
            pool.turn(1)
    assert result.get(10) == 3
    assert pool.apply(t.add, (1, 1)) == 2


def test_a_slow_callback_delays_no_limit(make_pool):
    pool, go = make_pool(2), threading.Event()
    pool.apply_async(t.pid, callback=lambda _: go.wait(20)).get(10)
    began = time.monotonic()
    with pytest.raises(TimeLimitExceeded):
        pool.apply_async(t.nap, (20,), timeout=0.2).get(10)
    assert time.monotonic() - began < 2
    go.set()


def test_a_callback_may_use_its_pool(pool):
    told = []
    pool.apply_async(t.add, (1, 2), callback=lambda value: told.append(pool.apply(t.add, (value, 1))))
    wait_until(lambda: told)
    assert told == [4]


def test_a_callback_may_end_its_pool(make_pool):
    pool = make_pool(1)
    pool.apply_async(t.pid, callback=lambda _: (pool.close(), pool.join())).get(10)
    wait_until(lambda: "RUN" not in repr(pool))
    pool.join()


def test_map_callbacks(pool):
    told = []
    pool.map_async(t.square, range(5), callback=told.append).get(10)
    pool.map_async(t.fail, ["x"], error_callback=lambda einfo: told.append(type(einfo.exception))).wait(10)
    pool.starmap_async(t.add, [(1, 2)], callback=told.append).get(10)
    wait_until(lambda: len(told) == 3)
    assert told == [[0, 1, 4, 9, 16], ValueError, [3]]


@pytest.fixture
def resting(pool):
    """A pool whose workers are up, and whose supervisor sleeps until something happens."""
    pool.map(t.nap, [0.05] * 4, 1)
    wait_until(lambda: pool._engine.driver.thread.ident in pool._engine.waiting.sleepers)
    return pool


@pytest.mark.parametrize("how", ["map_async", "starmap_async"])
def test_an_empty_maps_callback_waits_for_nothing_else(resting, how):
    pool, told = resting, threading.Event()
    result = getattr(pool, how)(t.add, [], callback=lambda values: told.set() if values == [] else None)
    assert result.get(0) == []
    assert told.wait(WITHIN_S)


def test_an_empty_maps_callback_with_an_outer_loop(make_pool):
    pool, told = make_pool(1, threads=False), []
    # until the worker is up, and nothing is left to do
    wait_until(lambda: pool.turn(0.01) or (pool.next_deadline() is None and not select.select([pool], [], [], 0.2)[0]))
    pool.map_async(t.echo, [], callback=told.append)
    assert select.select([pool], [], [], WITHIN_S)[0], "nothing tells the loop to turn"
    pool.turn(0)
    assert told == [[]]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_map_that_ends_while_it_is_submitted_tells_its_callback(resting, monkeypatch, chunksize):
    pool, told, submit_all = resting, threading.Event(), resting._engine.submit_all

    def slowly(chunks):
        submit_all(chunks)
        wait_until(lambda: all(chunk.state for chunk in chunks))
        wait_until(lambda: pool._engine.driver.thread.ident in pool._engine.waiting.sleepers)

    monkeypatch.setattr(pool._engine, "submit_all", slowly)
    pool.map_async(t.square, [1, 2], chunksize, callback=lambda values: told.set())
    assert told.wait(WITHIN_S)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_map_that_was_refused_calls_nothing_back(pool, chunksize):
    told, later = [], threading.Event()
    with pytest.raises(RuntimeError, match="will not travel"):
        pool.map_async(t.echo, [1, t.WontPickle()], chunksize, callback=told.append, error_callback=told.append)
    pool.apply_async(t.pid, callback=lambda pid: later.set())
    assert later.wait(WITHIN_S)
    assert told == []


@pytest.mark.parametrize("given", [0, "", [], False, 5])
@pytest.mark.parametrize("name", ["callback", "error_callback", "accept_callback", "timeout_callback"])
def test_what_cannot_be_called_is_no_callback(pool, name, given):
    with pytest.raises(TypeError, match=f"^{name} must be callable or None"):
        pool.apply_async(t.pid, **{name: given})
    if name in ("callback", "error_callback"):
        with pytest.raises(TypeError, match=f"^{name} must be callable or None"):
            pool.map_async(t.echo, [1], **{name: given})


@pytest.mark.parametrize("given", [0, "", 5, int, ["LookupError"], (LookupError, None), (int,)])
def test_what_is_no_exception_cannot_be_propagated(pool, given):
    with pytest.raises(TypeError, match="callbacks_propagate must be a tuple"):
        pool.apply_async(t.pid, callbacks_propagate=given)


def test_a_callback_that_is_false_is_called(pool):
    """As an empty list that can be called is."""

    class Told(list):
        __call__ = list.append

    told, failed, mapped, unmapped = Told(), Told(), Told(), Told()
    pool.apply_async(t.add, (1, 2), callback=told)
    pool.apply_async(t.fail, error_callback=failed)
    pool.map_async(t.square, [3], callback=mapped)
    pool.map_async(t.fail, ["x"], error_callback=unmapped)
    wait_until(lambda: told and failed and mapped and unmapped)
    assert (told, mapped) == ([3], [[9]])


def test_join_waits_for_callbacks(make_pool):
    pool, told = make_pool(1), []
    pool.apply_async(t.pid, callback=lambda _: (time.sleep(0.2), told.append(1)))
    pool.close()
    pool.join()
    assert told == [1]


def test_hooks_for_workers(make_pool):
    ups, downs = [], []
    pool = make_pool(2, on_process_up=ups.append, on_process_down=downs.append)
    wait_until(lambda: len(ups) == 2)
    pids = {int(handle) for handle in ups}
    assert pids == {int(handle) for handle in pool._pool}
    assert sorted(handle.index for handle in ups) == [0, 1]
    assert {str(handle) for handle in ups} == {str(pid) for pid in pids}
    assert all(handle.exitcode is None and handle.is_alive() for handle in ups)
    victim = ups[0]
    import os
    import signal

    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: downs)
    assert downs[0] is victim
    assert (victim.exitcode, victim.is_alive()) == (-9, False)
    wait_until(lambda: len(ups) == 3)
    assert ups[2].index == victim.index


@pytest.mark.parametrize("given", ["at once", "later", "in place of the other form"])
@pytest.mark.parametrize(
    ("form", "other"),
    [
        (lambda told: lambda pid, exitcode: told.append((int(pid), exitcode)), lambda handle: None),
        (lambda told: lambda pid, exitcode, *, more=None: told.append((int(pid), exitcode)), lambda handle: None),
        (lambda told: lambda handle: told.append((int(handle), handle.exitcode)), lambda pid, exitcode: None),
        (lambda told: lambda *args: told.append((int(args[0]), args[0].exitcode)), lambda pid, exitcode: None),
    ],
    ids=["pid and code", "keyword only", "handle", "star"],
)
def test_on_process_down_in_both_forms(make_pool, form, other, given):
    told = []
    if given == "at once":
        pool = make_pool(1, on_process_down=form(told))
    else:
        pool = make_pool(1, on_process_down=None if given == "later" else other)
        pool.on_process_down = form(told)
    pid = pool.apply(t.pid)
    pool.apply_async(t.leave, (5,)).wait(10)
    wait_until(lambda: told)
    assert told[0] == (pid, 5)


def test_on_process_exit_runs_in_the_worker(make_pool, tmp_path):
    pool = make_pool(1, on_process_exit=t.ExitNote(str(tmp_path / "exits")))
    pid = pool.apply(t.pid)
    pool.close()
    pool.join()
    assert t.noted(tmp_path / "exits") == [f"{pid} 0"]


@pytest.mark.parametrize("name", ["on_process_up", "on_process_down"])
def test_raising_hooks_harm_nobody(make_pool, name):
    pool = make_pool(1, maxtasksperchild=2, **{name: lambda _: 1 / 0})
    assert pool.map(t.square, range(6), 1) == [x * x for x in range(6)]


def test_timeout_hooks(make_pool):
    told = []
    pool = make_pool(
        1, on_timeout_set=lambda job, soft, hard: told.append(("set", job, soft, hard)),
        on_timeout_cancel=lambda job: told.append(("cancel", job)),
    )  # fmt: skip
    result = pool.apply_async(t.pid, soft_timeout=5, timeout=10)
    result.get(10)
    pool.apply_async(t.pid).get(10)
    wait_until(lambda: len(told) == 2)
    assert told == [("set", result, 5, 10), ("cancel", result)]


def test_no_callback_under_a_lock(make_pool):
    """A callback that blocks until another thread has used the pool."""
    pool, done = make_pool(2), []

    def callback(_):
        worker = threading.Thread(target=lambda: done.append(pool.apply(t.add, (1, 2))))
        worker.start()
        worker.join(10)

    pool.apply_async(t.pid, callback=callback).get(10)
    wait_until(lambda: done == [3])


def test_billiards_timeout_error_is_multiprocessings(pool):
    import multiprocessing

    with pytest.raises(multiprocessing.TimeoutError):
        pool.apply_async(t.nap, (0.2,)).get(0.01)
    assert billiard.TimeoutError is multiprocessing.TimeoutError


@pytest.mark.parametrize("threads", [True, False])
def test_a_callback_may_wait_for_a_slot(make_pool, threads):
    """The slot of the call that it is told of is free by then."""
    pool = make_pool(2, putlocks=True, threads=threads)
    values = []

    def again(value):
        for i in range(3):
            pool.apply_async(t.add, (value, i), callback=values.append)

    handles = [pool.apply_async(t.square, (i,), callback=again) for i in range(10)]
    for handle in handles:
        handle.get(WITHIN_S)
    wait_until(lambda: (pool.turn(), len(values) == 30)[1])
    assert sorted(values) == sorted(i * i + k for i in range(10) for k in range(3))


def test_a_slot_is_given_back_once(make_pool):
    pool = make_pool(1, putlocks=True)
    pool.apply_async(t.square, (2,), callback=lambda value: None).get(WITHIN_S)
    wait_until(lambda: pool._putlock._free.qsize() == 1)
    handle = pool.apply_async(t.nap, (30,))
    assert pool._putlock._free.qsize() == 0
    handle.terminate(9)
    handle.wait(WITHIN_S)
    assert pool._putlock._free.qsize() == 1
    with pytest.raises(TypeError):
        pool.apply_async(lambda: None, callback="nothing")
    gc.collect()
    assert pool._putlock._free.qsize() == 1


@pytest.mark.parametrize("threads", [True, False])
def test_a_raising_hook_is_logged_and_no_more(make_pool, threads, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("multiprocessing"), "propagate", True)

    def bad(*args):
        raise KeyError("hook")

    told = []
    hooks = dict.fromkeys(["on_process_up", "on_process_down", "on_timeout_set", "on_timeout_cancel"], bad)
    with make_pool(1, threads=threads, timeout=50, **hooks) as pool:
        call = pool.apply_async(t.add, (1, 2), accept_callback=lambda *args: told.append("accepted"), callback=told.append)
        assert call.get(WITHIN_S) == 3
        wait_until(lambda: len(told) == 2 or (not threads and pool.turn(0.01)))
        assert told == ["accepted", 3]
    assert caplog.text.count("KeyError: 'hook'") == 4


def test_every_callback_runs_though_the_pool_ends_in_several_threads(make_pool):
    """Who waited for a slot when the pool was terminated settles what is late, beside `join`."""
    for _ in range(10):
        pool, told, refused = make_pool(1, putlocks=True), [], []
        pool.apply_async(t.nap, (60,))

        def submit(pool=pool, told=told, refused=refused):
            try:
                pool.apply_async(abs, (-1,), error_callback=told.append)
            except ValueError as exc:
                refused.append(exc)

        threads = [threading.Thread(target=submit) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda pool=pool: len(pool._claiming) == 3)
        pool.terminate()
        pool.join()
        for thread in threads:
            thread.join(WITHIN_S)
        wait_until(lambda told=told, refused=refused: len(told) + len(refused) == 3)


def test_what_is_announced_while_the_thread_ends_is_told(monkeypatch):
    """Whoever announces may see the thread at work for the last time."""
    callback_runner, lock = CallbackRunner(True, "test"), threading.Lock()
    for _ in range(300):
        told = []

        def announce_and_stop(told=told):
            with lock:
                callback_runner.add(told.append, 1)
                callback_runner.hand_over()
            callback_runner.stop()

        threads = [threading.Thread(target=announce_and_stop) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WITHIN_S)
        wait_until(lambda told=told: len(told) == 3)
    callback_runner.stop()
