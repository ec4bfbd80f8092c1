"""`billiard.celery:TaskPool` as Celery's worker makes, asks and stops it. Where Celery is not installed, that it says so."""

import importlib
import importlib.util
import os
import signal
import threading

import pytest

# not find_spec("celery"), which finds the directory of that name in tests/
try:
    HAS_CELERY = importlib.util.find_spec("celery.app") is not None
except ModuleNotFoundError:
    HAS_CELERY = False


@pytest.mark.skipif(HAS_CELERY, reason="Celery is installed")
def test_it_says_what_it_needs():
    with pytest.raises(ImportError, match="celery"):
        importlib.import_module("billiard.celery")


@pytest.fixture
def task_pool(hub):
    if not HAS_CELERY:
        pytest.skip("Celery is not installed; tests/celery runs TaskPool in real workers")
    from celery.app.base import Celery

    from billiard.celery import TaskPool

    app = Celery("tests", broker="memory://", set_as_current=False)
    pools = []

    def make(limit, threads):
        pool = TaskPool(
            limit, app=app, initargs=(app, "here"), threads=threads, putlocks=threads, semaphore=None, max_restarts=100,
            maxtasksperchild=None, max_memory_per_child=None, timeout=30, soft_timeout=60, lost_worker_timeout=10.0,
            allow_restart=True, sched_strategy="default",
        )  # fmt: skip
        pool.start()
        pools.append(pool)
        if not threads:
            pool.register_with_event_loop(hub)
        return pool

    yield make
    for pool in pools:
        pool.terminate()


def run(pool, hub, threads, func, *args):
    """One task, driven as the pool is."""
    done = threading.Event()
    values = []
    pool.apply_async(
        func, args, {}, accept_callback=lambda pid, at: None, callback=lambda value: (values.append(value), done.set())
    )
    if threads:
        assert done.wait(20)
    else:
        hub.until(done.is_set)
    return values[0]


@pytest.mark.parametrize("threads", [False, True])
def test_a_workers_life(task_pool, hub, threads):
    pool = task_pool(2, threads)
    assert run(pool, hub, threads, divmod, 7, 2) == (3, 1)
    pid = run(pool, hub, threads, os.getpid)
    info = pool.info
    assert info["implementation"] == "billiard.celery:TaskPool"
    assert pid in info["processes"]
    assert info["timeouts"] == (60, 30)
    assert info["writes"]["total"] == 2
    assert pool.num_processes == 2
    assert pool.did_start_ok()
    assert run(pool, hub, threads, signal.getsignal, signal.SIGINT) == signal.SIG_IGN
    pool.grow(1)
    assert pool.num_processes == 3
    pool.stop()
    assert hub.readers == {}


@pytest.mark.parametrize("threads", [False, True])
def test_restart(task_pool, hub, threads):
    pool = task_pool(1, threads)
    before = run(pool, hub, threads, os.getpid)
    os.environ["TASK_POOL_TEST"] = "seen"
    try:
        pool.restart()
    finally:
        del os.environ["TASK_POOL_TEST"]
    after = run(pool, hub, threads, os.getpid)
    assert after != before
    assert run(pool, hub, threads, os.getenv, "TASK_POOL_TEST") == "seen", "workers are made of the parent as it is now"
    assert pool.info["processes"] == [after]
