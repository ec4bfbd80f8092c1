"""Locks and their kin, over every start method."""

import pytest

import billiard
from billiard import synchronize

PATIENCE_S = 30


def take_turns(lock, value, times):
    for _ in range(times):
        with lock:
            value.value += 1


def test_a_lock_excludes(ctx):
    lock, value = ctx.Lock(), ctx.Value("i", 0, lock=False)
    processes = [ctx.Process(target=take_turns, args=(lock, value, 200)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    assert value.value == 400


def wait_for_notice(condition, ready, woken):
    with condition:
        ready.release()
        condition.wait(PATIENCE_S)
    woken.release()


def test_notify_n(ctx):
    condition, ready, woken = ctx.Condition(), ctx.Semaphore(0), ctx.Semaphore(0)
    processes = [ctx.Process(target=wait_for_notice, args=(condition, ready, woken)) for _ in range(3)]
    for process in processes:
        process.start()
    assert all(ready.acquire(timeout=PATIENCE_S) for _ in processes)
    with condition:
        condition.notify(2)
    assert woken.acquire(timeout=PATIENCE_S)
    assert woken.acquire(timeout=PATIENCE_S)
    assert not woken.acquire(block=False)
    with condition:
        condition.notify_all()
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0


def set_it(event, barrier):
    event.set()
    barrier.wait(PATIENCE_S)


def test_event_and_barrier(ctx):
    event, barrier = ctx.Event(), ctx.Barrier(2)
    process = ctx.Process(target=set_it, args=(event, barrier))
    process.start()
    assert event.wait(PATIENCE_S)
    assert barrier.wait(PATIENCE_S) in (0, 1)
    process.join(PATIENCE_S)


MAKERS = {
    "Lock": (),
    "RLock": (),
    "Semaphore": (2,),
    "BoundedSemaphore": (2,),
    "Condition": (None,),
    "Event": (),
    "Barrier": (2, None, None),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_context_may_be_positional_named_or_left_out(ctx, name):
    cls, args = getattr(synchronize, name), MAKERS[name]
    for obj in (cls(*args, ctx), cls(*args, ctx=ctx), cls(*args)):
        assert isinstance(obj, cls)
        assert isinstance(obj, getattr(__import__("multiprocessing.synchronize").synchronize, name))
    assert type(getattr(ctx, name)(*args[:1])) is cls
    assert type(getattr(billiard, name)(*args[:1])) is cls


def test_a_semlock_takes_a_context_like_those_made_of_it(ctx):
    for args in ((ctx,), ()):
        mutex = synchronize.SemLock(synchronize.SEMAPHORE, 1, 1, *args)
        assert mutex.acquire()
        assert not mutex.acquire(False)
        mutex.release()


def test_kinship_and_bounds():
    for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore"):
        assert isinstance(getattr(billiard, name)(), synchronize.SemLock)
    bounded = billiard.BoundedSemaphore(1)
    with pytest.raises(ValueError, match="released too many"):
        bounded.release()
    rlock = billiard.RLock()
    with rlock, rlock:
        assert "MainProcess" in repr(rlock)
