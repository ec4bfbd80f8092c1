"""Programs that have changed what a pool takes for granted: signals, clocks, sockets' timeouts, logging, names, locks."""

import errno
import logging
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pool_tasks as t
import pytest

import billiard
from billiard import WorkerLostError
from billiard._supervisor import template
from billiard._wire import pickling
from billiard._wire.exit_status import EX_OK, EX_RECYCLE
from pool_helpers import WITHIN_S, is_running, kill, wait_until


@pytest.mark.parametrize("threads", [True, False])
def test_sigpipe_with_its_default_does_not_end_the_program(make_pool, threads):
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        pool = make_pool(1, threads=threads)
        for _ in range(20):
            pid = pool.apply(t.pid)
            kill(pid)
            wait_until(lambda pid=pid: not is_running(pid))
            wait_until(lambda: _answers(pool))  # the call may have been written to the one that is gone
        kill(pool._engine.processes.launcher._pids[-1])
        wait_until(lambda: _answers(pool))
    finally:
        signal.signal(signal.SIGPIPE, before)


def _answers(pool):
    try:
        return pool.apply(t.add, (1, 2)) == 3
    except WorkerLostError:
        return False


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_default_timeout_of_sockets_is_not_the_workers(make_pool, method):
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.2)
    try:
        pool = make_pool(1, context=billiard.get_context(method))
        pid = pool.apply(t.pid)
        time.sleep(0.5)  # what is tested is that nothing happens meanwhile
        assert pool.apply(t.pid) == pid
        assert pool.did_start_ok()
    finally:
        socket.setdefaulttimeout(before)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EMFILE])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pidfds_that_are_refused_are_done_without(make_pool, monkeypatch, lasting_helpers, method, code):
    """Python knows them, but not this kernel (before 5.3), this sandbox, or this moment."""

    def refuse(pid, flags=0):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    pool = make_pool(2, context=billiard.get_context(method))
    with pytest.raises(WorkerLostError) as caught:
        pool.apply_async(os._exit, (3,)).get(WITHIN_S)
    assert caught.value.exitcode == 3
    assert [pool.apply_async(t.add, (i, 1)).get(WITHIN_S) for i in range(10)] == list(range(1, 11))


class RaisingHandler(logging.Handler):
    def emit(self, record):
        raise ConnectionError("the log server is gone")


def test_a_log_handler_that_raises_ends_no_thread(make_pool, capsys):
    log = logging.getLogger("multiprocessing")
    handler = RaisingHandler()
    log.addHandler(handler)
    try:
        pool, told = make_pool(1), []
        pool.apply_async(t.add, (1, 2), callback=lambda value: 1 / 0).get(WITHIN_S)
        pool.apply_async(t.add, (1, 2), callback=told.append).get(WITHIN_S)
        wait_until(lambda: told)
        kill(pool._engine.processes.launcher._pids[-1])  # that is logged too, in the midst of a turn
        wait_until(lambda: _answers(pool))
        pool.apply_async(t.add, (3, 4), callback=told.append).get(WITHIN_S)
        pool.close()
        pool.join()
        assert told == [3, 7]
    finally:
        log.removeHandler(handler)
    assert "the log server is gone" in capsys.readouterr().err


def test_a_clock_that_stands_still_holds_no_callback_up(make_pool, monkeypatch):
    """As a test's frozen time does it."""
    pool, told = make_pool(1), []
    assert pool.apply(t.add, (1, 2)) == 3
    now = time.monotonic()
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert pool.apply_async(t.add, (1, 2)).get() == 3
    called = threading.Event()
    pool.apply_async(t.add, (1, 2), callback=lambda value: (told.append(value), called.set()))
    assert called.wait(WITHIN_S)
    monkeypatch.setattr(time, "monotonic", real)
    assert told == [3]


def test_signals_wait_while_the_template_is_forked(make_pool, monkeypatch):
    """A handler that raises in the midst of a fork would leave locks taken that others' hooks hold meanwhile."""
    masks, fork = [], os.fork

    def noting():
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return fork()

    monkeypatch.setattr(template.os, "fork", noting)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    pool = make_pool(1)
    assert signal.SIGALRM in masks[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert signal.SIGALRM not in pool.apply(_mask)


def _mask():
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_pool_that_an_executor_s_thread_makes(make_pool):
    """At exit an executor joins its threads, in a worker too: there the one that has made the pool is the worker."""
    ends = []

    def made_there():
        pool = make_pool(1, maxtasksperchild=2, on_process_down=lambda pid, status: ends.append(status))
        assert pool.map(t.square, range(4), 1) == [0, 1, 4, 9]
        pool.close()
        pool.join()

    with ThreadPoolExecutor(1) as executor:
        executor.submit(made_there).result(WITHIN_S)
    assert ends
    assert set(ends) <= {EX_RECYCLE, EX_OK}


def test_no_template_is_forked_while_cloudpickle_is_imported(make_pool):
    """It would wait for that import, of which its copy never ends."""
    made = []
    with pickling.import_lock:
        maker = threading.Thread(target=lambda: made.append(make_pool(1)))
        maker.start()
        maker.join(0.2)
        assert not made
    maker.join(WITHIN_S)
    assert made[0].apply(t.add, (1, 2)) == 3


def test_a_lock_of_cloudpickles_that_was_taken_at_the_fork(make_pool):
    tracker = pytest.importorskip("cloudpickle.cloudpickle")._DYNAMIC_CLASS_TRACKER_LOCK

    class Local:
        value = 5

    with tracker:  # by another thread, which dumps a class at that moment
        pool = make_pool(1)
    assert pool.apply_async(t.echo, (Local(),)).get(WITHIN_S).value == 5


def _named_twice(text):
    def function():
        return text

    function.__module__, function.__qualname__ = "__main__", "billiard_test_named_twice"
    return function


def test_what_main_names_anew_is_sent_as_what_it_was(make_pool, monkeypatch):
    main = __import__("__main__")
    old, new = _named_twice("old"), _named_twice("new")
    monkeypatch.setattr(main, "billiard_test_named_twice", old, raising=False)
    early, late = make_pool(1), make_pool(1)
    assert early.apply(old) == "old"  # it has a number from now on
    monkeypatch.setattr(main, "billiard_test_named_twice", new)
    for pool in (early, late):
        assert [pool.apply(old), pool.apply(lambda: old()), pool.apply(new)] == ["old", "old", "new"]
        assert pool.starmap(old, [(), ()], 1) == ["old", "old"]
        stuck, queued = pool.apply_async(t.nap, (60,)), pool.apply_async(old)
        wait_until(stuck.worker_pids)
        kill(pool._engine.processes.launcher._pids[-1])
        assert queued.get(WITHIN_S) == "old", "by its number, which the workers before knew by that name"
        wait_until(lambda pool=pool: _answers(pool))
        # these workers have today's names
        assert [pool.apply(old), pool.apply(new)] == ["old", "new"]


def test_a_thousandth_of_a_result_does_not_keep_all_of_it(pool):
    numpy = pytest.importorskip("numpy")
    small, big = pool.apply(_small_and_big)
    assert small.nbytes < big.nbytes // 100
    owner = small
    while isinstance(owner, numpy.ndarray):
        owner = owner.base
    assert memoryview(owner).nbytes == small.nbytes


def _small_and_big():
    import numpy

    return numpy.arange(5_000.0), numpy.zeros(1_000_000)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_another_signal_takes_sigterms_part(script, tmp_path, method):
    """As REMAP_SIGTERM promises those whose platform sends SIGTERM to every process of a program."""
    process = script(f"""
        import os, signal, subprocess, sys, time
        os.environ["REMAP_SIGTERM"] = "SIGQUIT"
        import billiard
        from billiard.exceptions import Terminated, WorkerLostError

        def quiet():
            signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # as Celery's initializer does

        def survive():
            os.kill(os.getpid(), signal.SIGTERM)
            return "survived"

        def last(path):
            try:
                open(path, "w").close()
                signal.pause()
            finally:
                os.unlink(path)

        def dispositions():
            ask = "import signal; print(*(signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGQUIT)))"
            return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout.strip()

        def wait_for(path):
            while not os.path.exists(path):
                time.sleep(0.01)

        if __name__ == "__main__":
            with billiard.get_context({method!r}).Pool(1, initializer=quiet) as pool:
                pid = pool.apply(os.getpid)
                print(pool.apply(survive), pool.apply(dispositions))
                assert pool.apply(os.getpid) == pid
                for end in (lambda: pool.terminate_job(pool._pool[0].pid), lambda: handle.terminate()):
                    handle = pool.apply_async(last, ("begun",))
                    wait_for("begun")
                    end()
                    try: handle.get()
                    except Terminated as error: print(error.signal_name, os.path.exists("begun"))
                handle = pool.apply_async(last, ("begun",))
                wait_for("begun")
                pool.terminate()
                try: handle.get()
                except WorkerLostError as error: print(error.signal_name, os.path.exists("begun"))
    """, cwd=tmp_path)  # fmt: skip
    output = process.communicate(timeout=WITHIN_S)[0]
    assert output == "survived True True\nSIGQUIT False\nSIGQUIT False\nSIGQUIT False\n"
