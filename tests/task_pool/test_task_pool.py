"""Celery's pool on a hub: nobody calls it but the hub, and only when its descriptor or its deadline says so."""

import logging
import os
import select
import signal
import time
from fractions import Fraction

import pytest

from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError
from billiard.pool import CLOSE, RUN
from pool_helpers import wait_until


def add(x, y):
    return x + y


def fail():
    raise LookupError("on purpose")


def meet(begun, go):
    """Say that it runs, and run until it may end."""
    os.write(begun, b"x")
    os.read(go, 1)
    return os.getpid()


def block(begun):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    os.write(begun, b"x")
    time.sleep(60)


def sleep():
    time.sleep(60)


def handler_of(signum):
    return signal.getsignal(signum) == signal.SIG_DFL


def eat(size):
    return len(bytearray(size))


@pytest.fixture
def pipes():
    """Two pipes that the workers inherit: `begun`, `go`."""
    fds = [*os.pipe(), *os.pipe()]
    yield fds
    for fd in fds:
        os.close(fd)


class Meeting:
    def __init__(self, pool, hub, told, pipes):
        self.pool, self.hub, self.told = pool, hub, told
        self.begun_read, self.begun, self.go_read, self._go = pipes

    def start(self, name, **options):
        job = self.pool.apply_async(meet, (self.begun, self.go_read), {}, **self.told.callbacks(name), **options)
        self.hub.until(lambda: "accepted" in self.told.of(name), what=f"{name} accepted")
        os.read(self.begun_read, 1)
        return job

    def go(self):
        os.write(self._go, b"x")


@pytest.fixture
def meeting(hub, told, pipes):
    return lambda pool: Meeting(pool, hub, told, pipes)


def test_callbacks_in_order_and_nothing_armed(make_pool, hub, told):
    pool = make_pool()
    pool.apply_async(add, (1, 2), {}, **told.callbacks("good"))
    pool.apply_async(fail, (), {}, **told.callbacks("bad"))
    hub.until(lambda: told.of("good") == ["accepted", "success"] and told.of("bad") == ["accepted", "failure"])
    assert told.value("good", "success") == 3
    assert type(told.value("bad", "failure").exception) is LookupError
    hub.once(0.0)
    assert pool.next_deadline() is None
    assert hub.alarms == [], "an idle pool needs no timer"


def test_hard_limit_comes_by_its_deadline(make_pool, hub, told, pipes):
    pool = make_pool(1)
    pool.apply_async(block, (pipes[1],), {}, timeout=0.3, **told.callbacks("blocked"))
    start = time.monotonic()
    hub.until(lambda: "failure" in told.of("blocked"), within_s=5)
    assert 0.3 <= time.monotonic() - start < 3
    assert sorted(told.of("blocked")) == ["accepted", "failure", "timeout"]
    assert told.value("blocked", "timeout") == {"soft": False, "timeout": 0.3}
    assert isinstance(told.value("blocked", "failure").exception, TimeLimitExceeded)


def test_soft_limit_above_the_hard_one(make_pool, hub, told):
    pool = make_pool(1)
    pool.apply_async(sleep, (), {}, soft_timeout=30, timeout=0.2, **told.callbacks("late"))
    hub.until(lambda: "failure" in told.of("late"), within_s=5)
    assert isinstance(told.value("late", "failure").exception, TimeLimitExceeded)


@pytest.mark.parametrize("past", [-1, -0.5, float("-inf"), Fraction(-1, 2)])
@pytest.mark.parametrize(("name", "error"), [("timeout", TimeLimitExceeded), ("soft_timeout", SoftTimeLimitExceeded)])
def test_a_messages_limit_that_has_passed_hits_its_task_alone(make_pool, hub, told, name, error, past):
    pool = make_pool(1)
    pool.apply_async(sleep, (), {}, **{name: past}, **told.callbacks("late"))
    pool.apply_async(add, (1, 2), {}, **told.callbacks("next"))
    hub.until(lambda: "failure" in told.of("late") and "success" in told.of("next"), within_s=10)
    assert isinstance(told.value("late", "failure").exception, error)


@pytest.mark.parametrize("value", ["10", [], True, float("nan"), 10**400])
def test_a_messages_limit_that_is_none_is_logged(make_pool, hub, told, caplog, value):
    pool = make_pool(1)
    pool.apply_async(add, (1, 2), {}, timeout=value, **told.callbacks("odd"))
    hub.until(lambda: "success" in told.of("odd"))
    assert "timeout must be" in caplog.text


def test_limits_go_on_after_a_reconnection(make_pool, hub, told, meeting):
    pool = make_pool(1)
    meeting(pool).start("limited", timeout=0.5)
    hub.reset()
    pool.flush()
    assert hub.alarms == []
    pool.register_with_event_loop(hub)
    hub.until(lambda: "failure" in told.of("limited"), within_s=5, what="the limit")
    assert isinstance(told.value("limited", "failure").exception, TimeLimitExceeded)


def test_a_slot_is_given_back_once_and_before_the_callback(make_pool, hub, told):
    semaphore_at = []
    pool = make_pool(1)
    semaphore = pool._putlock

    def submit(name):
        options = told.callbacks(name)
        options["callback"] = lambda value: semaphore_at.append((name, semaphore.released))
        pool.apply_async(add, (1, 1), {}, **options)

    for name in ("first", "second", "third"):
        semaphore.acquire(submit, name)  # the second and third are submitted from within a release
    hub.until(lambda: len(semaphore_at) == 3)
    assert semaphore_at == [("first", 1), ("second", 2), ("third", 3)]
    assert semaphore.value == 1


def test_system_exit_leaves_the_hub_and_nobody_is_forgotten(make_pool, hub, told):
    pool = make_pool(1)

    def leave(value):
        raise SystemExit(7)

    pool.apply_async(add, (1, 1), {}, callback=leave)
    second = pool.apply_async(add, (2, 2), {}, **told.callbacks("second"))
    with pytest.raises(SystemExit) as raised:
        hub.until(second.ready)
    assert raised.value.code == 7
    hub.until(lambda: told.of("second") == ["accepted", "success"])


def test_flush_knows_what_has_begun_before_it_is_told(make_pool, hub, told, meeting):
    """At each warm shutdown: forgotten, that task would run to its end here, and once more where its broker sends it next."""
    pool = make_pool(1)
    place = meeting(pool)
    first = pool.apply_async(add, (1, 1), {})
    hub.until(first.ready)
    pool.apply_async(meet, (place.begun, place.go_read), {}, **told.callbacks("begun"))
    os.read(place.begun_read, 1)  # it has, and nobody has read the news
    pool.flush()
    assert told.of("begun") == ["accepted"]
    place.go()
    hub.until(lambda: told.of("begun") == ["accepted", "success"])


def test_flush_forgets_what_has_not_begun(make_pool, hub, told, meeting):
    pool = make_pool(1)
    running = meeting(pool)
    running.start("running")
    for name in ("second", "third"):
        pool.apply_async(add, (1, 1), {}, **told.callbacks(name))
    pool.flush()
    running.go()
    hub.until(lambda: told.of("running") == ["accepted", "success"])
    fourth = pool.apply_async(add, (2, 2), {}, **told.callbacks("fourth"))
    hub.until(lambda: told.of("fourth") == ["accepted", "success"])
    assert told.of("second") == told.of("third") == []
    assert fourth.get() == 4


def test_revoked_while_it_runs(make_pool, hub, told, meeting, caplog):
    pool = make_pool(1)
    job = meeting(pool).start("revoked")
    (pid,) = job.worker_pids()
    pool.terminate_job(pid, signal.SIGTERM)
    job.terminate(signal.SIGTERM)  # Celery says it twice
    hub.until(lambda: "failure" in told.of("revoked"))
    assert isinstance(told.value("revoked", "failure").exception, Terminated)
    after = pool.apply_async(add, (1, 1), {}, **told.callbacks("after"))
    hub.until(after.ready)
    assert pool._pool[0].pid != pid
    assert "exited with" not in caplog.text, "an exit that was ordered is no incident"


def test_a_worker_that_is_on_no_task_is_not_struck(make_pool, hub, told):
    pool = make_pool(1)
    first = pool.apply_async(os.getpid, (), {}, **told.callbacks("first"))
    hub.until(lambda: told.of("first") == ["accepted", "success"])
    pool.terminate_job(first.get(), signal.SIGKILL)
    second = pool.apply_async(os.getpid, (), {}, **told.callbacks("second"))
    hub.until(lambda: told.of("second") == ["accepted", "success"])
    assert second.get() == first.get()


def test_the_task_behind_the_one_that_is_revoked_is_not_struck(make_pool, hub, told, meeting):
    """With the strategy "fast" a worker may be on its next task before Celery hears that the one before has ended."""
    pool = make_pool(1, sched_strategy="fast")
    meeting = meeting(pool)
    for _ in range(20):  # brief ones: a worker is given several at a time
        meeting.go()
        hub.until(pool.apply_async(meet, (meeting.begun, meeting.go_read), {}).ready)
    os.read(meeting.begun_read, 100)
    first = meeting.start("first")
    second = pool.apply_async(meet, (meeting.begun, meeting.go_read), {}, **told.callbacks("second"))
    pool._engine.turn(0.0)  # another worker's result would bring it about
    (worker,) = pool._engine.core.worker_set.workers.values()
    assert list(worker.inflight.values()) == [first, second]
    meeting.go()
    wait_until(lambda: worker.current == second.number, 5, "the second to begin, with the first's result not yet read")
    pool.terminate_job(worker.pid, signal.SIGTERM)
    assert worker.kill_request is None
    first.terminate(signal.SIGTERM)  # Celery says it twice
    hub.until(first.ready)
    meeting.go()
    hub.until(second.ready)
    assert told.of("first") == told.of("second") == ["accepted", "success"]


def test_a_pool_that_ends_replaces_nobody_it_has_struck(make_pool, hub, told, meeting):
    """Celery's cold shutdown: tasks are cancelled and the pool closed in a signal's handler, so in no turn of the hub."""
    read, write = os.pipe()
    pool = make_pool(2, initializer=os.write, initargs=(write, b"i"))
    jobs = [meeting(pool).start(name) for name in ("first", "second")]
    for job in jobs:
        pool.terminate_job(job.worker_pids()[0], signal.SIGTERM)
        job.terminate(signal.SIGTERM)
    pool.close()
    pool.join()
    os.close(write)
    assert told.of("first") == told.of("second") == ["accepted", "failure"]
    assert os.read(read, 100) == b"ii", "one for each of the first two workers"
    os.close(read)


def test_a_dead_worker_is_told_of_logged_and_replaced(make_pool, hub, told, meeting, caplog, monkeypatch):
    pool = make_pool(1)
    job = meeting(pool).start("lost")
    (pid,) = job.worker_pids()
    monkeypatch.setattr(logging.getLogger("multiprocessing"), "propagate", True)
    with caplog.at_level(logging.ERROR, "multiprocessing"):
        start = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        hub.until(lambda: "failure" in told.of("lost"))
        again = pool.apply_async(add, (1, 1), {})
        hub.until(again.ready)
        assert time.monotonic() - start < 2
    assert isinstance(told.value("lost", "failure").exception, WorkerLostError)
    assert f"pid:{pid} exited with 'signal 9 (SIGKILL)'" in caplog.text


def test_recycling_is_no_incident(make_pool, hub, told, caplog):
    pool = make_pool(2, maxtasksperchild=1)
    jobs = [pool.apply_async(os.getpid, (), {}) for _ in range(10)]
    hub.until(lambda: all(job.ready() for job in jobs), within_s=10)
    assert len({job.get() for job in jobs}) == 10
    assert caplog.text == ""


def test_memory_limit_is_about_what_is_resident(make_pool, hub):
    with open("/proc/self/status") as status:  # noqa: PTH123 - read line by line
        resident_kb = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    pool = make_pool(1, max_memory_per_child=resident_kb + 50_000)

    def pid_after(func, *args):
        job = pool.apply_async(func, args, {})
        hub.until(job.ready)
        pid = pool.apply_async(os.getpid, (), {})
        hub.until(pid.ready)
        return pid.get()

    first = pid_after(add, 1, 1)
    assert pid_after(eat, 1 << 20) == first
    assert pid_after(eat, 100 << 20) != first


def test_no_kilobytes_are_no_bound(make_pool, hub):
    pool = make_pool(1, max_memory_per_child=0)
    pids = [pool.apply_async(os.getpid, (), {}) for _ in range(2)]
    hub.until(lambda: all(pid.ready() for pid in pids))
    assert pids[0].get() == pids[1].get()


def test_grow_from_none_and_back(make_pool, hub, told):
    pool = make_pool(0)
    job = pool.apply_async(add, (1, 1), {}, **told.callbacks("first"))
    pool.grow(2)
    hub.until(job.ready)
    assert pool._processes == 2
    pool.shrink(2)
    assert pool._processes == 0
    hub.until(lambda: pool._pool == [])


def test_warm_shutdown(make_pool, hub, told, meeting):
    pool = make_pool(1)
    running = meeting(pool)
    running.start("running")
    assert pool._state == RUN
    pool._putlock.acquire(lambda: None)
    pool._putlock.acquire(lambda: pytest.fail("a waiting task was submitted to a closed pool"))
    pool.close()
    assert pool._state == CLOSE
    assert pool.apply_async(add, (1, 1), {}, **told.callbacks("late")) is None
    running.go()
    pool.join()
    assert told.of("running") == ["accepted", "success"]
    assert told.of("late") == []
    assert hub.readers == {}
    assert hub.alarms == []


def test_cold_shutdown_tells_nobody(make_pool, hub, told, meeting):
    """To be told would have Celery acknowledge the message, and the task would be lost."""
    pool = make_pool(1)
    meeting(pool).start("running")
    pool.apply_async(add, (1, 1), {}, **told.callbacks("waiting"))
    pool.terminate()
    assert told.of("running") == ["accepted"]
    assert told.of("waiting") == []
    assert pool._engine.closed


@pytest.mark.parametrize("strategy", ["default", "fast"])
def test_cold_shutdown_starts_nothing(make_pool, hub, told, meeting, strategy):
    """Celery cancels the tasks that run and joins the pool, which it flushes before a warm shutdown only."""
    pool = make_pool(2, sched_strategy=strategy)
    running = meeting(pool)
    say = (os.write, (running.begun, b"x"), {})
    for _ in range(20):  # brief ones: with "fast" a worker is given several at a time
        hub.until(pool.apply_async(*say).ready)
    os.read(running.begun_read, 100)
    jobs = [running.start(name) for name in ("first", "second")]
    for name in ("third", "fourth"):
        pool.apply_async(*say, **told.callbacks(name))
    pool._engine.turn(0.0)  # another worker's result would bring it about
    assert bool(pool._engine.core.dispatch.backlog) == (strategy == "default")
    for job in jobs:
        pool.terminate_job(job.worker_pids()[0], signal.SIGTERM)
        job.terminate(signal.SIGTERM)
    pool.close()
    pool.join()
    assert told.of("first") == told.of("second") == ["accepted", "failure"]
    assert told.of("third") == told.of("fourth") == []
    assert select.select([running.begun_read], [], [], 0)[0] == [], "another task has begun"


def test_from_a_signal_handler_in_the_midst_of_a_turn(make_pool, hub, told, meeting):
    """Celery's SIGQUIT handler cancels tasks and joins the pool, also while the interrupted frame holds the lock."""
    pool = make_pool(2)
    job = meeting(pool).start("running")
    (pid,) = job.worker_pids()

    def handler():
        pool.terminate_job(pid, signal.SIGTERM)
        job.terminate(signal.SIGTERM)
        pool.close()
        pool.join()

    with pool._engine._lock:  # the interrupted frame
        handler()
    assert not job.ready()
    hub.until(lambda: pool._engine.closed)
    assert told.of("running") == ["accepted", "failure"]
    assert isinstance(told.value("running", "failure").exception, Terminated)


def test_a_successor_while_a_task_runs(make_pool, hub, told, meeting):
    old = make_pool(1)
    running = meeting(old)
    running.start("running")
    old.apply_async(add, (1, 1), {}, **told.callbacks("waiting"))
    new = make_pool(1, register=False, semaphore=old._putlock)
    new.succeed(old)
    job = new.apply_async(add, (2, 2), {}, **told.callbacks("new"))
    hub.until(job.ready)
    hub.reset()
    new.flush()  # a reconnection in the midst of it
    new.register_with_event_loop(hub)
    running.go()
    hub.until(lambda: old._engine.closed, what="the old pool's end")
    assert told.of("running") == ["accepted", "success"]
    assert told.of("waiting") == []
    assert list(hub.readers) == [new.fileno()]


def test_a_task_of_the_old_pool_is_revoked_through_the_new(make_pool, hub, told, meeting):
    old = make_pool(1)
    job = meeting(old).start("running")
    old.apply_async(add, (1, 1), {}, **told.callbacks("waiting"))
    new = make_pool(1, register=False, semaphore=old._putlock)
    new.succeed(old)
    new.terminate_job(*job.worker_pids(), signal.SIGTERM)
    new.close()
    new.join()
    assert told.of("running") == ["accepted", "failure"]
    assert told.of("waiting") == []
    assert old._engine.closed
    assert hub.readers == {}


def cannot_start():
    raise RuntimeError("no licence")


def test_workers_that_cannot_start_end_celerys_worker(make_pool, hub, told):
    pool = make_pool(1, initializer=cannot_start)
    pool.apply_async(add, (1, 1), {}, **told.callbacks("never"))
    with pytest.raises(WorkerLostError, match="no licence"):
        hub.until(lambda: False, what="the end")
    assert told.of("never") == [], "it has not run, and stays with its broker"
    assert not pool.did_start_ok()


def test_the_parents_cold_shutdown_is_not_run_in_a_child(make_pool, hub):
    before = signal.signal(signal.SIGQUIT, lambda *args: None)
    try:
        pool = make_pool(1)
    finally:
        signal.signal(signal.SIGQUIT, before)
    job = pool.apply_async(handler_of, (signal.SIGQUIT,), {})
    hub.until(job.ready)
    assert job.get()


def test_a_signal_to_all_processes_does_not_hit_the_template(make_pool, hub, told, meeting):
    """`pkill -HUP celery` finds it too; a template that ends, or runs Celery's handlers, takes all tasks with it."""
    pool = make_pool(1)
    running = meeting(pool)
    running.start("running")
    template = pool._engine.processes.launcher._pids[-1]
    for signum in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(template, signum)
    pool.grow(1)
    hub.until(lambda: len(pool._pool) == 2)  # it still forks
    running.go()
    hub.until(lambda: told.of("running") == ["accepted", "success"])
    assert pool._engine.processes.launcher._pids[-1] == template


def test_write_stats(make_pool, hub, told):
    pool = make_pool(2)
    assert pool.human_write_stats()["total"] == 0
    jobs = [pool.apply_async(add, (1, 1), {}, **told.callbacks(number)) for number in range(10)]
    hub.until(lambda: all(job.ready() for job in jobs))
    stats = pool.human_write_stats()
    assert stats["total"] == sum(map(int, stats["raw"].split(", "))) == 10
    assert stats["strategy"] == "fair"
    assert stats["inqueues"] == {"total": 2, "active": 0}


def test_without_an_event_loop(make_pool, told):
    pool = make_pool(2, threads=True, semaphore=None, max_restarts=None)
    jobs = [pool.apply_async(add, (1, number), {}, waitforslot=True, **told.callbacks(number)) for number in range(10)]
    assert [job.get(10) for job in jobs] == list(range(1, 11))
    pool.flush()
    pool.close()
    assert pool.apply_async(add, (1, 1), {}) is None
    pool.join()
    assert all(told.of(number) == ["accepted", "success"] for number in range(10))


@pytest.mark.parametrize("says_it", ["ends the call", "closes the pool"])
def test_celery_has_noted_what_it_ended_before_it_is_told(make_pool, told, says_it):
    """Told in between, by the pool's own thread, it would store a cancelled task as revoked, and acknowledge its message."""
    pool = make_pool(1, threads=True, semaphore=None)
    job = pool.apply_async(sleep, (), {}, **told.callbacks("cancelled"))
    wait_until(lambda: told.of("cancelled") == ["accepted"])
    pool.terminate_job(job.worker_pids()[0], signal.SIGTERM)
    wait_until(job.ready)
    time.sleep(0.2)  # Celery stores the task's state, and waits for its backend
    assert told.of("cancelled") == ["accepted"]
    if says_it == "ends the call":
        job.terminate(signal.SIGTERM)
    else:
        pool.close()
    wait_until(lambda: told.of("cancelled") == ["accepted", "failure"])
    assert isinstance(told.value("cancelled", "failure").exception, Terminated)
