"""One worker per pool lives through every kind of task and signal, in file order; each next step shows it is well."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from workers import LiveWorker, PoolKind, alive, wait_until

Within = Callable[..., Any]


@pytest.fixture(scope="module")
def serving(kind: PoolKind) -> list[LiveWorker]:
    """The worker that serves this kind now; empty after a step it did not survive: the next step gets a new one."""
    return []


@pytest.fixture
def worker(serving: list[LiveWorker], start_worker: Callable[..., LiveWorker]) -> Iterator[LiveWorker]:
    """After each step two processes serve, and the log holds no alarm and no exit status that was not ordered."""
    if not serving:
        serving.append(start_worker("-c", "2"))
    worker = serving.pop()
    yield worker
    try:
        assert worker.process is not None
        assert worker.process.poll() is None, f"the worker died:\n{worker.log()[-3000:]}"
        assert worker.call("add", 1, 1) == 2
        wait_until(lambda: len(worker.pids()) == 2, 8, "two processes in the pool")
        assert worker.complaints() == []
    except BaseException as exc:
        exc.add_note(f"stacks of the worker: {worker.cry()}")
        worker.kill()
        worker.complained = True
        raise
    serving.append(worker)


def test_first_result(worker: LiveWorker, within: Within) -> None:
    with within("first result", 3):
        assert worker.call("add", 2, 3) == 5


def test_results(worker: LiveWorker, within: Within) -> None:
    with within("200 results", 5):
        results = [worker.send("add", number, number) for number in range(200)]
        assert [result.get(timeout=10) for result in results] == [2 * number for number in range(200)]


def test_errors(worker: LiveWorker, within: Within) -> None:
    with within("errors", 3):
        assert worker.error("fail", "plainly") == ("ValueError", "asked to fail: plainly")
        # What cannot be rebuilt from its arguments, Celery itself wraps; the name and the story must come through.
        name, text = worker.error("fail", "two")
        assert "TwoArgumentsError" in f"{name} {text}"
        name, text = worker.error("fail", "unencodable")
        assert "Encod" in name or "JSON" in text


def test_system_exit(worker: LiveWorker, within: Within) -> None:
    worker.order("exitcode 3")
    with within("SystemExit in a task", 3):
        name, text = worker.error("fail", "exit")
        assert name == "WorkerLostError", text
        assert worker.call("add", 1, 2) == 3


def test_soft_limit_is_caught(worker: LiveWorker, key: str, within: Within) -> None:
    result = worker.send("soft", key)
    worker.begun(key)
    with within("soft limit of 0.5 s", 2):
        assert result.get(timeout=20) == "caught"


def test_hard_limit_with_signals_blocked(worker: LiveWorker, key: str, within: Within) -> None:
    worker.order("signal 9 (SIGKILL)")
    result = worker.send("hard", key)
    victim = worker.begun(key)
    process = next(process for process in worker.family() if process.pid == victim)
    with within("hard limit of 1 s, signals blocked", 3):
        value = result.get(timeout=20, propagate=False)
        assert type(value).__name__ == "TimeLimitExceeded", value
        wait_until(lambda: not alive([process]), 3, "the overdue process is gone")


def test_os_exit(worker: LiveWorker, within: Within) -> None:
    worker.order("exitcode 7")
    with within("os._exit in a task", 3):
        name, text = worker.error("die", 7)
        assert name == "WorkerLostError"
        assert "exitcode 7" in text


def test_os_exit_with_status_zero(worker: LiveWorker, within: Within) -> None:
    with within("os._exit(0) in a task", 3):
        name, _ = worker.error("die", 0)
        assert name == "WorkerLostError"


def test_segmentation_fault(worker: LiveWorker, within: Within) -> None:
    worker.order("signal 11 (SIGSEGV)")
    with within("SIGSEGV in a task", 3):
        name, text = worker.error("die", -int(signal.SIGSEGV))
        assert name == "WorkerLostError"
        assert "SIGSEGV" in text


def test_kill_a_busy_child(worker: LiveWorker, key: str, within: Within) -> None:
    """Its task is lost and says so; the task on the other child does not notice."""
    doomed, other = worker.send("hold", key + "a"), worker.send("hold", key + "b")
    victim = worker.begun(key + "a")
    survivor = worker.begun(key + "b")
    with within("kill -9 of a busy child", 3):
        worker.murder(victim)
        value = doomed.get(timeout=20, propagate=False)
    assert type(value).__name__ == "WorkerLostError"
    assert "SIGKILL" in str(value)
    worker.go(key + "b")
    assert other.get(timeout=10) == survivor


def test_kill_idle_children(worker: LiveWorker, within: Within) -> None:
    before = worker.pids()
    with within("kill -9 of idle children, 20 results", 8):
        for pid in before:
            worker.murder(pid)
        results = [worker.send("add", number, 1) for number in range(20)]
        assert [result.get(timeout=15) for result in results] == [number + 1 for number in range(20)]
    wait_until(lambda: len(set(worker.pids()) - set(before)) == 2, 8, "two new processes")


def test_a_result_sent_just_before_death_is_kept(worker: LiveWorker, within: Within) -> None:
    """Kill whichever process answered, at once, 20 times: the answer stands, and the next call is served."""
    with within("20 kills right after a result", 40):
        for number in range(20):
            victim = worker.call("pid", limit_s=15)
            if victim in {process.pid for process in worker.family()}:
                worker.murder(victim)
            assert worker.call("add", number, 1, limit_s=15) == number + 1


def test_revoke_with_terminate(worker: LiveWorker, key: str, within: Within) -> None:
    result = worker.send("hold", key)
    victim = worker.begun(key)
    process = next(process for process in worker.family() if process.pid == victim)
    with within("revoke(terminate=True)", 3):
        result.revoke(terminate=True)
        wait_until(lambda: not alive([process]), 3, "the revoked task's process is gone")
        wait_until(lambda: result.state == "REVOKED", 3, "REVOKED")


def test_revoke_with_sigkill(worker: LiveWorker, key: str, within: Within) -> None:
    result = worker.send("hold", key)
    worker.begun(key)
    with within("revoke(terminate=True, SIGKILL)", 3):
        result.revoke(terminate=True, signal="SIGKILL")
        wait_until(lambda: result.state == "REVOKED", 3, "REVOKED")


def test_redelivery(worker: LiveWorker, key: str, within: Within) -> None:
    result = worker.send("late", key)
    victim = worker.begun(key)
    with within("acks_late: kill -9 to the second result", 3):
        worker.murder(victim)
        assert result.get(timeout=30) == 2


def test_process_and_pool_inside_a_task(worker: LiveWorker, key: str, within: Within) -> None:
    with within("a process and a pool inside a task", 10):
        assert worker.call("nest", key, limit_s=30) == [1, 4, 9, 16]
    assert worker.begun(key) == 49


def test_ten_megabytes(worker: LiveWorker, within: Within) -> None:
    size = 10 << 20
    with within("10 MB argument, 10 MB result", 8):
        assert worker.call("doubled", "y" * size, limit_s=30) == 2 * size
        assert worker.call("big", size, limit_s=30) == "x" * size


def test_grow_and_shrink(worker: LiveWorker, key: str, within: Within) -> None:
    with within("grow by 2, four tasks at once", 8):
        worker.client.control.pool_grow(2, destination=[f"{worker.name}@live"])
        results = [worker.send("hold", key) for _ in range(4)]
        assert len({worker.begun(key, limit_s=15) for _ in results}) == 4
    worker.go(key, 4)
    assert len({result.get(timeout=10) for result in results}) == 4
    with within("shrink by 2", 8):
        worker.client.control.pool_shrink(2, destination=[f"{worker.name}@live"])
        wait_until(lambda: len(worker.pids()) == 2, 15, "two processes left")
    assert worker.call("add", 4, 4) == 8


def test_stats(worker: LiveWorker) -> None:
    stats = worker.ask("stats")
    assert stats["pid"] == worker.pid
    assert stats["pool"]["max-concurrency"] == 2
    assert sorted(stats["pool"]["processes"]) == sorted(set(stats["pool"]["processes"]))
    assert set(stats["pool"]["processes"]) <= {process.pid for process in worker.family()}
    assert stats["total"]["add"] >= 1


def test_init_signal_came_in_every_child(worker: LiveWorker) -> None:
    told = {int(pid) for pid in worker.meeting.lrange(f"{worker.name}:init", 0, -1)}
    assert set(worker.pids()) <= told
    assert os.getpid() not in told


def test_process_titles(worker: LiveWorker) -> None:
    served = set(worker.pids())
    titles = [" ".join(process.cmdline()) for process in worker.family() if process.pid in served]
    assert len(titles) == 2
    assert all("celeryd" in title and "PoolWorker" in title for title in titles), titles


def test_idle_worker_is_quiet(worker: LiveWorker) -> None:
    """No process of the pool spins: over a second the children together use under a tenth of a core."""
    family = [process for process in worker.family() if process.pid in set(worker.pids())]
    start = sum(sum(process.cpu_times()[:2]) for process in family)
    time.sleep(1)
    used = sum(sum(process.cpu_times()[:2]) for process in family) - start
    assert used <= 0.1, f"{used:.2f} s of CPU in one idle second"
