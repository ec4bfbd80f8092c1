"""Tasks, hooks and programs that get in a pool's way: with stray bytes, children, signals, slow ends."""

import contextlib
import fcntl
import functools
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from multiprocessing import Process
from multiprocessing.connection import wait
from pathlib import Path

import pool_tasks as t
import pytest

import billiard
from billiard import SoftTimeLimitExceeded, WorkerLostError
from billiard._wire.channel import _PIPE_BUFFER as PIPE_BUFFER
from billiard.exceptions import PayloadError, Terminated, TimeLimitExceeded
from billiard.pool import Pool
from pool_helpers import WITHIN_S, is_running, kill, wait_until


def pid_of(_):
    return os.getpid()


def stray(text):
    """Write into the pipe that results go through; by its size it is told from those that belong to others."""
    for fd in (int(entry.name) for entry in Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            written = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
            if written and fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) == PIPE_BUFFER:
                os.write(fd, text)
    return 7


def echo_or_stray(x, text=None):
    if text is not None:
        stray(text)
    return x


@pytest.mark.parametrize("text", [b"\n", b"x", b"Btext", b"here is a log line gone astray, long enough\n", b"\x02\x00", b"\t"])
def test_stray_bytes_cost_one_task(make_pool, text):
    pool = make_pool(1)
    pool.apply(t.pid)
    with pytest.raises(WorkerLostError):
        pool.apply_async(stray, (text,)).get(WITHIN_S)
    assert pool.apply_async(t.add, (1, 2)).get(WITHIN_S) == 3


def test_results_before_stray_bytes_are_kept(make_pool):
    """All of it is read at once, late."""
    pool = make_pool(1, threads=False)
    for i in range(300):
        pool.apply(echo_or_stray, (i,))  # it is brief: many are given at a time
    handles = [pool.apply_async(echo_or_stray, (i,)) for i in range(20)]
    lost = pool.apply_async(echo_or_stray, (20, b"\nhello, a log line that went astray\n"))
    pool.turn()
    worker = lost.holder
    wait_until(lambda: worker.scoreboard.read().current == lost.number)
    kept = [handle.get(WITHIN_S) for handle in handles]
    assert kept == list(range(20))
    with pytest.raises(WorkerLostError):
        lost.get(WITHIN_S)


def leave_a_process():
    Process(target=time.sleep, args=(1000,)).start()
    return os.getpid()


def test_a_worker_that_was_told_to_leave_leaves_though_a_task_left_a_process(make_pool):
    pool = make_pool(1)
    worker = pool.apply(leave_a_process)
    os.kill(worker, signal.SIGTERM)
    assert pool.apply_async(t.pid).get(WITHIN_S) != worker
    wait_until(lambda: not is_running(worker))


def raise_value_error(pid, status):
    raise ValueError


def test_a_hook_that_raises_keeps_no_worker(make_pool, tmp_path):
    pool = make_pool(1, on_process_exit=raise_value_error)
    pool.apply(t.stay, (tmp_path / "log", 3600))
    pool.close()
    began = time.monotonic()
    pool.join()
    assert time.monotonic() - began < 10


def returns_in_a_child(path):
    child = os.fork()
    if child == 0:
        sys.exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def raises_in_a_child():
    child = os.fork()
    if child == 0:
        raise ValueError
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_the_status_of_a_tasks_child_is_its_own(make_pool):
    pool = make_pool(1)
    assert pool.apply(returns_in_a_child, (None,)) == 3
    assert pool.apply(raises_in_a_child) == 1


def comes_back_twice_at_the_limit():
    """The child comes back too, and no descriptor was free when it was made."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    child = os.fork()
    for fd in taken:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if child:
        os.waitpid(child, 0)
        return "the worker's value"
    return "the child's value"


def test_a_child_that_comes_back_is_no_worker_where_descriptors_are_out(make_pool):
    pool = make_pool(1)
    assert pool.apply(comes_back_twice_at_the_limit) == "the worker's value"
    assert pool.apply(t.add, (1, 2)) == 3


class SlowEnd:
    def __init__(self, seconds):
        self.seconds = seconds
        self.block = bytes(100)

    def __del__(self):
        time.sleep(self.seconds)

    def __reduce__(self):
        return str, ("told",)


def test_a_results_slow_end_holds_up_nobody_else(make_pool):
    pool = make_pool(2)
    pool.map(pid_of, range(50), chunksize=1)
    slow = pool.apply_async(SlowEnd, (1.0,))
    began = time.monotonic()
    assert pool.map(t.echo, range(100), chunksize=1) == list(range(100))
    assert time.monotonic() - began < 0.9
    assert slow.get(WITHIN_S) == "told"


def test_what_a_stopped_worker_holds_goes_to_another(make_pool):
    pool = make_pool(2)
    pool.map(t.echo, range(2000), chunksize=1)  # they are brief: many are given at a time
    stopped = pool._pool[0].pid
    os.kill(stopped, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert pool.map_async(t.echo, range(100), chunksize=1).get(WITHIN_S) == list(range(100))
        assert [pool.apply_async(t.echo, (i,)).get(WITHIN_S) for i in range(5)] == list(range(5))
    finally:
        kill(stopped, signal.SIGCONT)
    wait_until(lambda: stopped in pool.map(pid_of, range(50), chunksize=1))


def interrupted_twice(path):
    """Goes on after each."""
    for at in range(2):
        try:
            t.note(path, f"begun {at}")
            t.snooze(30)
        except SoftTimeLimitExceeded:
            t.note(path, f"struck {at}")
    return "went on"


def test_a_call_can_be_interrupted_more_than_once(make_pool, tmp_path):
    pool, log = make_pool(1), str(tmp_path / "log")
    handle = pool.apply_async(interrupted_twice, (log,), soft_timeout=1.0)
    wait_until(lambda: t.noted(log) == ["begun 0"])
    handle.terminate(signal.SIGUSR1)
    wait_until(lambda: "begun 1" in t.noted(log))
    assert handle.get(WITHIN_S) == "went on"  # by its own limit, which that has not used up
    assert t.noted(log) == ["begun 0", "struck 0", "begun 1", "struck 1"]


def test_a_call_that_waits_in_a_worker_never_starts_if_it_is_interrupted(make_pool):
    """The signal was kept for it in that worker, from which it was taken back, and another one ran it to its end."""
    pool = make_pool(1)
    pool.map(t.nap, [0] * 100, 1)
    running, held = pool.apply_async(t.nap, (1, "mine")), pool.apply_async(t.nap, (0, "not mine"))
    wait_until(running._running, turn=pool.turn)  # from then on it is held, for ten milliseconds
    held.terminate(signal.SIGUSR1)
    with pytest.raises(Terminated):
        held.get(WITHIN_S)
    assert running.get(WITHIN_S) == "mine"


def test_a_map_of_short_items_can_be_interrupted(make_pool):
    pool = make_pool(1)
    result = pool.map_async(t.echo, range(20_000_000 // 10), chunksize=20_000_000)
    wait_until(result.worker_pids)
    result.terminate(signal.SIGUSR1)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(WITHIN_S)


def test_no_limit_strikes_a_call_whose_result_nobody_takes_yet(make_pool):
    told = []
    pool = make_pool(1, threads=False)
    pool.apply(t.pid)
    hear = {"timeout_callback": lambda **which: told.append(which)}
    handle = pool.apply_async(bytes, (64 << 20,), timeout=0.5, soft_timeout=0.4, **hear)
    pool.turn()
    worker = next(iter(pool._engine.core.worker_set.workers.values()))
    wait([worker.link.channel.fd], WITHIN_S)  # it sends
    time.sleep(0.7)  # the one who drives comes after the limit
    assert len(handle.get(WITHIN_S)) == 64 << 20
    assert not told


def test_one_who_asks_for_descriptors_keeps_no_call_waiting(make_pool):
    pool = make_pool(2)
    pool.apply(t.pid)
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            wait(pool.process_sentinels, timeout=0.0)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            pool.apply_async(t.add, (1, 2)).get(5)
    finally:
        stop.set()
        asking.join()


@pytest.fixture
def program(script):
    """Run a program to its end; what it prints."""

    def run(text, prints=True):
        # some fork with the pool's threads about
        process = script(
            text, warnings="ignore::DeprecationWarning", stdout=subprocess.PIPE if prints else subprocess.DEVNULL
        )
        return process.communicate(timeout=WITHIN_S)[0]

    return run


def test_functions_that_hold_much_travel_by_value_everywhere(program):
    """What travels for a whole map, or with an error, has no room beside the pickle."""
    assert program("""
        import pickle
        from billiard import Pool

        class Block:
            def __init__(self, memory): self.memory = memory
            def __reduce_ex__(self, protocol): return Block, (pickle.PickleBuffer(self.memory),)

        with Pool(1) as pool:
            block = Block(bytearray(b"abc" * 20_000))
            class Late(Exception): pass
            def late(i):
                if i < 0: raise Late(block)
                return block.memory[i]
            print(pool.apply(late, (1,)), pool.map(late, [0, 1]), list(pool.imap(lambda i: block.memory[i], [2])))
            try: pool.map(late, [-1])
            except Late as exc: print(len(exc.args[0].memory))
            print(pool.apply(lambda first, late: (len(first.memory), late.args), (block, Late(5))))
        """) == "98 [97, 98] [99]\n60000\n(60000, (5,))\n"  # fmt: skip


def test_a_cached_function_travels_as_it_is_at_the_call(program):
    assert program("""
        import functools
        from billiard import Pool

        @functools.lru_cache
        def renamed(): return "old"

        with Pool(1) as pool:
            print(pool.apply(renamed))
            @functools.lru_cache(maxsize=5)
            def renamed(): return "new"
            @functools.cache
            def late(x): return 2 * x
            print(pool.apply(renamed), pool.apply(late, (3,)), pool.map(late, [4]))
        """) == "old\nnew 6 [8]\n"  # fmt: skip


def test_lazy_objects_in_main_are_left_alone(program):
    assert program("""
        from billiard import Pool

        class Lazy:
            @property
            def __class__(self):
                print("made")
                raise ValueError
        lazy = Lazy()

        def f(x): return x
        with Pool(1) as pool: print(pool.map(f, [1]))
        """) == "[1]\n"  # fmt: skip


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_programs_forked_child_ends_no_worker_of_its_parent_and_may_make_a_pool(program, method):
    assert program(f"""
        import os, sys, time, billiard
        def nap(x):
            time.sleep(x)
            return "done"
        if __name__ == "__main__":
            context = billiard.get_context({method!r})
            pool = context.Pool(1)
            handle = pool.apply_async(nap, (0.5,))
            while not handle.accepted():
                time.sleep(0.01)
            child = os.fork()
            if child == 0:
                with context.Pool(1) as own:
                    sys.exit(own.apply(len, ("abc",)))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), handle.get(8))
            pool.terminate()
            pool.join()
        """) == "3 done\n"  # fmt: skip


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(("limit_s", "error"), [(None, "SystemExit"), (0.2, "SoftTimeLimitExceeded")])
def test_a_signal_that_comes_while_a_task_forks_strikes_after_the_fork(program, tmp_path, method, limit_s, error):
    """It waits, blocked, for the end of the fork: a hook, where Python drops what is raised."""
    log = tmp_path / "log"
    assert program(f"""
        import os, signal, sys, time, billiard
        forking = False
        def before_fork():  # after the pool's own, since it is registered earlier
            if forking:
                if not {limit_s}: os.kill(os.getpid(), signal.SIGTERM)
                while not signal.sigpending(): time.sleep(0.001)
        os.register_at_fork(before=before_fork)
        def task():
            global forking
            forking = True
            try:
                if not os.fork(): os._exit(0)
                time.sleep(20)
            except BaseException as exc:
                line = exc.__traceback__.tb_lineno - sys._getframe().f_code.co_firstlineno
                with open({str(log)!r}, "w") as log: print(type(exc).__name__, line, file=log)
        if __name__ == "__main__":
            with billiard.get_context({method!r}).Pool(1) as pool:
                pool.apply_async(task, soft_timeout={limit_s}).wait()
        """) == ""  # fmt: skip
    assert log.read_text() == f"{error} 4\n"  # at the fork itself


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_a_daemon_without_standard_descriptors_writes_harms_no_task(tmp_path, method):
    """Its pool's descriptors have their numbers. A worker's channel and scoreboard must not."""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(textwrap.dedent(f"""
        import contextlib, os, subprocess, billiard
        def complain(number):
            for fd in (1, 2):
                os.write(fd, b"a warning of some library in C that is long enough\\n")
            held = [os.readlink(f"/proc/self/fd/{{fd}}").partition(":")[0] for fd in range(3)]
            return held, subprocess.run(["cat"], timeout=10).returncode, os.getpid()
        if __name__ == "__main__":
            with billiard.get_context({method!r}).Pool(1) as pool:
                told = [pool.apply_async(complain, (number,)).get(10) for number in range(3)]
            with open({str(log)!r}, "w") as log:
                same = len({{pid for held, status, pid in told}}) == 1
                print(same, *{{name for held, status, pid in told for name in held}} & {{"/memfd", "socket"}}, file=log)
        """))  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path(billiard.__file__).parents[1])}
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, str(script)], env=env, timeout=60, check=False
    )
    assert done.returncode == 0
    assert log.read_text() == "True\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_killed_programs_forked_child_keeps_no_worker(program, tmp_path, method):
    log = tmp_path / "pids"
    program(f"""
        import os, signal, time, billiard
        if __name__ == "__main__":
            pool = billiard.get_context({method!r}).Pool(1)
            handle = pool.apply_async(time.sleep, (60,))
            while not handle.worker_pids():
                time.sleep(0.01)
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            open({str(log)!r}, "w").write(f"{{handle.worker_pids()[0]}} {{child}}")
            os.kill(os.getpid(), signal.SIGKILL)
        """, prints=False)  # fmt: skip
    worker, child = map(int, log.read_text().split())
    try:
        wait_until(lambda: not is_running(worker), 5)
    finally:
        kill(child)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_limits_strike_while_a_worker_starts_that_is_given_much(program, method):
    """More than a pipe takes, while the new interpreter is busy with the program's own imports."""
    assert program(f"""
        import os, signal, sys, time, billiard
        if __name__ != "__main__" and os.environ.get("SLOW"):
            time.sleep(3)
        def known(many): pass
        if __name__ == "__main__":
            context = billiard.get_context({method!r})
            pool = context.Pool(2, initializer=known, initargs=(bytes(1_000_000),))
            pids = set()
            while len(pids) < 2: pids.add(pool.apply(os.getpid))
            handle = pool.apply_async(time.sleep, (60,), timeout=0.5)
            while not handle.worker_pids(): time.sleep(0.01)
            os.environ["SLOW"] = "1"
            os.kill(*pids.difference(handle.worker_pids()), signal.SIGKILL)
            try: handle.get()
            except billiard.TimeLimitExceeded as exc: print(exc.runtime_s < 1.5)
            pool.terminate()
            pool.join()
        """) == "True\n"  # fmt: skip


def test_who_is_told_of_a_workers_end_was_told_of_it_before(make_pool):
    events = []
    pool = make_pool(
        3, on_process_up=lambda worker: events.append(("up", worker.pid)),
        on_process_down=lambda pid, status: events.append(("down", pid)), maxtasksperchild=1,
    )  # fmt: skip
    pool.apply(t.pid)
    pool.grow(1)
    pool.shrink(1)
    pool.close()
    pool.join()
    for pid in {pid for _, pid in events}:
        assert [kind for kind, of in events if of == pid] == ["up", "down"]


def test_apply_takes_a_slot_too(make_pool):
    class Counting(threading.Semaphore):
        taken = most = 0

        def acquire(self, *args, **kwargs):
            got = super().acquire(*args, **kwargs)
            self.taken += got
            self.most = max(self.most, self.taken)
            return got

        def release(self, n=1):
            self.taken -= n
            super().release(n)

    slots = Counting(1)
    pool = make_pool(2, putlocks=True, semaphore=slots)
    threads = [threading.Thread(target=pool.apply, args=(t.nap, (0.1,))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: slots.taken == 0)
    assert slots.most == 1


def test_defaults_that_are_set_later_hold_for_every_call(make_pool):
    pool = make_pool(1)
    pool.timeout = 0.2
    for submit in (pool.apply, lambda *call: pool.apply_async(*call).get(WITHIN_S)):
        with pytest.raises(TimeLimitExceeded) as caught:
            submit(t.nap, (60,))
        assert caught.value.args == (0.2,)
    pool.timeout = None
    assert pool.apply(t.nap, (0.3, "slept")) == "slept"


def stops(x):
    return next(iter([])) if x == 2 else x


@pytest.mark.parametrize("how", ["imap", "imap_unordered"])
def test_a_tasks_stop_iteration_is_not_the_end(pool, how):
    results, got = getattr(pool, how)(stops, range(5)), []
    while True:
        try:
            got.append(next(results))
        except StopIteration:
            break
        except RuntimeError as exc:
            got.append(type(exc.__cause__))
    assert sorted(got, key=str) == [0, 1, 3, 4, StopIteration]


class Leaves:
    def __reduce__(self):
        return sys.exit, (5,)


def test_a_result_cannot_end_the_caller(pool):
    told = []
    handle = pool.apply_async(Leaves, callback=told.append, error_callback=told.append)
    with pytest.raises(PayloadError):
        handle.get(WITHIN_S)
    wait_until(lambda: told)
    assert isinstance(told[0].exception, PayloadError)
    results = pool.imap(functools.partial(_leaves_at, 1), range(3))
    assert next(results) == 0
    with pytest.raises(PayloadError):
        next(results)
    assert next(results) == 2
    with pytest.raises(PayloadError):
        pool.map(functools.partial(_leaves_at, 0), range(1))


def _leaves_at(at, x):
    return Leaves() if x == at else x


def test_callbacks_run_where_no_thread_can_be_made(make_pool, monkeypatch):
    pool, told = make_pool(1), []
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.endswith("-callbacks"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert pool.apply_async(t.add, (1, 2), callback=told.append).get(WITHIN_S) == 3
    wait_until(lambda: told == [3])
    pool.apply_async(t.add, (3, 4), callback=told.append)
    pool.close()
    pool.join()
    assert told == [3, 7]


def test_limits_strike_though_the_template_is_stopped(make_pool):
    pool = make_pool(1)
    pool.apply(t.pid)
    [template] = pool._engine.processes.launcher._pids
    os.kill(template, signal.SIGSTOP)
    with pytest.raises(TimeLimitExceeded):
        pool.apply_async(t.nap, (60,), timeout=0.2).get(WITHIN_S)
    os.kill(template, signal.SIGSTOP)
    began = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - began < 3


def test_who_adopts_a_dead_templates_workers_reaps_them(program):
    assert program("""
        import contextlib, ctypes, os, signal
        from pathlib import Path
        from billiard import Pool, WorkerLostError
        PR_SET_CHILD_SUBREAPER = 36
        assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        pool = Pool(3)
        pids = [worker.pid for worker in pool._pool]
        os.kill(pool._engine.processes.launcher._pids[-1], signal.SIGKILL)
        while pool._pool[0].pid in pids:
            with contextlib.suppress(WorkerLostError): pool.apply(abs, (1,))  # a worker may be on it as it dies
        pool.close()
        pool.join()
        print([pid for pid in pids if Path(f"/proc/{pid}").exists()])
        """).endswith("\n[]\n")  # fmt: skip


def test_who_adopts_the_workers_of_an_abandoned_pool_reaps_them(program):
    assert program("""
        import ctypes, gc
        from pathlib import Path
        from billiard import Pool
        PR_SET_CHILD_SUBREAPER = 36
        assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        pool = Pool(3, threads=False)
        pids = [worker.pid for worker in pool._pool]
        del pool
        gc.collect()
        print([pid for pid in pids if Path(f"/proc/{pid}").exists()])
        """) == "[]\n"  # fmt: skip


def test_an_adopted_worker_is_reaped_that_ends_late(make_pool):
    """On a loaded machine it may take a while to die, and the pool's end was the last look."""
    pool = make_pool(1)
    orphan = os.fork()
    if orphan == 0:
        time.sleep(0.3)
        os._exit(0)
    pool._engine.processes._orphans.append(orphan)
    pool.close()
    pool.join()
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan, os.WNOHANG)


def test_green_programs_are_told_which_context_works(monkeypatch):
    def fork():
        raise AssertionError("its greenlets would run in the template")

    fork.__module__ = "gevent.os"
    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(RuntimeError, match=r"gevent.*fork.*forkserver"):
        Pool(1)


def test_programs_without_any_poll_are_told_so(program):
    assert program("""
        import select
        del select.epoll, select.poll  # as eventlet does
        import billiard.pool
        try: billiard.pool.Pool(1)
        except RuntimeError as exc: print("eventlet" in str(exc))
        """) == "True\n"  # fmt: skip


def test_a_copy_for_which_there_is_no_memory_is_a_refused_call(program, tmp_path):
    assert program(f"""
        import resource
        from pathlib import Path
        from billiard import Pool
        import pickle, sys, time

        class Block:
            def __init__(self, memory): self.memory = memory
            def __reduce_ex__(self, protocol): return Block, (pickle.PickleBuffer(self.memory),)
        def last(block):
            Path({str(tmp_path / "ran")!r}).write_text(str(block.memory[-1]))
        with Pool(1) as pool:
            pool.apply(abs, (1,))
            block = Block(bytearray(200 << 20))
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (50 << 20), -1))
            try: pool.apply_async(last, (block,))
            except MemoryError: print("refused")
            block.memory[-1] = 77
            print(pool.apply(abs, (-2,)))
        """) == "refused\n2\n"  # fmt: skip
    assert not (tmp_path / "ran").exists()
