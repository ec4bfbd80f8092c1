"""Beginning and end: scripts as users write them, nested pools, forgotten pools, Ctrl-C, a parent that is killed."""

import gc
import itertools
import multiprocessing.util
import os
import re
import signal
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pool_tasks as t
import pytest

import billiard
from billiard._api.map_results import MapResult
from billiard._supervisor.poll_set import IN, PollSet
from billiard.pool import Pool
from pool_helpers import WITHIN_S, is_running, kill, wait_until

METHODS = ("fork", "forkserver", "spawn")


def run(script, text, within_s=20, **popen):
    process = script(text, **popen)
    out, _ = process.communicate(timeout=within_s)
    return process.returncode, out


@pytest.mark.parametrize("method", METHODS)
def test_what_a_task_left_for_the_end_runs_as_in_multiprocessing(make_pool, tmp_path, method):
    runs_atexit = sys.version_info >= (3, 13) or method == "spawn"
    for ends in ("told", "recycled"):
        log = tmp_path / ends
        pool = make_pool(1, maxtasksperchild=1 if ends == "recycled" else None, context=billiard.get_context(method))
        pool.apply(t.at_the_end, (log,))
        pool.close()
        pool.join()
        assert sorted(t.noted(log)) == (["atexit", "finalizer"] if runs_atexit else ["finalizer"])


@pytest.mark.parametrize("method", METHODS)
def test_soft_limits_strike_though_the_parent_blocks_their_signal(script, method):
    code, out = run(script, f"""
        import signal, time, billiard
        if __name__ == "__main__":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
            with billiard.get_context({method!r}).Pool(1, soft_timeout=0.2) as pool:
                try:
                    pool.apply(time.sleep, (10,))
                except billiard.SoftTimeLimitExceeded:
                    print("struck")
        """)  # fmt: skip
    assert (code, out) == (0, "struck\n")


@pytest.mark.parametrize("method", METHODS)
def test_a_thread_that_a_task_left_has_a_while_to_end(make_pool, tmp_path, method):
    log, down = tmp_path / "log", []
    pool = make_pool(1, maxtasksperchild=1, context=billiard.get_context(method), on_process_down=lambda *end: down.append(end))
    brief, endless = pool.apply(t.stay, (log, 0.3)), pool.apply(t.stay, (log, 3600))
    pool.close()
    began = time.monotonic()
    pool.join()
    assert time.monotonic() - began < 10
    assert t.noted(log) == ["thread"]
    ends = {handle.pid: handle.exitcode for (handle,) in down}
    assert ends[brief] == ends[endless] == billiard.pool.EX_RECYCLE


@pytest.mark.parametrize("method", METHODS)
def test_an_executor_that_a_task_left_ends_with_its_worker(make_pool, method):
    """Its processes end when it tells them to: joined before that, they would never, and go on without the worker."""
    pool = make_pool(1, context=billiard.get_context(method))
    pid = pool.apply(t.leave_executor)
    pool.close()
    pool.join()
    wait_until(lambda: not is_running(pid))


def test_no_main_guard_is_needed_with_fork(script):
    code, out = run(script, """
        from billiard import Pool
        def double(x): return 2 * x
        class Point:
            def __init__(self, x): self.x = x
            def __eq__(self, other): return type(other) is Point and other.x == self.x
        def make(x): return Point(x)
        pool = Pool(2)
        print(pool.map(double, range(4)), pool.apply(lambda p: p.x, (Point(5),)), pool.apply(make, (1,)) == Point(1))
        pool.close()
        pool.join()
        """)  # fmt: skip
    assert (code, out) == (0, "[0, 2, 4, 6] 5 True\n")


def main_file(method):
    """A program whose workers must find what it defines."""
    return textwrap.dedent(f"""
        import billiard
        def double(x): return 2 * x
        class Point:
            def __init__(self, x): self.x = x
        def same(p): return type(p) is Point and p
        if __name__ == "__main__":
            with billiard.get_context("{method}").Pool(2) as pool:
                print(pool.map(double, range(4)), type(pool.apply(same, (Point(1),))) is Point)
        """)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_with_a_main_guard(script, method):
    code, out = run(script, main_file(method))
    assert (code, out) == (0, "[0, 2, 4, 6] True\n")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["package", "directory"])
def test_what_a_main_file_of_a_package_or_directory_defines(script, tmp_path, method, how):
    """Of these `multiprocessing` has its children import no `__main__`."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(main_file(method))
    given = ["-m", "package"] if how == "package" else ["package"]
    code, out = run(script, f"""
        import os, sys
        os.chdir({str(tmp_path)!r})
        os.execv(sys.executable, [sys.executable, *{given}])
        """)  # fmt: skip
    assert (code, out) == (0, "[0, 2, 4, 6] True\n")


def test_redefined_in_a_repl(script):
    """What is defined, or defined again, after the pool was made runs as it is now."""
    code, out = run(script, """
        import code
        from billiard import Pool
        console = code.InteractiveConsole({"__name__": "__main__"})
        import __main__
        console.locals = vars(__main__)
        def say(text):
            for line in text.split("|"): console.push(line)
        say("def f(x): return ('old', x)||class K: pass|")
        say("pool = Pool(1)")
        say("print(pool.apply(f, (1,)))")
        say("def f(x): return ('new', x)|")
        say("print(pool.apply(f, (1,)), pool.map(f, [1]))")
        say("def g(x): return f(x) + ('g',)|")
        say("print(pool.apply(g, (2,)))")
        say("k = K()")
        say("print(type(pool.apply(lambda k=k: k)) is K)")
        say("class K: v = 2||")
        say("print(pool.apply(lambda: K.v), pool.apply(lambda k: type(k).v, (K(),)))")
        say("pool.terminate(); pool.join()")
        """)  # fmt: skip
    assert (code, out.splitlines()) == (
        0, ["('old', 1)", "('new', 1) [('new', 1)]", "('new', 2, 'g')", "True", "2 2"],
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_nested_pools(method, lasting_helpers):
    with Pool(2, context=billiard.get_context(method)) as pool:
        assert pool.map(t.in_a_pool, [3, 4], 1) == [[0, 1, 4], [0, 1, 4, 9]]


def test_soft_limit_of_a_task_that_drives_a_pool(make_pool):
    """The outer soft limit strikes in the middle of the inner pool's turn."""
    pool = make_pool(1)
    for _ in range(5):
        assert pool.apply_async(drives_for, (10,), soft_timeout=0.3).get(20) == ("soft", [0, 1, 4])


def drives_for(seconds):
    with Pool(2) as inner:
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                inner.map(t.square, range(20), chunksize=1)
        except billiard.SoftTimeLimitExceeded:
            return "soft", inner.map(t.square, range(3))
    return "never", None


def test_two_pools_one_closed_while_the_other_works():
    with Pool(2) as first, Pool(2) as second:
        running = second.map_async(t.nap, [0.02] * 20, 1)
        assert first.apply(t.add, (1, 2)) == 3
        first.close()
        first.join()
        assert running.get(10) == [None] * 20
        third = Pool(1)
        assert third.apply(t.add, (1, 2)) == 3
        third.terminate()
        third.join()
        assert second.apply(t.add, (2, 2)) == 4


@pytest.mark.parametrize("method", METHODS)
def test_with_ends_everything(method, lasting_helpers):
    with Pool(2, context=billiard.get_context(method)) as pool:
        pids = pool.map(t.pid, range(8), 1)
        pool.apply_async(t.nap, (60,))
    assert not any(is_running(pid) for pid in pids)


@pytest.mark.parametrize("package", ["billiard", "multiprocessing"])
def test_the_fork_server_imports_for_its_workers(script, package):
    """Each of them imported it anew, which was most of its start. And one module it must have itself: see there."""
    code, out = run(script, f"""
        import multiprocessing, sys
        import billiard

        # in a worker: when it runs the program, before it has its arguments
        there = [f"billiard.{{name}}" in sys.modules for name in ("_worker.main", "_stdlib.fork_server")]

        def tell():
            return there

        if __name__ == "__main__":
            with billiard.Pool(1, context={package}.get_context("forkserver")) as pool:
                print(there, pool.apply(tell))
        """)  # fmt: skip
    assert (code, out) == (0, "[False, False] [True, True]\n")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_who_has_a_worker_s_process_may_join_it_after_its_end(make_pool, method):
    """`multiprocessing` joins all children when the program exits, while a forgotten pool is ending."""
    pool = make_pool(1, context=billiard.get_context(method))
    pid = pool.apply(t.pid)
    [process] = [child for child in multiprocessing.active_children() if child.pid == pid]
    pool.terminate()
    pool.join()
    process.join(0)
    assert process.exitcode == -signal.SIGTERM
    assert process not in multiprocessing.active_children()


def test_forgotten_pool_ends():
    pids = set(Pool(2).map(t.pid, range(8), 1))
    gc.collect()
    wait_until(lambda: not any(is_running(pid) for pid in pids), 5)


def test_forgotten_pool_ends_though_a_callback_was_the_last_it_did():
    told = threading.Event()
    pool = Pool(2)
    pids = set(pool.map(t.pid, range(8), 1))
    pool.apply_async(t.fail, error_callback=lambda _: told.set())
    assert told.wait(10)
    del pool
    gc.collect()
    wait_until(lambda: not any(is_running(pid) for pid in pids), 5)


def test_forgotten_pool_ends_though_the_last_thing_a_worker_did_was_slow():
    """What waited behind that was taken back from it, and run elsewhere."""
    pool = Pool(2)
    pids = set(pool.map(t.pid, range(8), 1))
    pool.map(t.nap, [0] * 100, 1)
    assert pool.map(t.nap, [0.1] + [0] * 20, 1) == [None] * 21
    del pool
    gc.collect()
    wait_until(lambda: not any(is_running(pid) for pid in pids), 5)


@pytest.mark.parametrize("method", METHODS)
def test_forgotten_pool_without_a_thread_ends(method, lasting_helpers):
    """And leaves no descriptor: the fixture `nothing_left` counts them."""
    pool = Pool(2, threads=False, context=billiard.get_context(method))
    pids = set(pool.map(t.pid, range(8), 1))
    del pool
    gc.collect()
    wait_until(lambda: not any(is_running(pid) for pid in pids), 5)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_forgotten_pool_without_a_thread_ends_though_a_task_left_a_child(method, lasting_helpers):
    """That holds what multiprocessing tells the worker's end by, and the worker stayed a zombie."""
    pool = Pool(1, threads=False, context=billiard.get_context(method))
    pid, heir = pool.apply(t.pid), pool.apply(t.leave_heir)
    try:
        del pool
        gc.collect()
        assert pid not in [process.pid for process in multiprocessing.process._children]
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 5)
    finally:
        kill(heir)


def test_a_handle_outlives_its_pool():
    with Pool(1) as pool:
        done, queued = pool.apply_async(t.add, (1, 2)), pool.apply_async(t.nap, (60,))
        done.wait(10)
    assert done.get(0) == 3
    with pytest.raises(billiard.WorkerLostError, match="terminated"):
        queued.get(10)


def test_close_lets_what_was_submitted_finish(make_pool):
    pool = make_pool(2)
    results = [pool.apply_async(t.nap, (0.05, i)) for i in range(10)]
    pool.close()
    pool.join()
    assert [result.get(0) for result in results] == list(range(10))


def test_close_survives_a_death(make_pool):
    pool = make_pool(1)
    lost, after = pool.apply_async(t.die), pool.apply_async(t.add, (1, 2))
    pool.close()
    pool.join()
    assert not lost.successful()
    assert after.get(0) == 3


@pytest.mark.parametrize("end", ["join", "abandon"])
def test_a_thread_that_sleeps_as_another_one_sees_the_end_is_woken(make_pool, end):
    """Of two that drive one sees the last worker go, and closes what the other one sleeps on: that one would sleep on, in
    `join` for ever."""
    pool = make_pool(1, threads=False)
    pool.apply(t.add, (1, 2))
    engine = pool._engine
    pool.close()
    # and nothing is left that would wake it in time
    wait_until(lambda: engine.end.state and engine.next_deadline() is None, turn=lambda: engine.turn(0.1))
    sleeper = threading.Thread(target=engine.waiting.wait_for_events, args=(-1.0,), daemon=True)
    sleeper.start()
    state = Path(f"/proc/self/task/{sleeper.native_id}/stat")
    wait_until(lambda: sleeper.ident in engine.waiting.sleepers and state.read_text().rpartition(")")[2].split()[0] == "S")
    pool.join() if end == "join" else engine.abandon()
    sleeper.join(10)
    assert not sleeper.is_alive()
    with pytest.raises(ValueError, match="has no descriptor"):
        pool.fileno()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threads", [True, False])
def test_the_interpreter_exits_with_a_pool_at_work(script, method, threads):
    began = time.monotonic()
    code, out = run(script, f"""
        import billiard, time
        def main():
            global pool, result
            pool = billiard.get_context("{method}").Pool(2, threads={threads})
            print(*(int(p) for p in [pool.apply(__import__("os").getpid)]))
            result = pool.apply_async(time.sleep, (60,))
        if __name__ == "__main__":
            main()
        """)  # fmt: skip
    assert code == 0, out
    assert time.monotonic() - began < 10
    (pid,) = map(int, out.split())
    wait_until(lambda: not is_running(pid), 5)


@pytest.mark.parametrize("threads", [True, False])
def test_a_program_that_ends_while_workers_start_says_nothing(script, threads):
    for _ in range(4):
        assert run(script, f"""
            import billiard
            if __name__ == "__main__":
                pool = billiard.get_context("fork").Pool(16, threads={threads})
                pool.apply(abs, (-1,))
            """) == (0, "")  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c(script, method, tmp_path):
    log = str(tmp_path / "log")
    process = script(f"""
        import billiard, pool_tasks
        if __name__ == "__main__":
            with billiard.get_context("{method}").Pool(2) as pool:
                pool.starmap(pool_tasks.record_and_nap, [({log!r}, i, 60) for i in range(2)], 1)
        """, start_new_session=True)  # fmt: skip
    wait_until(lambda: len(t.noted(log)) == 2)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, _ = process.communicate(timeout=10)
    assert time.monotonic() - began < 3
    assert out.count("Traceback") == 1, out
    assert "KeyboardInterrupt" in out
    assert process.returncode != 0


@pytest.mark.parametrize("method", METHODS)
def test_parent_killed(script, method, tmp_path):
    process = script(f"""
        import billiard, os, time, pool_tasks
        if __name__ == "__main__":
            pool = billiard.get_context("{method}").Pool(2)
            pids = set()
            while len(pids) < 2:
                pids.update(pool.map(pool_tasks.pid, range(8), 1))
            pool.apply_async(pool_tasks.hold_gil, (60,))
            r = pool.apply_async(pool_tasks.child_and_nap, ({str(tmp_path / "child")!r}, 60))
            while not pool_tasks.noted({str(tmp_path / "child")!r}): time.sleep(0.01)
            print(*pids, *pool_tasks.noted({str(tmp_path / "child")!r}), flush=True)
            time.sleep(60)
        """)  # fmt: skip
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 3
    process.kill()
    process.wait()
    wait_until(lambda: not any(is_running(pid) for pid in pids), 2, "the end of all descendants")


def test_replacements_do_not_come_from_a_threaded_parent():
    """Python 3.12 warns of a fork in a process with threads; on any version the replacement's parent is the template."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Pool(1) as pool:
            first = pool.apply(os.getppid)
            del caught[:]
            for _ in range(3):
                pool.apply_async(t.die).wait(10)
            assert pool.apply(os.getppid) == first != os.getpid()
    assert [str(w.message) for w in caught if "fork" in str(w.message)] == []


def test_hooks_of_multiprocessing_run_once_in_each_worker_and_not_in_the_template():
    read, write = os.pipe()
    registrant = multiprocessing.Event()  # anything that can be referred to weakly
    multiprocessing.util.register_after_fork(registrant, lambda _: os.write(write, b"%d " % os.getpid()))
    try:
        with Pool(2) as pool:
            workers = sorted(handle.pid for handle in pool._pool)
            pool.map(abs, range(10), 1)
            pool.close()
            pool.join()
        os.close(write)
        assert sorted(map(int, os.read(read, 1000).split())) == workers
    finally:
        del registrant
        os.close(read)


def test_workers_read_nothing_from_the_terminal(pool):
    assert pool.apply(t.reads_stdin) == ""


def test_output_is_not_written_twice(script):
    code, out = run(script, """
        import sys
        from billiard import Pool
        sys.stdout.write("once\\n")
        with Pool(3) as pool:
            pool.map(abs, range(10), 1)
        """, within_s=20)  # fmt: skip
    assert (code, out) == (0, "once\n")


def test_a_child_forked_by_others_disturbs_nothing(pool):
    assert pool.apply(t.add, (1, 2)) == 3
    child = os.fork()
    if child == 0:
        try:
            gc.collect()
            pool.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert pool.apply(t.add, (1, 2)) == 3


def test_a_forked_child_closes_what_a_thread_of_its_parent_sleeps_on(pool):
    assert pool.apply(t.add, (1, 2)) == 3
    wake_fd = pool._engine.poll_set.wake_fd
    wait_until(lambda: pool._engine.waiting.sleepers, what="the supervisor's sleep")
    child = os.fork()
    if child == 0:
        try:
            os.fstat(wake_fd)
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0) == (child, 0)


def test_closing_a_poll_set_wakes_whoever_sleeps_on_it():
    """A caller in `join` slept for ever, since the supervisor, which had seen the end first, closed what was to wake it."""
    poll_set = PollSet()
    wake_fd, woken = poll_set.wake_fd, []
    sleeper = threading.Thread(target=lambda: woken.append(poll_set.poll(-1.0)), daemon=True)
    sleeper.start()
    stat = Path(f"/proc/self/task/{sleeper.native_id}/stat")
    in_poll = lambda: sys._current_frames()[sleeper.ident].f_code is PollSet.poll.__code__  # noqa: E731
    wait_until(lambda: in_poll() and stat.read_text().rpartition(")")[2].split()[0] == "S", what="its sleep")
    poll_set.close()
    sleeper.join(10)
    assert not sleeper.is_alive()
    assert woken == [[(wake_fd, IN)]]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(wake_fd)


@pytest.mark.parametrize("begun", [False, True])
def test_a_call_that_comes_as_the_pool_ends_has_an_end_too(begun, monkeypatch):
    """Its worker, started when everybody had seen the end, was given up with the call in flight: `get` waited for ever."""
    pool, handles = Pool(2), []
    engine, may_submit, pickling = pool._engine, threading.Event(), threading.Event()

    class Slow:
        def __reduce__(self):
            pickling.set()
            may_submit.wait(20)
            return float, (60,)

    def in_flight():
        workers = list(engine.core.worker_set.workers.values())
        return any(worker.current_job is not None if begun else worker.inflight for worker in workers)

    stop, came = engine.driver.stop, threading.Event()

    def stop_late(wake):
        may_submit.set()
        wait_until(lambda: came.is_set() or in_flight())
        came.set()
        stop(wake)

    def submit():
        handles.append(pool.apply_async(t.nap, (Slow(),)))
        handles[0].wait(20)  # it drives: those who end the pool do so no more

    assert pool.apply(t.add, (1, 2)) == 3
    submitter = threading.Thread(target=submit)
    submitter.start()
    assert pickling.wait(20)
    monkeypatch.setattr(engine.driver, "stop", stop_late)
    pool.close()
    pool.join()
    submitter.join(20)
    (handle,) = handles
    wait_until(handle.ready)
    with pytest.raises(billiard.WorkerLostError, match="the pool was terminated"):
        handle.get(0)
    pool.join()  # once more: there is nothing to wait for


@pytest.mark.parametrize("threads", [True, False])
def test_at_exit_nobody_waits_for_a_pool_that_has_ended(script, threads):
    """What was registered before the pool's own end runs after it. Without threads it turned for ever."""
    code, out = run(script, f"""
        import atexit, time

        def at_exit():
            try:
                result.get()
            except billiard.WorkerLostError as exc:
                print(str(exc).rpartition(": ")[2].partition(" after")[0])
            pool.close()
            pool.join()
            print("joined")

        atexit.register(at_exit)
        import billiard
        if __name__ == "__main__":
            pool = billiard.Pool(2, threads={threads})
            result = pool.apply_async(time.sleep, (60,))
        """)  # fmt: skip
    assert (code, out) == (0, "the pool was terminated\njoined\n")


@pytest.mark.parametrize(
    ("call", "ask"),
    [
        ("map_async(time.sleep, [60], callback=print)", "get"),
        ("map_async(lambda seconds: time.sleep(seconds), [60])", "get"),
        ("imap_unordered(time.sleep, [60])", "next"),
    ],
    ids=["callback", "lambda", "unordered"],
)
def test_at_exit_a_map_that_has_to_be_told_is_told_of_the_end(script, call, ask):
    """It does not look by itself whether its calls have ended, and turned for ever."""
    code, out = run(script, f"""
        import atexit, time

        def at_exit():
            try:
                result.{ask}()
            except billiard.WorkerLostError as exc:
                print("the pool was terminated" in str(exc))

        atexit.register(at_exit)
        import billiard
        if __name__ == "__main__":
            pool = billiard.Pool(2, threads=False)
            result = pool.{call}
        """)  # fmt: skip
    assert (code, out) == (0, "True\n")


def test_callbacks_are_handed_over_by_one_thread_at_a_time(make_pool):
    """Two that see the end at once handed the same ones over, and one of them then struck off what it had not."""
    pool, told, others = make_pool(1), [], []
    pool.close()
    pool.join()
    engine = pool._engine
    put = engine.callback_runner._queue.put

    def put_while_another_comes(batch):
        if not others:
            others.append(threading.Thread(target=engine._settle_late))
            others[0].start()
            others[0].join(0.2)  # it has to wait for us
        put(batch)

    engine.callback_runner._queue = SimpleNamespace(
        put=put_while_another_comes, get=engine.callback_runner._queue.get, empty=engine.callback_runner._queue.empty
    )
    engine.callback_runner.add(told.append, 1)
    engine._settle_late()
    others[0].join(20)
    assert told == [1]


def test_a_forked_child_has_no_workers_to_end_or_to_wait_for(pool):
    """Nor does it wait for a lock that a thread held which was not copied."""
    running = pool.apply_async(t.nap, (0.3, "still there"))
    wait_until(running.worker_pids)
    workers, held, go_on = pool._pool, threading.Event(), threading.Event()

    def hold():
        with pool._engine._lock:
            held.set()
            go_on.wait(WITHIN_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(WITHIN_S)
    child = os.fork()
    if child == 0:
        refused = 0
        signal.alarm(10)
        try:
            for ask in (workers[0].kill, workers[0].terminate, lambda: workers[0].sentinel, lambda: pool.process_sentinels):
                try:
                    ask()
                except RuntimeError:
                    refused += 1
        finally:
            os._exit(refused)
    go_on.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    assert running.get(WITHIN_S) == "still there"


def test_eight_threads_at_once(make_pool):
    import threading

    pool, wrong = make_pool(2), []

    def work(n):
        wrong.extend((n, i) for i in range(60) if pool.apply(t.add, (n, i)) != n + i)
        if list(pool.imap(t.square, range(20))) != [x * x for x in range(20)]:
            wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


@pytest.mark.parametrize("items", [[1, 2, 3], [1, "x", 3]], ids=["values", "error"])
def test_two_threads_get_the_result_of_a_map(make_pool, monkeypatch, items):
    """One that had just seen that nobody had read the chunks found none: the map's result was an empty list, for both."""
    result = make_pool(1).map_async(t.square, items, 1)
    result.wait(20)
    state, others, got = MapResult.state, [], []

    def get():
        try:
            got.append(result.get(20))
        except TypeError as exc:
            got.append(exc)

    def state_before_another_gets(self):
        seen = state.fget(self)
        if sys._getframe(1).f_code is MapResult._resolve.__code__ and not others:
            others.append(threading.Thread(target=get))
            others[0].start()
            others[0].join(20)
        return seen

    monkeypatch.setattr(MapResult, "state", property(state_before_another_gets, state.fset))
    get()
    first, second = got
    assert first is second
    assert isinstance(first, TypeError) if "x" in items else first == [1, 4, 9]


def test_a_call_that_comes_while_a_suspension_is_noted_is_given_out(make_pool, monkeypatch):
    """Who notes it holds the lock for that, and looked for nobody whom it had turned away."""
    pool, handles = make_pool(2), []
    engine, long = pool._engine, pool.apply_async(t.nap, (60,))
    leader = threading.Thread(target=long.wait)
    leader.start()
    wait_until(lambda: leader.ident in engine.waiting.sleepers and engine.core.dispatch.idle)

    def note(until, slept_s):
        submitter = threading.Thread(target=lambda: handles.append(pool.apply_async(t.add, (1, 2))))
        submitter.start()
        submitter.join(20)

    monkeypatch.setattr(engine.core.preemption, "exclude_suspension", note)
    engine.waiting._awake_at = 0.0
    engine.notice_suspension(time.monotonic() - 10, time.process_time())
    assert handles[0].get(5) == 3
    long.terminate()
    leader.join(20)


def test_submitting_from_a_signal_handler(make_pool):
    pool, results, numbers = make_pool(2), {}, itertools.count()

    def submit(signum, frame):
        number = next(numbers)  # a handler may itself be interrupted by the next one, which then submits first
        results[number] = pool.apply_async(t.square, (number,))

    before = signal.signal(signal.SIGALRM, submit)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        for i in range(500):
            assert pool.apply(t.add, (i,)) == i
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert {number: result.get(10) for number, result in results.items()} == {n: n * n for n in range(len(results))}
    assert results


def test_errors_name_no_internal_frames(pool):
    with pytest.raises(ValueError, match="broken") as info:
        pool.apply(t.fail)
    assert re.search(r"pool_tasks.py\", line \d+, in fail", str(info.value.__cause__))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_a_task_left_keeps_no_worker(make_pool, tmp_path, method):
    """It goes on, and the worker leaves: else `join` would last as long, and recycled workers pile up."""
    pool = make_pool(1, maxtasksperchild=1, context=billiard.get_context(method))
    children = [pool.apply(start_a_process) for _ in range(2)]
    pool.close()
    began = time.monotonic()
    pool.join()
    assert time.monotonic() - began < 10
    for child in children:
        assert is_running(child)
        os.kill(child, signal.SIGKILL)


def start_a_process():
    import multiprocessing

    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    return child.pid


_CALLBACK_BLOCKS = """
    import threading, time
    from billiard import Pool
    inside = threading.Event()
    def block(value):
        inside.set()
        threading.Event().wait()
    if __name__ == "__main__":
        pool = Pool(1)
        pool.apply_async(abs, (-1,), callback=block)
        inside.wait()
        {end}
"""


@pytest.mark.parametrize("end", ["pass", "pool.terminate()"])
def test_the_interpreter_exits_though_a_callback_never_returns(script, end):
    code, out = run(script, _CALLBACK_BLOCKS.replace("{end}", end))
    assert (code, out) == (0, "")
