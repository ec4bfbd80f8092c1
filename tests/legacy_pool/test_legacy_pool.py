"""The legacy pool at work: jobs, limits, deaths, recycling, shutdown, under an outer loop."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import time
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.util import register_after_fork
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock
from weakref import WeakSet, ref

import legacy_tasks as tasks
import pytest

import billiard
import billiard.pool
from billiard import common
from billiard._celery import gc_freeze
from billiard.exceptions import (
    RestartFreqExceeded,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from billiard.pool import MaybeEncodingError
from billiard.queues import _SimpleQueue
from pool_helpers import wait_until

PROMPT_S = 2.0  # far above what it takes, far below the seconds of a missed event


@pytest.fixture
def errors(caplog):
    caplog.set_level(logging.WARNING, logger="multiprocessing")
    logger = logging.getLogger("multiprocessing")
    propagate, logger.propagate = logger.propagate, True
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.propagate = propagate


@contextmanager
def within(limit_s):
    """A deadline for a main thread that waits in a system call."""

    def fail(signum, frame):
        raise AssertionError(f"not done after {limit_s} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pids(pool):
    return {process.pid for process in pool._pool}


class TestJobs:
    def test_a_value(self, make_pool):
        pool = make_pool()
        assert pool.run(tasks.double, 21) == 42
        assert pool._cache == {}

    def test_many(self, make_pool):
        pool = make_pool()
        results = [pool.apply_async(tasks.double, (i,)) for i in range(200)]
        pool.run_until(lambda: all(result.ready() for result in results))
        assert [result.get() for result in results] == [2 * i for i in range(200)]

    def test_an_error_and_its_callback(self, make_pool):
        pool = make_pool()
        seen = []
        with pytest.raises(ValueError, match="no luck"):
            pool.run(tasks.fail, "no luck", error_callback=seen.append)
        (einfo,) = seen
        assert type(einfo.exception) is ValueError  # bare: it has crossed the pipe
        assert "in fail" in einfo.traceback

    def test_ten_megabytes_both_ways(self, make_pool):
        pool = make_pool(1)
        blob = os.urandom(5 << 20)
        assert pool.run(tasks.double, blob) == blob + blob

    def test_a_sentinel_for_each_worker(self, make_pool):
        pool = make_pool(2)
        sentinels = pool.process_sentinels
        assert len(sentinels) == 2
        assert wait(sentinels, 0) == []
        os.kill(pool._pool[1].pid, signal.SIGKILL)
        assert wait(sentinels, 10) == sentinels[1:]

    def test_something_uncallable_is_refused_at_once(self, make_pool):
        pool = make_pool()
        with pytest.raises(TypeError, match="callable"):
            pool.apply_async(5)
        assert pool._cache == {}

    def test_an_argument_that_does_not_pickle_is_refused_at_once(self, make_pool):
        pool = make_pool()
        with pytest.raises(Exception, match="lambda"):
            pool.apply_async(tasks.take, (lambda: None,))
        assert pool._cache == {}

    def test_an_argument_that_cannot_be_rebuilt_fails_its_job(self, make_pool):
        pool = make_pool(1)
        before = pids(pool)
        with pytest.raises(RuntimeError, match="boom at load"):
            pool.run(tasks.take, tasks.Explosive())
        assert pool.run(os.getpid) in before

    def test_a_result_that_does_not_pickle_fails_its_job(self, make_pool):
        pool = make_pool(1)
        before = pids(pool)
        with pytest.raises(MaybeEncodingError, match="lambda"):
            pool.run(tasks.a_lambda)
        assert pool.run(os.getpid) in before

    @pytest.mark.parametrize("task", [tasks.return_explosive, tasks.raise_two_arguments])
    def test_a_result_that_cannot_be_rebuilt_fails_its_job(self, make_pool, task):
        pool = make_pool(1)
        before = pids(pool)
        with pytest.raises(MaybeEncodingError, match="cannot be rebuilt"):
            pool.run(task)
        assert pool.run(os.getpid) in before

    def test_a_task_that_exits_is_an_error_and_takes_its_worker(self, make_pool):
        pool = make_pool(1)
        with pytest.raises(SystemExit):
            pool.run(os.sys.exit, 3)
        assert pool.run(tasks.double, 1) == 2
        assert pool.statuses == [3]

    def test_a_pool_that_is_closing_takes_no_job(self, make_pool):
        pool = make_pool(1)
        pool.close()
        assert pool.apply_async(tasks.double, (1,)) is None

    def test_map_and_imap(self, make_pool):
        pool = make_pool()
        result = pool.map_async(tasks.double, range(10), chunksize=3)
        ordered, unordered = pool.imap(tasks.double, range(5)), pool.imap_unordered(tasks.double, range(5))
        pool.run_until(result.ready)
        assert result.get() == [2 * i for i in range(10)]
        seen = []
        for iterator in (ordered, unordered):
            for _ in range(5):
                pool.run_until(lambda iterator=iterator: iterator._items)
                seen.append(next(iterator))
            with pytest.raises(StopIteration):
                next(iterator)
        assert seen[:5] == [0, 2, 4, 6, 8]
        assert sorted(seen[5:]) == seen[:5]

    def test_imap_takes_no_more_of_an_endless_input_than_it_needs(self, make_pool):
        pool = make_pool()
        taken = []
        iterator = pool.imap(tasks.double, (taken.append(i) or i for i in iter(int, 1)))
        pool.run_until(lambda: iterator._items)
        next(iterator)
        assert len(taken) <= 5

    def test_callbacks_may_submit(self, make_pool):
        pool = make_pool(1)
        second = []
        pool.run(tasks.double, 1, callback=lambda value: second.append(pool.apply_async(tasks.double, (value,))))
        pool.run_until(second[0].ready)
        assert second[0].get() == 4


class TestLimits:
    def test_soft_is_caught_in_the_task(self, make_pool):
        pool = make_pool(1)
        before = pids(pool)
        assert pool.run(tasks.catch_soft, 20, soft_timeout=0.2) == "caught"
        assert pids(pool) == before

    def test_soft_is_told_once(self, make_pool):
        """By the event loop's timer, and not again by the scan at shutdown."""
        pool = make_pool(1)
        seen = []
        result = pool.apply_async(
            tasks.catch_soft_and_nap, (0.3,), soft_timeout=0.1, timeout_callback=lambda **kwargs: seen.append(kwargs)
        )
        pool.run_until(lambda: seen)
        pool.check_timeouts()
        pool.run_until(result.ready)
        assert seen == [{"soft": True, "timeout": 0.1}]

    def test_hard_ends_the_worker(self, make_pool):
        pool = make_pool(1)
        seen = []
        start = time.monotonic()
        with pytest.raises(TimeLimitExceeded):
            pool.run(tasks.nap, 20, timeout=0.2, timeout_callback=lambda **kwargs: seen.append(kwargs))
        assert seen == [{"soft": False, "timeout": 0.2}]
        assert pool.run(tasks.double, 1) == 2
        assert time.monotonic() - start < 0.2 + PROMPT_S
        assert pool.statuses == [-signal.SIGTERM]

    def test_hard_ends_a_worker_deaf_to_term(self, make_pool):
        pool = make_pool(1)
        with pytest.raises(TimeLimitExceeded):
            pool.run(tasks.deaf_nap, 20, timeout=0.2)
        assert pool.run(tasks.double, 1) == 2
        assert pool.statuses == [-signal.SIGKILL]

    def test_hard_spares_a_job_that_has_ended(self, make_pool):
        """As in an event loop that is late, and comes to its timers before it comes to what its workers sent."""
        gate = os.pipe()
        pool = make_pool(2)
        result = pool.apply_async(os.read, (gate[0], 1), timeout=20)
        pid = pool.run_until_started(result)
        os.write(gate[1], b"x")
        (worker,) = (process for process in pool._pool if process.pid == pid)
        assert worker.outq._reader.poll(10)
        pool._timeout_handler.on_hard_timeout(result)
        pool.run_until(result.ready)
        assert result.get() == b"x"
        assert pid in pids(pool)
        for fd in gate:
            os.close(fd)

    def test_a_limit_given_with_the_job_holds_without_any_on_the_pool(self, make_pool):
        pool = make_pool(1, enable_timeouts=False)
        assert pool.run(tasks.catch_soft, 20, soft_timeout=0.1, timeout=10) == "caught"

    def test_the_soft_signal_outside_a_task_is_nothing(self, make_pool):
        pool = make_pool(1)
        pid = pool.run(os.getpid)
        for _ in range(50):
            os.kill(pid, billiard.pool.SIG_SOFT_TIMEOUT)
            assert pool.run(os.getpid) == pid

    def test_the_soft_limit_gets_out_of_a_del(self, make_pool):
        pool = make_pool(1)
        start = time.monotonic()
        with pytest.raises(SoftTimeLimitExceeded):
            pool.run(tasks.nap_after_swallowing, None, soft_timeout=0.2)
        assert time.monotonic() - start < 0.2 + PROMPT_S
        assert pool.run(tasks.double, 1) == 2

    def test_the_soft_signal_for_another_job_is_nothing(self, make_pool):
        pool = make_pool(1)
        first = pool.apply_async(tasks.double, (1,))
        pool.run_until(first.ready)
        second = pool.apply_async(tasks.nap, (0.5,))
        pool.run_until_started(second)
        pool._timeout_handler.on_soft_timeout(first)  # as a parent would whose news are late
        pool.run_until(second.ready)
        assert second.get() == "rested"

    def test_the_soft_signal_sent_by_hand_means_the_running_task(self, make_pool):
        pool = make_pool(1)
        result = pool.apply_async(tasks.nap, (20,))
        pid = pool.run_until_started(result)
        pool.terminate_job(pid, billiard.pool.SIG_SOFT_TIMEOUT)
        pool.run_until(result.ready)
        with pytest.raises(SoftTimeLimitExceeded):
            result.get()
        assert pids(pool) == {pid}


class TestDeaths:
    @pytest.mark.parametrize(("signum", "told"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
    def test_the_running_job_is_lost_and_the_worker_replaced(self, make_pool, errors, signum, told):
        pool = make_pool(1)
        pool.run(os.getpid)
        start = time.monotonic()
        with pytest.raises(WorkerLostError, match=rf"signal {int(signum)} \({told}\) Job: \d+"):
            pool.run(os.kill, pool._pool[0].pid, signum)
        assert pool.run(tasks.double, 1) == 2
        assert time.monotonic() - start < PROMPT_S
        assert [told in text for text in errors()] == [True]

    def test_leaving_with_0_in_mid_task_is_a_loss(self, make_pool):
        pool = make_pool(1)
        with pytest.raises(WorkerLostError, match="exitcode 0"):
            pool.run(os._exit, 0)

    def test_what_callbacks_get_wraps_the_error(self, make_pool):
        """Celery tells parent-made errors by this."""
        pool = make_pool(1)
        seen = []
        with pytest.raises(WorkerLostError):
            pool.run(os._exit, 1, error_callback=seen.append)
        assert isinstance(seen[0].exception.exc, WorkerLostError)

    def test_an_idle_worker_costs_no_job(self, make_pool):
        pool = make_pool(2)
        pool.run_until(lambda: len(pool.up) == 2)
        for pid in pids(pool):
            os.kill(pid, signal.SIGKILL)
        results = [pool.apply_async(tasks.double, (i,)) for i in range(10)]
        pool.run_until(lambda: all(result.ready() for result in results))
        assert [result.get() for result in results] == [2 * i for i in range(10)]
        assert len(pool._pool) == 2

    def test_a_result_sent_before_the_death_is_kept(self, make_pool):
        pool = make_pool(1)
        result = pool.apply_async(tasks.double, (1,))
        pid = pool.run_until_started(result)
        reader = pool._pool[0].outq._reader
        assert result.ready() or reader.poll(10)
        (worker,) = pool._pool
        os.kill(pid, signal.SIGKILL)
        assert wait([worker._popen.sentinel], 10)
        pool.maintain_pool()  # and not a turn, which reads by itself
        assert worker not in pool._pool
        assert result.get(0) == 2

    def test_a_surviving_grandchild_hides_nothing(self, make_pool, tmp_path):
        """It holds every pipe of the dead worker, and thus the sentinel of the start method."""
        pool = make_pool(1)
        pool.run(os.getpid)
        path = tmp_path / "grandchild"
        (worker,) = pool._pool
        result = pool.apply_async(tasks.leave_a_child_and_die, (str(path),))
        pool.run_until_started(result)
        try:
            assert wait([worker._popen.sentinel], 10)
            pool.maintain_pool()
            with pytest.raises(WorkerLostError):
                result.get(0)
        finally:
            os.kill(int(path.read_text()), signal.SIGKILL)

    def test_a_message_that_kills_its_readers_fails_after_three(self, make_pool):
        pool = make_pool(1)
        result = pool.apply_async(tasks.take, (tasks.Murderous(os.getpid()),))
        pool.run_until(result.ready)
        with pytest.raises(WorkerLostError):
            result.get()
        assert pool.statuses == [-signal.SIGKILL] * 3
        assert pool.run(tasks.double, 1) == 2

    def test_a_worker_that_left_of_its_own_accord_proves_nothing(self, make_pool):
        pool = make_pool(0)
        job = billiard.pool.ApplyResult({}, None)
        for exitcode in (155, 0, 155, -9, 155, -9):
            worker = mock.Mock(exitcode=exitcode, _controlled_termination=False, **{"_is_alive.return_value": False})
            for _again in range(2):  # settled at each maintenance, until the job is written anew
                pool._settle_unstarted(job, worker, written=True)
        assert not job.ready()
        pool._settle_unstarted(job, mock.Mock(exitcode=-9, _controlled_termination=False, pid=1), written=True)
        assert job.ready()

    def test_slots_come_back(self, make_pool):
        pool = make_pool(2, putlocks=True)
        assert pool._putlock._value == 2
        lost, done = pool.apply_async(os._exit, (1,)), pool.apply_async(tasks.double, (1,))
        assert pool._putlock._value == 0
        pool.run_until(lambda: lost.ready() and done.ready())
        pool.run_until(lambda: len(pool._pool) == 2)
        assert pool._putlock._value == 2
        with pytest.raises(Exception, match="lambda"):
            pool.apply_async(tasks.take, (lambda: None,))
        assert pool._putlock._value == 2

    def test_a_slot_comes_back_though_no_replacement_can_be_started(self, make_pool, monkeypatch):
        pool = make_pool(1, putlocks=True)
        lost = pool.apply_async(os._exit, (1,))
        (worker,) = pool._pool
        pool.run_until(lambda: pool.up)
        pool.write_jobs()
        assert wait([worker._popen.sentinel], 10)
        with monkeypatch.context() as patch, pytest.raises(BlockingIOError):
            patch.setattr(type(worker), "start", lambda self: (_ for _ in ()).throw(BlockingIOError(11, "no")))
            pool.maintain_pool()
        assert lost.ready()
        pool.run_until(lambda: len(pool._pool) == 1)
        assert pool._putlock._value == 1

    def test_a_slot_s_next_user_that_fails_costs_no_result(self, make_pool):
        """Celery's semaphore starts the next job in its `release`, and that may raise: its result backend is down."""

        class Semaphore:
            def release(self):
                raise ConnectionError("of the next job")

        pool = make_pool(1, semaphore=Semaphore())
        result = pool.apply_async(tasks.double, (1,))
        with pytest.raises(ConnectionError):
            pool.run_until(result.ready)
        assert result.get(0) == 2

    def test_an_exception_in_the_midst_of_reaping_leaves_no_job_behind(self, make_pool, loop_pool_class):
        class Interrupted(loop_pool_class):
            strikes = 0

            def on_job_process_down(self, job, pid_gone):
                if self.strikes:
                    self.strikes -= 1
                    raise KeyboardInterrupt  # of a signal's handler, or what a callback lets out
                super().on_job_process_down(job, pid_gone)

        pool = make_pool(2, Interrupted)
        results = [pool.apply_async(tasks.nap, (20,)) for _ in range(2)]
        for result in results:
            pool.run_until_started(result)
        pool.strikes = 1
        workers = pool._pool[:]
        pool.terminate_job(results[0].worker_pids()[0])
        os.kill(results[1].worker_pids()[0], signal.SIGKILL)
        for worker in workers:
            assert wait([worker._popen.sentinel], 10)
        with pytest.raises(KeyboardInterrupt):
            pool._join_exited_workers(shutdown=True)
        assert pool._pool == []
        pool._join_exited_workers(shutdown=True)
        with pytest.raises(Terminated, match="15"):
            results[0].get(0)
        with pytest.raises(WorkerLostError, match="SIGKILL"):
            results[1].get(0)
        with pytest.raises(billiard.pool.WorkersJoined):
            pool._join_exited_workers(shutdown=True)

    def test_a_fork_in_the_midst_of_the_parent_s_end_is_a_worker_like_any_other(self, make_pool, monkeypatch):
        monkeypatch.setattr(common, "_should_have_exited", [True])
        pool = make_pool(1)
        with pytest.raises(ValueError, match="told"):
            pool.run(tasks.fail, "told")

    @pytest.mark.parametrize(("how", "status"), [(None, 0), (SystemExit(3), 3), (ValueError("told"), 1)])
    def test_a_child_that_a_task_forks_is_not_the_worker(self, make_pool, how, status):
        pool = make_pool(1)
        assert pool.run(tasks.fork_and_come_back, how) == status
        (worker,) = pool._pool
        assert [pool.run(os.getpid) for _ in range(3)] == [worker.pid] * 3
        assert pids(pool) == {worker.pid}

    def test_a_terminated_job_says_so(self, make_pool, errors):
        pool = make_pool(1)
        (worker,) = pool._pool
        result = pool.apply_async(tasks.nap, (20,))
        pool.terminate_job(pool.run_until_started(result))
        pool.run_until(result.ready)
        with pytest.raises(Terminated, match="15"):
            result.get()
        assert worker._job_terminated
        assert errors() == []

    def test_a_job_after_one_that_outlived_its_termination_is_lost_like_any_other(self, make_pool):
        pool = make_pool(1)
        survivor = pool.apply_async(tasks.nap, (0.2,))
        pid = pool.run_until_started(survivor)
        pool.terminate_job(pid, signal.SIGINT)  # which workers ignore
        pool.run_until(survivor.ready)
        other = pool.apply_async(tasks.nap, (20,))
        assert pool.run_until_started(other) == pid
        os.kill(pid, signal.SIGKILL)
        pool.run_until(other.ready)
        with pytest.raises(WorkerLostError, match="SIGKILL"):
            other.get()

    def test_term_is_always_told_as_such(self, make_pool):
        pool = make_pool(2)
        for _ in range(10):
            result = pool.apply_async(tasks.signal_self, (signal.SIGTERM,))
            pool.run_until(result.ready)
            with pytest.raises(WorkerLostError, match="SIGTERM"):
                result.get()
        assert pool.statuses == [-signal.SIGTERM] * 10

    def test_term_at_any_moment_of_a_worker_s_life(self, make_pool):
        """Most of these meet it between its start and its first job, or on its way out."""
        pool = make_pool(2)
        for step in range(60):
            process = pool.run_until(lambda: pool._pool and pool._pool[0])
            time.sleep(step % 20 * 0.0005)  # not to wait for anything: to strike at another moment each time
            process.terminate_controlled()
            pool.run_until(lambda process=process: process not in pool._pool)
        assert set(pool.statuses) == {-signal.SIGTERM}

    def test_term_before_a_worker_is_itself(self, make_pool):
        """A fork has at first the handlers of its parent, which say nothing of a worker's end."""
        begun, gate = os.pipe(), os.pipe()
        parent = os.getpid()

        class Held:
            def hold(self):
                if os.getpid() != parent:
                    os.write(begun[1], b"x")
                    os.read(gate[0], 1)

        held = Held()
        before = signal.signal(signal.SIGTERM, lambda signum, frame: None)
        register_after_fork(held, Held.hold)
        try:
            pool = make_pool(1)
            (worker,) = pool._pool
            os.read(begun[0], 1)
            worker.terminate_controlled()
            del held
            gc.collect()
            os.write(gate[1], b"x")
            assert wait([worker._popen.sentinel], 10)
            assert worker.exitcode == -signal.SIGTERM
        finally:
            signal.signal(signal.SIGTERM, before)
            for fd in (*begun, *gate):
                os.close(fd)

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT])
    def test_term_gets_out_of_a_del(self, make_pool, signum):
        pool = make_pool(1)
        start = time.monotonic()
        with pytest.raises(WorkerLostError, match=signum.name):
            pool.run(tasks.nap_after_swallowing, signum)
        assert time.monotonic() - start < PROMPT_S

    def test_terminating_nobody(self, make_pool):
        assert make_pool(1).terminate_job(1) is None

    def test_a_start_that_fails_leaves_no_trace(self, make_pool, monkeypatch):
        pool = make_pool(1)
        pool.run(os.getpid)
        monkeypatch.setattr(type(pool._pool[0]), "start", lambda self: (_ for _ in ()).throw(BlockingIOError(11, "no")))
        pool.grow(1)
        with pytest.raises(BlockingIOError):
            pool.maintain_pool()
        assert len(pool._pool) == 1
        monkeypatch.undo()
        pool.run_until(lambda: len(pool.up) == 2)

    def test_workers_that_never_start_end_the_pool(self, make_pool, errors):
        pool = make_pool(1, initializer=tasks.broken_initializer, max_restarts=2, max_restart_freq=60)
        with pytest.raises(RestartFreqExceeded):
            pool.run_until(lambda: False)
        assert pool._state == billiard.pool.CLOSE

    def test_replacing_the_stillborn_is_not_a_race(self, make_pool, errors):
        pool = make_pool(1, initializer=tasks.broken_initializer)
        start = time.monotonic()
        pool.run_until(lambda: len(pool.statuses) == 2)
        assert time.monotonic() - start > 1.0
        assert pool.statuses == [1, 1]


class TestRecycling:
    def test_forty_workers_leave_with_the_right_status(self, make_pool, errors):
        pool = make_pool(2, maxtasksperchild=1, max_restarts=1)
        results = [pool.apply_async(os.getpid) for _ in range(40)]
        pool.run_until(lambda: all(result.ready() for result in results), 60)
        pool.run_until(lambda: len(pool.statuses) == 40)
        assert len({result.get() for result in results}) == 40
        assert set(pool.statuses) == {billiard.pool.EX_RECYCLE}
        assert errors() == []

    def test_by_memory(self, make_pool):
        pool = make_pool(1, max_memory_per_child=1)
        first = pool.run(os.getpid)
        assert pool.run(os.getpid) != first
        assert set(pool.statuses) == {billiard.pool.EX_RECYCLE}

    def test_a_large_last_result_arrives(self, make_pool):
        pool = make_pool(1, maxtasksperchild=1)
        for _ in range(3):
            assert len(pool.run(tasks.double, bytes(1 << 20))) == 2 << 20

    def test_restart(self, make_pool):
        pool = make_pool(1, allow_restart=True)
        first = pool.run(os.getpid)
        pool.restart()
        # A worker that waits for a job already does one more.
        assert [pool.run(os.getpid) == first, pool.run(os.getpid) == first][-1] is False
        with pytest.raises(ValueError, match="allow_restart"):
            make_pool(1).restart()


class Gate:
    """Keeps workers on their way out until it is opened."""

    def __init__(self):
        self.reader, self.writer = os.pipe()

    def hold(self, pid, exitcode):
        os.read(self.reader, 1)

    def open(self, workers=1):
        os.write(self.writer, bytes(workers))


@pytest.fixture
def gate(make_pool):  # make_pool: its clean-up must come after ours
    gate = Gate()
    yield gate
    gate.open(100)
    os.close(gate.reader)
    os.close(gate.writer)


class TestLeaving:
    def test_the_successor_does_not_wait_for_the_end(self, make_pool, gate):
        pool = make_pool(1, maxtasksperchild=1, on_process_exit=gate.hold)
        assert pool.run(os.getpid) != pool.run(os.getpid)
        assert pool.statuses == []
        assert [process.index for process in pool._pool] == [0, 0]

    def test_nor_for_that_of_one_that_needs_too_much_memory(self, make_pool, monkeypatch):
        """Of this one the parent knows only when it says so: it says it, and dawdles."""
        released = os.pipe()
        leave = os._exit
        monkeypatch.setattr(os, "_exit", lambda status: (os.read(released[0], 1), leave(status)))
        pool = make_pool(1, max_memory_per_child=1)
        first = pool.run(os.getpid)
        pool.run_until(lambda: pids(pool) - {first})
        assert first in pids(pool)
        os.write(released[1], bytes(10))
        pool.terminate()
        for fd in released:
            os.close(fd)

    def test_no_more_leave_than_there_should_be(self, make_pool, gate):
        pool = make_pool(1, maxtasksperchild=1, on_process_exit=gate.hold)
        pool.run(os.getpid), pool.run(os.getpid)
        third = pool.apply_async(os.getpid)
        for _ in range(5):
            pool.turn(0.01)
        assert len(pool._pool) == 2
        assert not third.ready()
        gate.open()
        pool.run_until(third.ready)
        assert pool.statuses == [billiard.pool.EX_RECYCLE]

    def test_both_of_two(self, make_pool, gate):
        pool = make_pool(2, maxtasksperchild=1, on_process_exit=gate.hold)
        results = [pool.apply_async(os.getpid) for _ in range(4)]
        pool.run_until(lambda: all(result.ready() for result in results))
        assert len({result.get() for result in results}) == 4
        assert len(pool._pool) == 4
        assert {process.index for process in pool._pool} == {0, 1}
        gate.open(4)
        pool.run_until(lambda: len(pool.statuses) == 4)
        pool.run_until(lambda: len(pool.up) == 6)
        assert sorted(process.index for process in pool._pool) == [0, 1]

    def test_one_that_is_killed_meanwhile_is_replaced_once(self, make_pool, gate, errors):
        pool = make_pool(1, maxtasksperchild=1, on_process_exit=gate.hold)
        first = pool.run(os.getpid)
        pool.run_until(lambda: len(pool.up) == 2)
        os.kill(first, signal.SIGKILL)
        pool.run_until(lambda: pool.statuses == [-signal.SIGKILL])
        pool.maintain_pool()
        assert len(pool._pool) == 1
        assert ["SIGKILL" in text for text in errors()] == [True]

    def test_it_is_not_the_one_that_a_smaller_pool_does_without(self, make_pool, gate):
        pool = make_pool(2, maxtasksperchild=1, on_process_exit=gate.hold)
        first = pool.run(os.getpid)
        pool.run_until(lambda: len(pool.up) == 3)
        pool.shrink(1)
        gate.open(2)
        pool.run_until(lambda: len(pool.statuses) == 2)
        assert sorted(pool.statuses) == [-signal.SIGTERM, billiard.pool.EX_RECYCLE]
        pool.maintain_pool()
        assert len(pool._pool) == 1
        assert pool.run(os.getpid) != first

    def test_a_successor_that_cannot_be_started_comes_later(self, make_pool, monkeypatch):
        pool = make_pool(1, maxtasksperchild=1)
        pool.run_until(lambda: pool.up)
        process_class = type(pool._pool[0])
        start, failures = process_class.start, []

        def fail_once(process):
            if not failures:
                failures.append(process)
                raise BlockingIOError(11, "no more processes")
            start(process)

        monkeypatch.setattr(process_class, "start", fail_once)
        assert pool.run(os.getpid) != pool.run(os.getpid)
        assert len(failures) == 1

    def test_a_closing_pool_starts_nobody(self, make_pool):
        pool = make_pool(1, maxtasksperchild=1)
        result = pool.apply_async(tasks.nap, (0.2,))
        pool.run_until_started(result)
        pool.close()
        pool.join()
        assert result.get(0) == "rested"
        assert len(pool.up) == 1


class TestEndOfAPipe:
    """What a dead worker sent is followed by a None, so that nobody waits for more."""

    @pytest.fixture
    def pipe(self):
        pipe = _SimpleQueue(rnonblock=True)
        yield pipe
        pipe.close()

    def mark(self, make_pool, pipe, exitcode):
        make_pool(0)._mark_end(SimpleNamespace(outq=pipe, exitcode=exitcode))

    @pytest.mark.parametrize("exitcode", [0, billiard.pool.EX_RECYCLE, 1, -signal.SIGKILL])
    def test_an_empty_one(self, make_pool, pipe, exitcode):
        self.mark(make_pool, pipe, exitcode)
        assert pipe.get() is None

    def test_behind_messages_of_one_that_left_in_good_order(self, make_pool, pipe):
        pipe.put("message")
        self.mark(make_pool, pipe, billiard.pool.EX_RECYCLE)
        assert [pipe.get(), pipe.get()] == ["message", None]

    @pytest.mark.parametrize("exitcode", [1, -signal.SIGKILL])
    def test_not_behind_what_may_be_half_a_message(self, make_pool, pipe, exitcode):
        os.write(pipe._writer.fileno(), b"\0\0\1")
        self.mark(make_pool, pipe, exitcode)
        assert os.read(pipe._reader.fileno(), 100) == b"\0\0\1"

    def test_not_into_a_full_one(self, make_pool, pipe):
        os.set_blocking(pipe._writer.fileno(), False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(pipe._writer.fileno(), bytes(1 << 16))
        os.set_blocking(pipe._writer.fileno(), True)
        self.mark(make_pool, pipe, billiard.pool.EX_RECYCLE)  # would wait for ever

    def test_not_into_a_closed_one(self, make_pool):
        pipe = _SimpleQueue(rnonblock=True)
        pipe.close()
        self.mark(make_pool, pipe, 0)

    def test_it_comes_before_the_flush_and_before_the_last_word(self, make_pool, loop_pool_class):
        class Patient(loop_pool_class):
            flushed: ClassVar[list[Any]] = []

            def process_flush_queues(self, process):
                while (message := process.outq.get()) is not None:  # BlockingIOError where it would have to wait
                    self._result_handler.on_state_change(message)
                self.flushed.append(process.pid)

            def _process_cleanup_queues(self, process):
                return None

        pool = make_pool(1, Patient, maxtasksperchild=1)
        pool.on_process_down = pool.process_flush_queues
        first = pool.run(os.getpid)
        pool.run_until(lambda: pool.flushed)
        assert pool.flushed == [first, first]


class TestCollector:
    """Everything that is there when a pool forks is passed over by the collector until the pool is done."""

    @pytest.fixture(autouse=True)
    def nothing_set_aside_yet(self, monkeypatch):
        monkeypatch.setattr(gc_freeze, "_pools", WeakSet())
        gc.unfreeze()
        yield
        gc.unfreeze()

    @pytest.mark.parametrize("end", ["terminate", "join"])
    def test_as_long_as_there_is_a_pool(self, make_pool, end):
        pool, other = make_pool(1), make_pool(1)
        for ended, still in ((pool, True), (other, False)):
            assert gc.get_freeze_count() > 1000
            if end == "join":
                ended.close()
            getattr(ended, end)()
            assert bool(gc.get_freeze_count()) is still

    def test_also_what_was_loaded_after_the_pool_was_made(self, make_pool):
        pool = make_pool(1, maxtasksperchild=1)
        loaded = [[] for _ in range(100_000)]
        pool.run(os.getpid)
        assert gc.get_freeze_count() > len(loaded)
        later = [[] for _ in range(100_000)]
        pool.run(os.getpid)
        pool.run(os.getpid)
        assert len(gc.get_objects()) > len(later)  # and nothing that came after: it may have become garbage

    def test_garbage_is_found_afterwards(self, make_pool):
        class Node:
            pass

        node = Node()
        node.itself = node
        pool = make_pool(1)
        node = ref(node)
        gc.collect()
        assert node() is not None
        pool.terminate()
        gc.collect()
        assert node() is None

    def test_what_the_program_has_set_aside_stays_so(self, make_pool):
        gc.freeze()
        count = gc.get_freeze_count()
        pool = make_pool(1)
        assert gc.get_freeze_count() <= count
        pool.terminate()
        assert gc.get_freeze_count() > 0


class TestSize:
    def test_from_nothing(self, make_pool):
        pool = make_pool(0)
        pool.grow(1)
        assert pool.run(tasks.double, 1) == 2

    def test_grow_and_shrink(self, make_pool, errors):
        pool = make_pool(1)
        pool.grow(2)
        pool.run_until(lambda: len(pool.up) == 3)
        assert sorted(process.index for process in pool._pool) == [0, 1, 2]
        pool.shrink(2)
        pool.run_until(lambda: len(pool._pool) == 1)
        assert pool.run(tasks.double, 1) == 2
        assert errors() == []

    def test_busy_workers_are_not_shrunk(self, make_pool):
        pool = make_pool(1)
        result = pool.apply_async(tasks.nap, (20,))
        pool.run_until_started(result)
        with pytest.raises(ValueError, match="All processes busy"):
            pool.shrink(1)
        assert pool._processes == 1

    def test_nor_is_one_whose_acceptance_has_not_been_read(self, make_pool, tmp_path):
        pool = make_pool(2)
        pool.run_until(lambda: len(pool.up) == 2)
        begun = tmp_path / "begun"
        result = pool.apply_async(tasks.write_pid_and_nap, (str(begun), 0.2))
        pool.write_jobs()
        wait_until(lambda: begun.exists() and begun.read_text())
        pool.shrink(1)
        pool.run_until(result.ready)
        assert result.get() == "rested"
        assert pids(pool) == {int(begun.read_text())}


class TestEnd:
    def test_warm(self, make_pool):
        pool = make_pool(2)
        result = pool.apply_async(tasks.nap, (0.3,))
        pool.run_until_started(result)
        workers = list(pool._pool)
        start = time.monotonic()
        pool.close()
        pool.join()
        assert time.monotonic() - start < 0.3 + PROMPT_S
        assert result.get(0) == "rested"
        assert [worker.exitcode for worker in workers] == [0, 0]

    def test_nobody_waits_for_results_that_nobody_wants(self, make_pool):
        """The discarded job's large result is on its way when the pool is joined."""
        pool = make_pool(1)
        result = pool.apply_async(tasks.double, (bytes(1 << 20),))
        pool.run_until(result.accepted)
        result.discard()
        start = time.monotonic()
        pool.close()
        pool.join()
        assert time.monotonic() - start < PROMPT_S

    def test_terminate_is_prompt(self, make_pool, errors):
        pool = make_pool(2)
        workers = list(pool._pool)
        result = pool.apply_async(tasks.nap, (20,))
        pool.run_until_started(result)
        start = time.monotonic()
        pool.terminate()
        assert time.monotonic() - start < PROMPT_S
        assert [worker.exitcode for worker in workers] == [-signal.SIGTERM] * 2
        assert errors() == []
        with pytest.raises(WorkerLostError, match="SIGTERM"):
            result.get(0)

    def test_terminate_ends_the_deaf(self, make_pool, monkeypatch):
        monkeypatch.setattr("billiard._celery.pool.TERMINATE_GRACE_S", 0.2)
        pool = make_pool(1)
        result = pool.apply_async(tasks.deaf_nap, (20,))
        pool.run_until_started(result)
        (worker,) = pool._pool
        pool.run_until(lambda: "\t0000000000004000\n" in _blocked(worker.pid))
        pool.terminate()
        assert worker.exitcode == -signal.SIGKILL

    def test_joined_by_a_signal_s_handler_while_a_worker_is_being_started(self, make_pool, loop_pool_class):
        """As Celery does in its handler of SIGQUIT."""

        class Interrupted(loop_pool_class):
            joins = False

            def _process_register_queues(self, worker, queues):
                if self.joins:
                    self.close()
                    self.join()

        pool = make_pool(1, Interrupted)
        pool.run(os.getpid)
        pool.joins = True
        pool.grow(1)
        pool.maintain_pool()
        (told, late) = pool._pool
        late.join(10)
        assert (told.exitcode, late.exitcode) == (0, 0)

    def test_a_full_pipe_of_a_dead_worker_holds_up_nothing(self, make_pool):
        pool = make_pool(1)
        pool.run(os.getpid)
        (worker,) = pool._pool
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(worker.inqW_fd, bytes(1 << 12))
        os.kill(worker.pid, signal.SIGKILL)
        assert wait([worker._popen.sentinel], 10)
        with within(20):
            pool.close()
            pool.join()
        assert worker.exitcode == -signal.SIGKILL

    def test_half_a_job_holds_up_nothing(self, make_pool):
        pool = make_pool(1)
        pool.run(os.getpid)
        (worker,) = pool._pool
        os.kill(worker.pid, signal.SIGSTOP)
        result = pool.apply_async(tasks.take, (bytes(1 << 20),))
        pool.write_jobs()
        assert pool.writing
        result.discard()  # as Celery does: its broker delivers it again
        os.kill(worker.pid, signal.SIGCONT)
        with within(20):
            pool.close()
            pool.join()
        assert worker.exitcode == -signal.SIGTERM
        assert not result.ready()

    def test_nor_does_it_where_it_is_taken_back(self, make_pool, loop_pool_class):
        class TakingBack(loop_pool_class):
            def _help_stuff_finish_args(self):
                return (self._pool,)

            @classmethod
            def _help_stuff_finish(cls, pool):
                """AsynPool's way."""
                for worker in pool:
                    while worker.inq._reader.poll(0.1):
                        try:
                            worker.inq._reader.recv()
                        except (EOFError, OSError):
                            break

        pool = make_pool(1, TakingBack)
        pool.run_until_started(pool.apply_async(tasks.nap, (20,)))
        (worker,) = pool._pool
        pool.busy.clear()  # as with -O fast, which gives a busy worker its next job
        pool.apply_async(tasks.take, (bytes(1 << 20),))
        pool.write_jobs()
        assert pool.writing
        with within(20):
            pool.terminate()
        assert worker.exitcode == -signal.SIGTERM

    def test_join_wants_close_first(self, make_pool):
        with pytest.raises(AssertionError):
            make_pool(1).join()

    def test_nothing_stays_open(self, make_pool):
        def life():
            pool = make_pool(2)
            pool.run(tasks.double, 1)
            pool.terminate()
            for process in pool._pool:
                pool._process_cleanup_queues(process)
            pool._pool.clear()

        life()
        before = _open_fds()
        for _ in range(5):
            life()
        assert _open_fds() <= before


def _blocked(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("SigBlk"))


def _open_fds():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_start_methods(make_pool, method):
    pool = make_pool(1, context=billiard.get_context(method))
    assert pool.run(tasks.double, 21) == 42
    assert pool.run(tasks.catch_soft, 20, soft_timeout=0.2) == "caught"
    with pytest.raises(WorkerLostError):
        pool.run(os._exit, 1)
    assert pool.run(tasks.double, 21) == 42
    assert re.fullmatch(rf"{method.capitalize()}PoolWorker-\d+", pool._pool[0].name)


class TestSharedPipes:
    """A subclass that overrides no pipe: all workers share one pair, and the caller drives."""

    @pytest.fixture
    def pool(self):
        class Mine(billiard.pool.Pool):
            def on_partial_read(self, job, worker):
                return None

        with Mine(2, threads=False) as pool:
            yield pool

    def test_results_come_by_handle_result_event(self, pool):
        results = [pool.apply_async(tasks.double, (i,)) for i in range(8)]

        def turn():
            pool._outqueue._reader.poll(0.1)
            pool.handle_result_event()

        wait_until(lambda: all(result.ready() for result in results), turn=turn)
        assert [result.get() for result in results] == [2 * i for i in range(8)]

    def test_join_takes_in_what_is_left(self, pool):
        results = [pool.apply_async(tasks.double, (i,)) for i in range(8)]
        pool.close()
        pool.join()
        assert [result.get(0) for result in results] == [2 * i for i in range(8)]
