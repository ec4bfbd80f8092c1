"""The package's API over threads."""

import threading

import pytest

import billiard.dummy


def test_started_from_a_thread_of_somebody_elses():
    done = []

    def start():
        process = billiard.dummy.Process(target=done.append, args=(1,))
        process.start()
        process.join(30)
        done.append(process.exitcode)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(30)
    assert done == [1, 0]


def test_the_rest():
    assert issubclass(billiard.dummy.DummyProcess, threading.Thread)
    reader, writer = billiard.dummy.Pipe(False)
    writer.send(1)
    assert reader.recv() == 1
    assert billiard.dummy.Barrier is threading.Barrier
    assert billiard.dummy.Namespace(a=1).a == 1
    assert billiard.dummy.active_children() == []


def test_thread_pools_work():
    # they could not even be made in billiard 4.3.2
    with billiard.dummy.Pool(2) as pool:
        assert pool.map(str, range(5)) == list("01234")


def test_the_manager_is_the_module():
    manager = billiard.dummy.Manager()
    assert manager is billiard.dummy
    assert manager.list([1]) == [1]
    with manager.Pool(1) as pool:
        assert isinstance(pool, billiard.pool.ThreadPool)


def test_a_terminated_thread_pool_can_be_joined():
    started, release = threading.Semaphore(0), threading.Event()

    def hang():
        started.release()
        release.wait(60)

    pool = billiard.dummy.Pool(2)
    stuck = pool._pool[:]
    for _ in stuck:
        pool.apply_async(hang)
    for _ in stuck:
        assert started.acquire(timeout=30)
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.terminate()
    pool.join()
    assert all(thread.is_alive() for thread in stuck)  # nobody can stop them, and nobody waits
    release.set()
    for thread in stuck:
        thread.join(30)


def test_a_closed_thread_pool_is_waited_for():
    done = []
    pool = billiard.dummy.Pool(2)
    threads = pool._pool[:]
    for i in range(20):
        pool.apply_async(done.append, (i,))
    pool.close()
    pool.join()
    assert sorted(done) == list(range(20))
    assert not any(thread.is_alive() for thread in threads)
