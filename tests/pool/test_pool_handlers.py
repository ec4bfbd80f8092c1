"""Signal handlers that use the pool, wherever they strike: while its caller waits, and in the middle of its own work."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pool_tasks as t
import pytest

from billiard import TimeLimitExceeded, WorkerLostError
from billiard.exceptions import Terminated
from billiard.pool import Pool
from pool_helpers import WITHIN_S, is_running, wait_until


@pytest.fixture
def on_alarm():
    """Have a function run as a signal handler in so many seconds."""
    raised = []

    def arm(function, after_s=0.05):
        def handle(signum, frame):
            try:
                function()
            except Exception as exc:
                raised.append(exc)

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, after_s)

    before = signal.getsignal(signal.SIGALRM)
    yield arm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    assert not raised


@pytest.fixture(params=[True, False], ids=["supervised", "alone"])
def threads(request):
    return request.param


class TestWhileItsCallerWaits:
    def test_terminate_and_join(self, make_pool, on_alarm, threads):
        pool = make_pool(2, threads=threads)
        ended = []

        def end():
            began = time.monotonic()
            pool.terminate()
            pool.join()
            ended.append(time.monotonic() - began)

        handle = pool.apply_async(t.nap, (60,))
        on_alarm(end)
        with pytest.raises(WorkerLostError):
            handle.get(WITHIN_S)
        assert ended[0] < 3
        pool.join()

    def test_a_call(self, make_pool, on_alarm, threads):
        pool = make_pool(2, threads=threads)
        values = []
        on_alarm(lambda: values.append(pool.apply(t.add, (1, 2))))
        assert pool.apply(t.nap, (0.3, "long")) == "long"
        assert values == [3]

    def test_the_call_that_is_waited_for(self, make_pool, on_alarm, threads):
        """What the handler saw the end of, the interrupted frame must not wait for."""
        pool = make_pool(2, threads=threads)
        handle = pool.apply_async(t.nap, (0.2, "once"))
        values = []
        on_alarm(lambda: values.append(handle.get(WITHIN_S)))
        assert handle.get(WITHIN_S) == "once"
        assert values == ["once"]

    def test_a_slot(self, make_pool, on_alarm, threads):
        pool = make_pool(1, putlocks=True, threads=threads)
        pool.apply(t.nap, (0.05,))
        handle = pool.apply_async(t.nap, (0.5, "first"))
        handles = []
        on_alarm(lambda: handles.append(pool.apply_async(t.add, (1, 2))))
        assert handle.get(WITHIN_S) == "first"
        assert handles[0].get(WITHIN_S) == 3

    def test_a_callback_and_another_thread(self, make_pool, on_alarm):
        """The caller that drives cannot, and is not waited for: the supervisor sees to what comes."""
        pool = make_pool(2)
        told, served = threading.Event(), threading.Event()
        seen = []

        def serve():
            seen.append(pool.apply(t.add, (1, 2)))
            served.set()

        def handle_alarm():
            thread.start()
            pool.apply_async(t.add, (1, 2), callback=lambda _: told.set())
            seen.extend([told.wait(WITHIN_S), served.wait(WITHIN_S)])

        thread = threading.Thread(target=serve)
        on_alarm(handle_alarm)
        pool.apply(t.nap, (0.2,))
        thread.join(WITHIN_S)
        assert seen == [3, True, True]

    def test_a_limit(self, make_pool, on_alarm):
        """It strikes in time, and the while is not taken for one in which the machine was suspended."""
        pool = make_pool(2)
        limited = pool.apply_async(t.nap, (60,), timeout=0.5)
        wait_until(limited.accepted, WITHIN_S, "the call to begin")
        (pid,) = limited.worker_pids()
        on_alarm(lambda: wait_until(lambda: not is_running(pid), WITHIN_S, "the worker's end"))
        pool.apply(t.nap, (0.2,))
        with pytest.raises(TimeLimitExceeded) as caught:
            limited.get(WITHIN_S)
        assert caught.value.runtime_s < 1

    def test_an_order(self, make_pool, on_alarm, threads):
        pool = make_pool(2, threads=threads)
        handle = pool.apply_async(t.nap, (60,))
        on_alarm(lambda: handle.terminate(signal.SIGKILL))
        with pytest.raises(Terminated):
            handle.get(WITHIN_S)
        on_alarm(lambda: pool.grow(1))
        pool.apply(t.nap, (0.2,))
        assert pool._processes == 3

    def test_beside_other_callers(self, make_pool, on_alarm):
        pool = make_pool(2)
        values = []
        others = [threading.Thread(target=lambda: values.append(pool.apply(t.nap, (0.4, "other")))) for _ in range(2)]
        for thread in others:
            thread.start()
        on_alarm(lambda: values.append(pool.apply(t.add, (1, 2))))
        assert pool.apply(t.add, (3, 4)) == 7
        handle = pool.apply_async(t.nap, (0.3, "mine"))
        assert handle.get(WITHIN_S) == "mine"
        for thread in others:
            thread.join(WITHIN_S)
        wait_until(lambda: len(values) == 3)

    def test_an_outer_loop_that_was_interrupted_comes_in_time_for_a_limit_of_the_handlers_call(self, make_pool, on_alarm):
        """It had gone to sleep without a deadline, and what told it of one was read by the handler's own wait."""
        pool, handles = make_pool(2, threads=False), []
        assert pool.apply(t.add, (1, 2)) == 3

        def submit():
            handles.append(pool.apply_async(t.nap, (60,), timeout=0.2))
            assert pool.apply(t.add, (1, 2)) == 3

        on_alarm(submit)
        began = time.monotonic()
        while not (handles and handles[0].ready()):
            pool.turn(WITHIN_S)
        with pytest.raises(TimeLimitExceeded):
            handles[0].get(0)
        assert time.monotonic() - began < WITHIN_S / 2


class TestInTheMiddleOfItsWork:
    """The lock is held by the very frame that the handler interrupted."""

    def test_what_is_wanted_is_done_when_it_can_be(self, make_pool, threads):
        pool = make_pool(2, threads=threads)
        running = pool.apply_async(t.nap, (60,))
        wait_until(lambda: pool.turn() or running.accepted())
        with pool._engine._lock:
            later = pool.apply_async(t.add, (1, 2))
            running.terminate(signal.SIGKILL)
            pool.grow(1)
            pool.maintain_pool()
        with pytest.raises(Terminated):
            running.get(WITHIN_S)
        assert later.get(WITHIN_S) == 3
        assert pool._processes == 3

    def test_waiting_there_would_be_for_ever(self, make_pool, threads):
        pool = make_pool(2, threads=threads)
        handle = pool.apply_async(t.add, (1, 2))
        with pool._engine._lock, pytest.raises(RuntimeError, match="signal handler has interrupted the pool"):
            pool.apply_async(t.nap, (0.1,)).get()
        assert handle.get(WITHIN_S) == 3

    def test_the_end(self, make_pool, threads):
        pool = make_pool(2, threads=threads)
        handle = pool.apply_async(t.nap, (60,))
        with pool._engine._lock:
            pool.terminate()
            pool.join()
        with pytest.raises(WorkerLostError):
            handle.get(WITHIN_S)
        pool.join()


def test_a_callback_without_threads_may_wait(make_pool):
    pool = make_pool(2, threads=False)
    values = []
    handle = pool.apply_async(t.add, (1, 2), callback=lambda value: values.append(pool.apply(t.add, (value, 4))))
    assert handle.get(WITHIN_S) == 3
    wait_until(lambda: pool.turn() or values)
    assert values == [7]


@pytest.mark.parametrize("timeout", [9_999_999, 2**31, 1e12, float("inf")])
def test_a_timeout_beyond_what_the_system_can_wait_for(make_pool, timeout, threads):
    pool = make_pool(1, threads=threads)
    assert pool.apply_async(t.nap, (0.05, 1)).get(timeout) == 1
    assert pool.map_async(t.square, [2, 3]).get(timeout) == [4, 9]
    results = []

    def call():
        results.append(pool.apply_async(t.nap, (0.1, 1)).get(timeout))

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(WITHIN_S)
    assert results == [1, 1]


def test_a_timeout_that_is_no_number(make_pool):
    handle = make_pool(1).apply_async(t.nap, (0.2,))
    with pytest.raises(ValueError, match="nan"):
        handle.get(float("nan"))


class TestSignalNumbers:
    @pytest.mark.parametrize("signum", ["TERM", None, 15.0, 999, -1, True])
    def test_refused_at_the_call(self, make_pool, signum):
        pool = make_pool(1)
        handle = pool.apply_async(t.nap, (0.2, "well"))
        with pytest.raises((TypeError, ValueError), match="signum must be a signal's number"):
            handle.terminate(signum)
        if signum is not None:
            with pytest.raises((TypeError, ValueError), match="signum must be a signal's number"):
                pool.terminate_job(handle.worker_pids()[0] if handle.worker_pids() else pool._pool[0].pid, signum)
        assert handle.get(WITHIN_S) == "well"

    def test_a_pid_that_is_none(self, make_pool):
        with pytest.raises(TypeError, match="pid must be the pid of a worker, not 'x'"):
            make_pool(1).terminate_job("x")

    def test_a_worker_that_may_not_be_signalled(self, make_pool, monkeypatch, caplog):
        """A task that became another user's: the pool goes on, and says why its limit does not hold."""
        pool = make_pool(2)
        handle = pool.apply_async(t.nap, (0.3, "well"), timeout=0.05)

        def refuse(pid, signum):
            raise PermissionError(1, "Operation not permitted")

        with monkeypatch.context() as patch:
            patch.setattr(os, "killpg", refuse)
            assert handle.get(WITHIN_S) == "well"
            assert pool.apply(t.add, (1, 2)) == 3
        assert "cannot be sent signal 9" in caplog.text


class TestAfterItsEnd:
    def test_what_is_handed_over_late_has_an_end(self, make_pool):
        """The pool ends between a caller's look at it and the submission."""
        pool = make_pool(1)
        told = []

        def items():
            yield 1
            pool.terminate()
            pool.join()
            yield 2

        handle = pool.map_async(t.square, items(), error_callback=told.append)
        with pytest.raises(WorkerLostError):
            handle.get(WITHIN_S)
        wait_until(lambda: told)

    def test_in_a_forked_child(self, make_pool, tmp_path):
        pool = make_pool(1)
        worker = pool.apply(t.pid)
        waits = pool.apply_async(t.nap, (0.3, "well"))
        pid = os.fork()
        if pid == 0:
            said = []
            try:
                for use in (
                    lambda: waits.get(5), lambda: pool.apply(t.pid), lambda: waits.terminate(15), waits.discard,
                    lambda: pool.terminate_job(worker, 15),
                ):  # fmt: skip
                    try:
                        use()
                    except RuntimeError as exc:
                        said.append(f"belongs to process {os.getppid()}" in str(exc))
                assert not waits.worker_pids() and "ready:False" in repr(waits)
                with pool if not said else Nothing():
                    pass
                pool.terminate()
                pool.join()
                pool.__exit__(None, None, None)
            except BaseException as exc:
                said.append(repr(exc))
            (tmp_path / "said").write_text(repr(said))
            os._exit(0)
        os.waitpid(pid, 0)
        assert (tmp_path / "said").read_text() == "[True, True, True, True, True]"
        assert waits.get(WITHIN_S) == "well"


class Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass


def test_a_child_forked_while_the_pool_was_made_does_not_delay_its_end(make_pool, monkeypatch):
    """It holds the template's socket as well, and nothing told it to close it."""
    from billiard._supervisor import template

    children = []
    fork_template = template.fork_template

    def fork_beside(*args):
        made = fork_template(*args)
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        children.append(pid)
        return made

    monkeypatch.setattr(template, "fork_template", fork_beside)
    pool = make_pool(1)
    pool.apply(t.pid)
    pool.close()
    ended = threading.Thread(target=pool.join)
    ended.start()
    ended.join(WITHIN_S)
    hung = ended.is_alive()
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    ended.join()
    assert children
    assert not hung


def test_what_is_looked_at_while_its_worker_is_buried(make_pool):
    """A scoreboard that another thread has just closed says that nothing is on it."""
    pool = make_pool(1)
    handle = pool.apply_async(t.nap, (30,))
    wait_until(handle.accepted)
    scoreboard = handle.holder.scoreboard
    pool.terminate()
    pool.join()
    assert scoreboard.read() == (0, 0, 0, 0)
    assert handle.worker_pids() == []
    repr(handle)


def forks_and_returns():
    """As a task does whose child is not ended by `os._exit`."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return "the parent's"
    return "the child's"


def forks_and_exits():
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    os.waitpid(pid, 0)
    return "the parent's"


@pytest.mark.parametrize("task", [forks_and_returns, forks_and_exits])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_child_that_a_task_forks_is_no_worker(make_pool, task, start):
    import billiard

    pool = make_pool(1, context=billiard.get_context(start))
    worker = pool.apply(t.pid)
    assert [pool.apply(task) for _ in range(3)] == ["the parent's"] * 3
    assert pool.map(t.square, range(20)) == [x * x for x in range(20)]
    assert pool.apply(t.pid) == worker


_TOO_LARGE = """
import resource, billiard
from billiard import TimeLimitExceeded, WorkerLostError

def large(n):
    return bytes(n)

if __name__ == "__main__":
    with billiard.Pool(2) as pool:
        assert pool.apply(large, (10,)) == bytes(10)
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20), resource.RLIM_INFINITY))
        waits = pool.apply_async(large, (400 << 20,))
        small = [pool.apply_async(large, (i,)) for i in range(20)]
        try:
            waits.get(30)
        except WorkerLostError:
            print("lost")
        assert [len(handle.get(30)) for handle in small] == list(range(20))
        print("well")
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="no limit to the memory of a process")
def test_a_result_too_large_for_the_parent_is_that_calls_affair(tmp_path):
    script = tmp_path / "large.py"
    script.write_text(_TOO_LARGE)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["lost", "well"], done.stderr
    assert "no memory for a result" in done.stderr


def test_pools_shrunk_by_many_threads_at_once_keep_one_worker(make_pool):
    pool = make_pool(3)
    engine = pool._engine
    change = engine.change
    barrier = threading.Barrier(3)

    def at_once(decide):
        barrier.wait(WITHIN_S)  # all have looked at the size
        change(decide)

    engine.change = at_once
    shrinking = [threading.Thread(target=pool.shrink, args=(2,)) for _ in range(3)]
    for thread in shrinking:
        thread.start()
    for thread in shrinking:
        thread.join(WITHIN_S)
    engine.change = change
    assert pool._processes == 1
    assert Pool.apply(pool, t.add, (1, 2)) == 3


@pytest.mark.parametrize("make", [
    lambda pool: pool.apply_async(t.nap, (30,)),
    lambda pool: pool.map_async(t.nap, [30]),
    lambda pool: pool.map_async(t.nap, [30], callback=print),
], ids=["a call", "a map", "a map with a callback"])  # fmt: skip
def test_who_looks_again_and_again_is_not_remembered_for_each_look(make_pool, make):
    pool = make_pool(2)
    driven, looked_at = pool.apply_async(t.nap, (30,)), make(pool)
    driving = threading.Thread(target=lambda: driven.wait(WITHIN_S))
    driving.start()
    wait_until(lambda: pool._engine.driver._leader.locked())
    for _ in range(50):
        looked_at.wait(0.001)
    assert len(looked_at._wakers) <= 1
    pool.terminate()
    driving.join(WITHIN_S)


def record_then_fork(path, x, forks):
    """Note the item; the child comes back from it."""
    t.record(path, str(x))
    if x == forks and os.fork() == 0:
        return "the child's"
    time.sleep(0.02)
    return x


@pytest.mark.parametrize("chunksize", [1, 6])
def test_a_child_that_comes_back_runs_nothing_else(make_pool, tmp_path, chunksize):
    """Not the calls that its parent holds, nor the rest of a chunk, nor what is to be run as a worker exits."""
    path, left = str(tmp_path / "ran"), tmp_path / "left"
    pool = make_pool(1, on_process_exit=t.ExitNote(left))
    pool.map(t.square, range(3000), chunksize=1)  # it may hold many of them now
    pool.starmap(record_then_fork, [(path, i, -1) for i in range(6)], chunksize)
    items = [(path, i, 8) for i in range(6, 12)]
    assert pool.starmap(record_then_fork, items, chunksize) == list(range(6, 12))
    assert not left.exists()
    pool.close()
    pool.join()
    assert sorted(map(int, t.noted(path))) == list(range(12))
    assert len(t.noted(left)) == 1


def test_a_child_that_comes_back_is_no_reason_to_strike_the_next_call(make_pool):
    """It noted the calls that it ran on the worker's scoreboard: their limits, and the worker's death, hit others."""
    pool = make_pool(1)
    pool.map(t.square, range(3000), chunksize=1)
    stuck = pool.apply_async(fork_and_nap, (30,), timeout=0.3)
    behind = [pool.apply_async(t.echo, (i,), timeout=0.3) for i in range(5)]
    with pytest.raises(TimeLimitExceeded):
        stuck.get(WITHIN_S)
    assert [call.get(WITHIN_S) for call in behind] == list(range(5))


def fork_and_nap(seconds):
    if os.fork() == 0:
        return
    time.sleep(seconds)


def start_and_terminate():
    import multiprocessing

    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join()
    return child.exitcode


def test_sigterm_ends_a_tasks_own_process_as_any_other(pool):
    assert pool.apply(start_and_terminate) == -signal.SIGTERM


def swallow_everything(path):
    try:
        t.record(path, "inside")
        time.sleep(20)
    except BaseException:
        pass
    return os.getpid()


def test_a_sigterm_that_a_task_swallows_ends_the_worker_after_it(make_pool, tmp_path):
    """Not the next call, nor one that fails much later and would be taken for the signal's victim."""
    pool = make_pool(1)
    first = pool.apply_async(swallow_everything, (str(tmp_path / "log"),))
    wait_until(lambda: "inside" in t.noted(tmp_path / "log"))
    (pid,) = first.worker_pids()
    os.kill(pid, signal.SIGTERM)
    assert first.get(WITHIN_S) == pid
    with pytest.raises(ValueError, match="broken"):
        pool.apply(t.fail)
    assert pool.apply(t.pid) != pid


def test_a_slot_in_a_handler_that_interrupted_one_who_takes_a_slot(make_pool, threads):
    """It gets one or an error; waiting, it would wait for what it has interrupted."""
    pool = make_pool(1, threads=threads, putlocks=True)
    counts = {"submitted": 0, "refused": 0}
    inside = []

    def submit(signum, frame):
        if inside:
            return
        inside.append(1)
        try:
            pool.apply_async(abs, (-1,))
            counts["submitted"] += 1
        except RuntimeError:
            counts["refused"] += 1
        finally:
            inside.pop()

    before = signal.signal(signal.SIGALRM, submit)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            pool.apply_async(abs, (-1,))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert counts["refused"]
    assert pool.apply_async(abs, (-5,)).get(WITHIN_S) == 5


def test_what_a_child_forks_in_turn_keeps_what_it_has(pool):
    """The worker's descriptors have gone with the first child: their numbers are whatever the child has opened."""
    assert pool.apply(fork_twice) == b"still there"


def fork_twice():
    read, write = os.pipe()
    if os.fork() == 0:
        os.closerange(3, max(read, write))
        fds = [os.open(__file__, os.O_RDONLY) for _ in range(64)]
        if os.fork() == 0:
            lost = [fd for fd in fds if not os.path.samefile(fd, __file__)]  # noqa: PTH121 - of descriptors
            os.write(write, b"lost " + repr(lost).encode() if lost else b"still there")
            os._exit(0)
        os._exit(0)
    os.close(write)
    os.wait()
    return os.read(read, 1000)


def test_a_pool_is_abandoned_though_another_thread_is_in_a_turn():
    """Or its workers stay, and where multiprocessing made them the interpreter waits for them at its exit."""
    pool = Pool(1, threads=False)
    pids = [handle.pid for handle in pool._pool]
    lock, holds, is_asked_for = pool._engine._lock, threading.Event(), threading.Event()

    def turn():
        with lock:
            holds.set()
            is_asked_for.wait(WITHIN_S)

    def acquire(*how):
        is_asked_for.set()
        return lock.acquire(*how)

    thread = threading.Thread(target=turn)
    thread.start()
    holds.wait(WITHIN_S)
    pool._engine._lock = SimpleNamespace(acquire=acquire, release=lock.release)
    pool._engine.abandon()
    thread.join()
    assert pool._engine.closed
    wait_until(lambda: not is_running(pids[0]), WITHIN_S, "the worker's end")
