"""Thousands of tasks while a child is killed every second: every one ends or is redelivered, and the parent stays flat.

`--soak-tasks 20000` is the full length; the default is a short one for CI.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from workers import LiveWorker, wait_until

TASK_S = 0.005
AHEAD = 500
MOST_RSS_GROWTH_MB = 20.0
#: the stock pool keeps a spare set of pipes for each child once children were replaced before they had left
MOST_NEW_FDS = 4 + 2 * 4


class Murderer(threading.Thread):
    """Kills a random pool process every `every_s`, as the process table shows them (asking would slow the worker)."""

    def __init__(self, worker: LiveWorker, every_s: float) -> None:
        super().__init__(daemon=True)
        self.worker = worker
        self.every_s = every_s
        self.kills = 0
        self.done = threading.Event()
        self.random = random.Random(4)
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.done.wait(self.every_s):
                self._kill_one()
        except BaseException as exc:
            self.error = exc

    def _kill_one(self) -> None:
        victims = self.worker.visible_pids()
        if victims:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself between the look and the signal
                self.worker.murder(self.random.choice(victims), signal.SIGKILL)
                self.kills += 1


def send_all(worker: LiveWorker, count: int) -> Iterator[tuple[int, Any]]:
    """Send tasks, never more than AHEAD before their results are asked for: kombu's file system broker lists its whole
    directory for each message. Half are acknowledged early (they may end as lost), half late (they must come through)."""
    waiting: deque[tuple[int, Any]] = deque()
    for number in range(count):
        waiting.append((number, worker.send("slow_late" if number % 2 else "slow", number, TASK_S)))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


@pytest.mark.timeout(1800)
def test_soak(start_worker: Callable[..., LiveWorker], pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> None:
    count = pytestconfig.getoption("--soak-tasks")
    worker = start_worker("-c", "2", conf={"worker_prefetch_multiplier": 16, "worker_max_tasks_per_child": 500})
    warm_up = [worker.send("add", number, 1) for number in range(200)]
    assert [result.get(timeout=30) for result in warm_up] == [number + 1 for number in range(200)]
    parent = psutil.Process(worker.pid)
    fds, rss = parent.num_fds(), parent.memory_info().rss
    murderer = Murderer(worker, pytestconfig.getoption("--soak-kill-every"))
    murderer.start()
    start = time.monotonic()
    states: Counter[str] = Counter()
    unended: list[str] = []
    lost = 0
    # Two processes sharing the machine with Celery's own work: 5 ms tasks at no less than 25 a second.
    deadline = start + 60 + count / 25
    for number, result in send_all(worker, count):
        try:
            value = result.get(timeout=max(0.1, deadline - time.monotonic()), propagate=False)
        except Exception as exc:
            unended.append(f"{number} {result.state} {exc!r}")
            continue
        states[result.state] += 1
        if result.state == "SUCCESS":
            assert value == number
        else:
            lost += 1
            assert type(value).__name__ == "WorkerLostError", repr(value)
            assert number % 2 == 0, f"task {number} was acknowledged late and rejected on loss, and yet it failed: {value!r}"
    took = time.monotonic() - start
    murderer.done.set()
    murderer.join()
    wait_until(lambda: len(worker.visible_pids()) == 2, 30, "two children, and none that is leaving")
    growth = (parent.memory_info().rss - rss) / 2**20
    report = (
        f"{worker.kind.name}: {count} tasks in {took:.0f} s, {murderer.kills} kills, {dict(states)}, "
        f"{len(unended)} never ended, fds {fds} -> {parent.num_fds()}, RSS {growth:+.1f} MB"
    )
    with capsys.disabled():
        print(f"\n{report}")
    assert murderer.error is None, murderer.error
    assert not unended, f"{report}: {unended[:10]}"
    assert lost <= murderer.kills, f"more than one task was lost per kill: {report}"
    assert murderer.kills >= min(5, took / 2), report
    assert parent.num_fds() <= fds + MOST_NEW_FDS, report
    assert growth <= MOST_RSS_GROWTH_MB, report
    assert worker.call("add", 1, 1) == 2
    assert worker.complaints() == []
