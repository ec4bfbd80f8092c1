"""When the machine has no more: descriptors, processes, memory, room in a pipe; when it stands still; when parts die."""

import ctypes
import errno
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from pathlib import Path

import fault_tasks as t
import pytest

import billiard
from billiard import WorkerLostError
from pool_helpers import kill, wait_until

ROOT = os.geteuid() == 0


def test_no_descriptors_while_a_worker_is_replaced(make_pool):
    pool = make_pool(2)
    pids = {pool.apply(t.identify) for _ in range(10)}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError as exc:
                assert exc.errno == errno.EMFILE
                break
        # the dead one's descriptors become free, so one replacement succeeds; the others are taken
        kill(next(iter(pids)))
        wait_until(lambda: not all(Path(f"/proc/{pid}").exists() for pid in pids), 10)
        while len(taken) < 256:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        assert pool.apply_async(t.add, (1, 2)).get(10) == 3
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_until(lambda: len(pool._pool) == 2, 10)
    assert [pool.apply_async(t.add, (i,)).get(10) for i in range(10)] == list(range(10))


@pytest.mark.parametrize("code", [errno.ENFILE, errno.ENOMEM, errno.EMFILE, errno.EAGAIN])
def test_refused_descriptors_are_asked_for_again(make_pool, monkeypatch, caplog, code):
    from billiard._supervisor import worker_link

    monkeypatch.setattr(logging.getLogger("multiprocessing"), "propagate", True)
    pool = make_pool(2)
    pool.apply(t.identify)
    real, refused = worker_link.open_channel, []

    def refuse(gil_waiters):
        if len(refused) < 4:
            refused.append(1)
            raise OSError(code, os.strerror(code))
        return real(gil_waiters)

    monkeypatch.setattr(worker_link, "open_channel", refuse)
    with pytest.raises(WorkerLostError):
        pool.apply(t.strike, ("SIGKILL",))
    assert pool.apply_async(t.add, (1, 2)).get(10) == 3
    wait_until(lambda: len(pool._pool) == 2 and len(refused) == 4, 10)
    assert caplog.text.count("a worker cannot be started") == 1
    assert os.strerror(code) in caplog.text


def test_what_keeps_a_pool_from_starting_is_the_cause_of_its_error(make_pool, monkeypatch):
    from billiard._supervisor import worker_link

    def refuse(gil_waiters):
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr(worker_link, "open_channel", refuse)
    pool = make_pool(1)
    handle = pool.apply_async(t.add, (1, 2))
    for call in (lambda: handle.get(20), lambda: pool.apply(t.add, (1, 2))):
        with pytest.raises(WorkerLostError, match="no worker could be started") as caught:
            call()
        cause = caught.value.__cause__
        assert isinstance(cause, OSError)
        assert traceback.extract_tb(cause.__traceback__)[-1].name == "refuse"


def test_what_its_caller_was_handling_keeps_its_locals(make_pool, monkeypatch):
    """An error's frames are emptied, lest it keep descriptors; its context is not the pool's."""
    from billiard._supervisor import worker_link

    real, refused = worker_link.open_channel, []

    def refuse_once(gil_waiters):
        if not refused:
            refused.append(gil_waiters)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(gil_waiters)

    def fail():
        told = "in a report of this error"
        raise LookupError(told)

    pool = make_pool(1, threads=False)
    pool.apply(t.identify)
    monkeypatch.setattr(worker_link, "open_channel", refuse_once)
    try:
        fail()
    except LookupError as error:
        with pytest.raises(WorkerLostError):
            pool.apply(t.strike, ("SIGKILL",))
        assert pool.apply(t.add, (1, 2)) == 3
        assert refused
        assert "told" in error.__traceback__.tb_next.tb_frame.f_locals


def run(text, *, prefix=(), within_s=40, **env):
    """Run a program of its own; returns what it printed."""
    path = os.pathsep.join([str(Path(billiard.__file__).parents[1]), str(Path(__file__).parent)])
    done = subprocess.run(
        [*prefix, sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, timeout=within_s,
        env={**os.environ, "PYTHONPATH": path, **env}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_more_processes():
    """fork says EAGAIN in the template; when it no longer does, the pool is whole again."""
    if not ROOT:
        pytest.skip("RLIMIT_NPROC binds other users than root: only root can become one")
    out = run("""
        import os, resource, time
        import fault_tasks as t
        from billiard import Pool
        with Pool(1) as early:  # whatever is imported late is imported now: another user may not read our Python
            lost = early.apply_async(t.strike, ("SIGKILL",))
            lost.wait(10)
            assert not lost.successful()  # its story is told: that imports too
        os.setgid(54321); os.setuid(54321)
        pool = Pool(2)
        template = pool.apply(os.getppid)
        while not all(worker.pid for worker in pool._pool): time.sleep(0.01)
        resource.prlimit(template, resource.RLIMIT_NPROC, (1, 4096))
        lost = pool.apply_async(t.strike, ("SIGKILL",))
        lost.wait(10)
        print(lost.successful(), pool.apply_async(t.add, (1, 2)).get(10))
        end = time.monotonic() + 10
        while pool._engine.core.worker_set._failed_spawns < 4 and time.monotonic() < end: time.sleep(0.01)
        print(len(pool._pool))
        resource.prlimit(template, resource.RLIMIT_NPROC, (4096, 4096))
        end = time.monotonic() + 10
        while len(pool._pool) < 2 and time.monotonic() < end: time.sleep(0.01)
        print(len(pool._pool), pool.map(abs, range(4)))
        pool.terminate(); pool.join()
        """)
    assert out.splitlines() == ["False 3", "1", "2 [0, 1, 2, 3]"]


def test_no_processes_at_all_ends_in_an_error():
    if not ROOT:
        pytest.skip("RLIMIT_NPROC binds other users than root: only root can become one")
    out = run("""
        import os, resource, time
        import fault_tasks as t
        from billiard import Pool, WorkerLostError
        with Pool(1) as early:
            lost = early.apply_async(t.strike, ("SIGKILL",))
            lost.wait(10)
            assert not lost.successful()  # its story is told: that imports too
        os.setgid(54322); os.setuid(54322)
        pool = Pool(1)
        template = pool.apply(os.getppid)
        resource.prlimit(template, resource.RLIMIT_NPROC, (1, 4096))
        pool.apply_async(t.strike, ("SIGKILL",)).wait(10)
        try:
            pool.apply_async(t.add, (1, 2)).get(30)
        except WorkerLostError as exc:
            print("no worker could be started" in str(exc))
        pool.terminate(); pool.join()
        """)
    assert out == "True\n"


def test_a_fork_server_that_cannot_fork(make_pool, monkeypatch, lasting_helpers):
    """It dies of it, before it says which process it forked. That is nobody's result, and the worker is started anew."""
    import multiprocessing.forkserver

    real, refused = multiprocessing.forkserver.read_signed, []

    def refuse(fd):
        if len(refused) < 3:
            refused.append(fd)
            raise EOFError("unexpected EOF")
        return real(fd)

    monkeypatch.setattr(multiprocessing.forkserver, "read_signed", refuse)
    pool = make_pool(1, context=billiard.get_context("forkserver"), threads=False)
    assert pool.apply_async(t.add, (1, 2)).get(10) == 3
    assert len(refused) == 3


def test_a_payload_for_which_a_worker_has_no_memory(make_pool):
    """It dies as it receives it, before it starts; after three workers the call is given up, and the pool lives."""
    pool = make_pool(2, limit_memory, (60 << 20,))
    pool.map(t.identify, range(4), 1)
    with pytest.raises(WorkerLostError) as caught:
        pool.apply(t.echo, (bytearray(150 << 20),))
    assert caught.value.started is False
    assert pool.apply(t.add, (1, 2)) == 3


def limit_memory(more):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_worker_without_descriptors_tells_its_first_error_as_it_is(method):
    """What its traceback takes is not imported only then."""
    out = run(f"""
        import billiard, fault_tasks as t
        with billiard.get_context({method!r}).Pool(1, threads=False) as pool:
            try:
                pool.apply(t.take_all_descriptors)
            except OSError as error:
                print(error.errno, "take_all_descriptors" in str(error.__cause__))
        """)
    assert out.split() == [str(errno.EMFILE), "True"]


def test_a_result_for_which_a_worker_has_no_memory(make_pool):
    pool = make_pool(1, limit_memory, (60 << 20,))
    with pytest.raises(MemoryError):
        pool.apply(bytes, (200 << 20,))
    assert pool.apply(t.add, (1, 2)) == 3


class TooLargeError(Exception):
    pass


def eat_everything():
    hoard, at, size = [None] * (1 << 20), 0, 1 << 22
    while True:
        try:
            hoard[at] = bytes(size)
            at += 1
        except MemoryError:
            if size < 4096:
                raise
            size //= 2


def eat_and_tell():
    try:
        eat_everything()
    except MemoryError as exc:
        raise TooLargeError("it is too large") from exc


@pytest.mark.parametrize(("func", "error"), [(eat_everything, MemoryError), (eat_and_tell, TooLargeError)])
def test_a_task_that_takes_all_the_memory_gets_its_memory_error(make_pool, func, error):
    """Its locals hold all there is, and the error's traceback holds them: nothing would be left to tell of it."""
    pool = make_pool(1, limit_memory, (60 << 20,))
    pid = pool.apply(t.identify)
    for _ in range(3):
        with pytest.raises(error) as caught:
            pool.apply(func)
        assert "in eat_everything" in str(caught.value.__cause__)
    assert pool.apply(t.identify) == pid


@pytest.mark.parametrize("threads", [True, False])
def test_a_full_pipe(make_pool, threads):
    pool = make_pool(1, threads=threads)
    pid = pool.apply(t.identify)
    kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    results = [pool.apply_async(t.echo, (bytes(60_000),)) for _ in range(300)]
    assert time.monotonic() - began < 5, "submitting blocked"
    kill(pid, signal.SIGCONT)
    assert all(len(result.get(20)) == 60_000 for result in results)


def test_a_full_pipe_and_then_death(make_pool, tmp_path):
    pool = make_pool(1)
    pid = pool.apply(t.identify)
    kill(pid, signal.SIGSTOP)
    results = [pool.apply_async(t.echo, (bytes(60_000),)) for _ in range(100)]
    kill(pid)
    assert all(len(result.get(20)) == 60_000 for result in results)


def test_results_that_nobody_reads_block_only_their_workers(make_pool):
    pool = make_pool(2, threads=False)
    results = [pool.apply_async(bytes, (1 << 20,)) for _ in range(40)]
    channels = [worker.link.channel for worker in pool._engine.core.worker_set.workers.values()]
    wait_until(lambda: all(select.select([channel.fd], [], [], 0)[0] for channel in channels))  # and nobody turns
    assert all(len(result.get(20)) == 1 << 20 for result in results)


def test_the_template_is_killed(make_pool):
    pool = make_pool(2)
    before = {pool.apply(t.identify) for _ in range(10)}
    running = pool.apply_async(t.nap, (60,))
    wait_until(running.worker_pids)
    kill(pool.apply(os.getppid))
    with pytest.raises(WorkerLostError):
        running.get(10)
    assert pool.apply_async(t.add, (1, 2)).get(10) == 3
    wait_until(lambda: len(pool._pool) == 2)
    assert before.isdisjoint(int(handle) for handle in pool._pool)


def test_the_template_is_killed_again_and_again(make_pool):
    pool = make_pool(2)
    for i in range(4):
        kill(pool.apply(os.getppid))
        for _ in range(3):
            result = pool.apply_async(t.add, (i, 1))
            result.wait(10)
            if result.successful():
                break
        assert result.get(0) == i + 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [SystemExit, ValueError, KeyboardInterrupt])
def test_an_exception_in_the_supervisor_thread(make_pool, error):
    """Thrown from outside (as some watchdogs do). It goes on: callbacks come though nobody waits."""
    pool = make_pool(2)
    pool.apply(t.identify)
    thread = pool._engine.driver.thread
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error))
    results = [pool.apply_async(t.nap, (0.01, i)) for i in range(20)]
    assert [result.get(10) for result in results] == list(range(20))
    with pytest.raises(WorkerLostError):
        pool.apply(t.strike, ("SIGKILL",))
    assert pool.map(t.echo, range(4), 1) == [0, 1, 2, 3]
    told = threading.Event()
    pool.apply_async(t.echo, (1,), callback=lambda value: told.set())
    assert told.wait(10)
    assert thread.is_alive()


def test_a_clock_that_jumps(make_pool, monkeypatch):
    pool = make_pool(1)
    result = pool.apply_async(t.nap, (0.3, "in time"), timeout=5, soft_timeout=4)
    for jump in (1e9, -1e9):
        real = time.time
        monkeypatch.setattr(time, "time", lambda real=real, jump=jump: real() + jump)
    assert result.get(10) == "in time"


def test_suspension_is_not_running_time():
    """All the pool's processes stopped for longer than the limit: no call is timed out for it."""
    path = os.pathsep.join([str(Path(billiard.__file__).parents[1]), str(Path(__file__).parent)])
    text = """
        import os, time
        import fault_tasks as t
        from billiard import Pool
        pool = Pool(2)
        template = pool.apply(os.getppid)
        pids = set()
        while len(pids) < 2: pids.add(pool.apply(os.getpid))
        results = [pool.apply_async(t.nap, (0.8, i), timeout=1.6) for i in range(2)]
        while not all(result.worker_pids() or result.ready() for result in results): time.sleep(0.001)
        print(os.getpid(), template, *pids, flush=True)
        print([r.get(20) for r in results], flush=True)
        pool.terminate(); pool.join()
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    try:
        pids = list(map(int, process.stdout.readline().split()))
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(10)  # the suspension
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert out == "[0, 1]\n"


def test_no_dev_shm_and_a_read_only_tmp():
    """Neither is needed: seen by what a pool's life opens."""
    out = run("""
        import sys
        opened = []
        sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event in ("open", "os.mkdir", "shm_open") else None)
        import os, fault_tasks as t
        from billiard import Pool
        with Pool(2) as pool:
            pool.map(abs, range(10), 1)
            inside = pool.apply(lambda: [f for f in os.listdir("/proc/self/fd")])
            links = pool.apply(lambda: [os.readlink(f"/proc/self/fd/{f}") for f in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{f}")])
        # the checkout itself may lie under /tmp
        print([f for f in opened + links if f.startswith(("/dev/shm", "/tmp")) and not f.endswith((".py", ".pyc"))])
        """)  # noqa: E501 - a line of the program
    assert out == "[]\n"


def test_no_thread_of_ours_imports():
    """A second pool's template is forked as the first one's threads begin. What a thread is importing at that moment never
    arrives in the template: its workers hung on their first `import logging`."""
    out = run("""
        import sys, threading
        imported = []
        sys.addaudithook(lambda event, args: imported.append(args[0]) if event == "import"
            and threading.current_thread() is not threading.main_thread() else None)
        sys.setswitchinterval(1e-6)
        from billiard.pool import Pool

        def load(value):
            import logging
            return logging.getLogger("x").name

        pools = [Pool(1) for _ in range(6)]
        print([pool.apply_async(load, (1,), callback=load).get(15) for pool in pools])
        for pool in pools: pool.close()
        for pool in pools: pool.join()
        print(imported)
        """)
    assert out.splitlines() == [str(["x"] * 6), "[]"]


def test_threads_cannot_be_started(monkeypatch, make_pool):
    """`can't start new thread` at construction is an error of the constructor, and leaves nothing."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    from billiard.pool import Pool

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        Pool(2)
    monkeypatch.undo()


@pytest.mark.parametrize("refused", ["making", "watching"])
def test_no_poll_set(monkeypatch, refused):
    """No descriptor is left for it, or this user watches too many: an error of the constructor, and leaves nothing."""
    real = select.epoll

    class Refusing:
        def __init__(self):
            if refused == "making":
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self.fileno = real().fileno

        def register(self, fd, mask):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    from billiard.pool import Pool

    before = sorted(Path("/proc/self/fd").iterdir())
    monkeypatch.setattr(select, "epoll", Refusing)
    with pytest.raises(OSError, match=r"Too many open files|No space left"):
        Pool(2)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
