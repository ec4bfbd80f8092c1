"""Workers started for one purpose each: recycling, autoscale, shutdowns, a murdered parent, a broker that goes away."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workers import LiveWorker, PoolKind, alive, wait_until

from redis_server import RedisServer

Within = Callable[..., Any]
Starter = Callable[..., LiveWorker]


@pytest.fixture
def slack_s(kind: PoolKind) -> float:
    """Without an event loop Celery itself looks only every two seconds whether it should stop, and does so twice."""
    return 4.0 if kind.filesystem else 0.0


def test_recycling_by_tasks(start_worker: Starter, within: Within) -> None:
    """Every child does exactly its three tasks, its replacement waits for no timer, its end is no incident."""
    worker = start_worker("-c", "2", "--max-tasks-per-child", "3")
    with within("60 tasks, --max-tasks-per-child 3", 8):
        results = [worker.send("pid") for _ in range(60)]
        pids = Counter(result.get(timeout=60) for result in results)
    assert max(pids.values()) <= 3, pids
    assert len(pids) >= 20
    with within("10 tasks one by one, recycled", 5):
        pids = Counter(worker.call("pid", limit_s=30) for _ in range(10))
    assert max(pids.values()) <= 3, pids
    wait_until(lambda: len(worker.pids()) == 2, 8, "two processes in the pool")
    exits = worker.meeting.lrange(f"{worker.name}:exit", 0, -1)
    assert len(exits) >= 20, "worker_process_shutdown is sent in each recycled child"
    assert worker.complaints() == []


def test_recycling_by_memory(start_worker: Starter, within: Within) -> None:
    """A child that went over 150 MB is replaced after its task; small tasks replace nobody."""
    worker = start_worker("-c", "1", "--max-memory-per-child", "150000")
    small = {worker.call("pid") for _ in range(20)}
    assert len(small) == 1
    with within("replaced after 200 MB", 4):
        assert worker.call("eat", 200) in small
        after = worker.call("pid", limit_s=30)
    assert after not in small
    assert worker.complaints() == []


def test_autoscale(start_worker: Starter, within: Within, key: str) -> None:
    worker = start_worker("--autoscale", "4,1", environment={"AUTOSCALE_KEEPALIVE": "1"})
    with within("autoscale 1 to 4", 12):
        results = [worker.send("hold", key) for _ in range(4)]
        assert len({worker.begun(key, limit_s=20) for _ in results}) == 4
    worker.go(key, 4)
    assert len({result.get(timeout=10) for result in results}) == 4
    with within("autoscale back to 1", 20):
        wait_until(lambda: len(worker.pids()) == 1, 30, "one process left")
    assert worker.call("add", 1, 1) == 2
    assert worker.complaints() == []


def test_autoscale_from_zero(start_worker: Starter, within: Within, key: str) -> None:
    worker = start_worker("--autoscale", "2,0", environment={"AUTOSCALE_KEEPALIVE": "1"})
    with within("autoscale 0 to 1", 12):
        assert worker.call("add", 1, 1, limit_s=30) == 2
    assert worker.complaints() == []


def test_warm_shutdown_when_idle(start_worker: Starter, within: Within, slack_s: float) -> None:
    worker = start_worker("-c", "2")
    assert worker.call("add", 1, 1) == 2
    with within("warm shutdown, idle", 4 + slack_s):
        worker.stop(signal.SIGTERM)
    assert worker.process is not None
    assert worker.process.returncode == 0
    assert worker.complaints() == []


def test_warm_shutdown_finishes_its_task(start_worker: Starter, within: Within, key: str, slack_s: float) -> None:
    worker = start_worker("-c", "2")
    result = worker.send("hold", key)
    pid = worker.begun(key)
    family = worker.family()
    assert worker.process is not None
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in worker.log(), 5, "the worker has heard of its shutdown")
    time.sleep(1)  # long enough for a pool that does not wait to have killed the task
    assert worker.process.poll() is None, "it did not wait for its task"
    with within("warm shutdown after its last task", 4 + slack_s):
        worker.go(key)
        assert result.get(timeout=10) == pid
        worker.process.wait(15)
        wait_until(lambda: not alive(family), 5, "no child is left")
    assert worker.process.returncode == 0
    assert worker.complaints() == []
    told = {entry.split()[0] for entry in worker.meeting.lrange(f"{worker.name}:exit", 0, -1)}
    assert str(pid) in told, "worker_process_shutdown is sent in the child"


def test_warm_shutdowns_under_load_run_each_task_once(
    start_worker: Starter, within: Within, kind: PoolKind, key: str
) -> None:
    """Acknowledged early, as by default: what was begun is not delivered again, and what was not begun is.

    Celery's own pool forgets its tasks at that moment without asking its children, whatever billiard lies beneath: one that a
    child has just begun runs twice.
    """
    worker = start_worker("-c", "2", conf={"worker_prefetch_multiplier": 20})
    total, runs = 150, worker.meeting
    for number in range(total):
        worker.send("counted", key, number, 0.02)
    with within("two warm shutdowns, 150 tasks", 30):
        for at_least in (20, 70):
            wait_until(lambda at_least=at_least: runs.hlen(key) >= at_least, 15, "some of the tasks")
            worker.stop()
            worker.start()
        wait_until(lambda: runs.hlen(key) == total, 20, "all of the tasks")
    worker.stop()
    repeated = {number: count for number, count in runs.hgetall(key).items() if count != "1"}
    assert len(repeated) <= (4 if kind.name == "stock" else 0), repeated
    assert worker.complaints() == []


def test_an_idle_process_that_is_killed_is_told_of(start_worker: Starter) -> None:
    worker = start_worker("-c", "2")
    assert worker.call("add", 1, 1) == 2
    worker.murder(worker.pids()[0])
    wait_until(lambda: "exited with 'signal 9 (SIGKILL)'" in worker.log(), 10, "a line in the log")
    assert worker.call("add", 1, 1) == 2
    assert worker.complaints() == []


def test_soft_shutdown_gives_time(start_worker: Starter, within: Within, slack_s: float) -> None:
    worker = start_worker("-c", "2", conf={"worker_soft_shutdown_timeout": 5.0})
    result = worker.send("slow", 5, 1.0)
    wait_until(lambda: worker.ask("active"), 5, "the task is active")
    with within("soft shutdown with a task of 1 s", 9 + slack_s):
        worker.stop(signal.SIGQUIT)
    assert result.get(timeout=5) == 5
    assert worker.complaints() == []


def test_cold_shutdown_does_not_wait(start_worker: Starter, within: Within, key: str, slack_s: float) -> None:
    worker = start_worker("-c", "2")
    worker.send("hold", key)
    worker.begun(key)
    with within("cold shutdown with a task of 60 s", 4 + slack_s):
        worker.stop(signal.SIGQUIT)
    assert worker.complaints() == []


def test_cold_shutdown_leaves_to_the_broker_what_has_not_begun(start_worker: Starter, key: str) -> None:
    worker = start_worker("-c", "1")
    worker.send("hold", key)
    worker.begun(key)
    waiting = worker.send("pid")
    wait_until(lambda: f"{waiting.id}] received" in worker.log(), 10, "the worker has the second task")
    worker.stop(signal.SIGQUIT)
    assert waiting.state != "FAILURE", waiting.result
    assert worker.complaints() == []


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_murdered_parent_leaves_no_child(start_worker: Starter, within: Within, key: str, busy: bool) -> None:
    worker = start_worker("-c", "2")
    if busy:
        worker.send("hold", key)
        worker.begun(key)
    family = worker.family()
    assert len(family) >= 2
    assert worker.process is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.process.wait()
    try:
        with within(f"kill -9 of the parent, {'busy' if busy else 'idle'}", 5):
            wait_until(lambda: not alive(family), 5, "no child is left")
    finally:
        worker.kill(family)


# kombu 5.7 can trip over its own closed connection when the subscription for remote control is the first to notice that
# the broker has gone; Celery then gives up. The pool has no part in it.
KOMBU_TRIPPED = "Unrecoverable error: AttributeError(\"'NoneType' object has no attribute 'hostname'\")"


@pytest.mark.timeout(300)
def test_server_restart_in_the_middle(
    start_worker: Starter, within: Within, kind: PoolKind, redis_server: RedisServer, tmp_path: Path
) -> None:
    """The broker goes away for a second while 60 tasks are under way; over the filesystem, the result backend does."""
    for attempt in range(5):
        with RedisServer(tmp_path / str(attempt)) as server:
            worker = start_worker("-c", "2", **restart_options(kind, server))
            worker.excused = ("Couldn't ack",)  # a task begun while the broker was away: it will be delivered again
            try:
                with_a_restart(worker, server, within)
            except AssertionError:
                worker.kill()  # before its server goes for good, which would be one more story in its log
                if KOMBU_TRIPPED not in worker.log():
                    raise
                worker.complained = True
                warnings.warn(f"attempt {attempt + 1}: kombu tripped over its closed connection", stacklevel=1)
                continue
            return
    pytest.fail("kombu tripped five times in a row")


def restart_options(kind: PoolKind, server: RedisServer) -> dict[str, Any]:
    if kind.filesystem:
        # By default Celery's children give a result up at the first error of the backend.
        return {"backend": server.url(1), "conf": {"result_backend_always_retry": True}}
    # What was taken and not acknowledged comes back when its time is up; by default that is an hour.
    visible = {"visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    return {"broker": server.url(1), "conf": {"broker_transport_options": visible}}


def with_a_restart(worker: LiveWorker, server: RedisServer, within: Within) -> None:
    results = [worker.send("slow", number, 0.1) for number in range(60)]
    assert results[4].get(timeout=15) == 4
    before = set(worker.visible_pids())
    assert len(before) == 2
    server.restart(down_s=1.0)
    # One message may vanish on its way: Redis has popped it, and kombu's BRPOP never reads the answer. What the worker
    # has received is the pool's to finish, all of it.
    most_vanished = 0 if worker.kind.filesystem else 1
    with within("60 tasks of 0.1 s round a restart", 30):
        wait_until(lambda: len(unfinished(results)) <= most_vanished, 40, "the results")
        wait_until(lambda: not taken(worker, unfinished(results)), 5, "all that was received has its result")
    vanished = unfinished(results)
    assert [result.result for result in results if result not in vanished] == [
        number for number, result in enumerate(results) if result not in vanished
    ]
    worker.connect()
    assert worker.call("add", 1, 1) == 2
    assert set(worker.visible_pids()) == before, "no process was replaced for the broker's sake"
    assert worker.complaints() == []
    worker.stop()


def taken(worker: LiveWorker, results: list[Any]) -> list[Any]:
    log = worker.log()
    return [result for result in results if f"[{result.id}] received" in log]


def unfinished(results: list[Any]) -> list[Any]:
    """Ask the backend, not the subscription: the client's own may have been lost with the server."""
    left = []
    for result in results:
        try:
            if result.backend.get_task_meta(result.id, cache=False)["status"] != "SUCCESS":
                left.append(result)
        except OSError:
            left.append(result)
    return left
