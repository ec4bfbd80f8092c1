"""Idle and large pools: who wakes up, what a queued call costs, what a long run leaves."""

from __future__ import annotations

import gc
import random
import resource
import time
from pathlib import Path

import fault_tasks as t
import pytest

from billiard import Pool, TimeLimitExceeded, WorkerLostError

HOLDS_S = 2.0


def voluntary_switches(pid: int) -> int:
    """How often the process (all its threads) has gone to sleep: every wake-up shows as one."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def settled(pids: list[int], deadline_s: float = 20.0) -> dict[int, int]:
    """The counts once none has moved for a while: starting up is no idling."""
    until = time.monotonic() + deadline_s
    before: dict[int, int] = {}
    while time.monotonic() < until:
        now = {pid: voluntary_switches(pid) for pid in pids}
        if now == before:
            return now
        before = now
        time.sleep(0.5)  # the interval of the observation, not a wait for something to happen
    return before


def test_an_idle_pool_of_64_workers_wakes_nobody():
    with Pool(64) as pool:
        assert pool.map(t.echo, range(128), 1) == list(range(128))
        pids = [int(handle) for handle in pool._pool]
        assert len(pids) == 64
        template = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
        before = settled([*pids, template])
        supervisor = pool._engine.driver.thread.native_id
        mine = Path(f"/proc/self/task/{supervisor}/status").read_text()
        time.sleep(HOLDS_S)  # the observation
        after = {pid: voluntary_switches(pid) for pid in before}
        assert after == before
        assert Path(f"/proc/self/task/{supervisor}/status").read_text().split("voluntary")[1] == mine.split("voluntary")[1]


def test_a_hundred_thousand_queued_calls_cost_no_more_each_than_a_thousand(make_pool):
    pool = make_pool(2)
    pool.map(t.echo, range(2000), 1)

    def cpu_s_per_call(count: int) -> float:
        began = time.process_time()
        results = [pool.apply_async(t.echo, (i,)) for i in range(count)]
        for i, result in enumerate(results):
            assert result.get(60) == i
        return (time.process_time() - began) / count

    small = min(cpu_s_per_call(1000) for _ in range(5))
    assert cpu_s_per_call(100_000) < 4 * small  # flat, with room for a noisy machine


@pytest.mark.timeout(240)
def test_soak():
    """Errors, limits, kills, recycling and sizes from 10 B to 2 MB: all end once, and nothing grows."""
    rng = random.Random(20261123)
    with Pool(2, maxtasksperchild=50) as pool:
        for round_ in range(6):
            ended = 0
            results = []
            for i in range(700):
                draw = rng.random()
                if draw < 0.10:
                    results.append((pool.apply_async(t.fail, (i,)), ValueError))
                elif draw < 0.105:
                    results.append((pool.apply_async(t.strike, ("SIGKILL",)), WorkerLostError))
                elif draw < 0.11:
                    results.append((pool.apply_async(t.nap, (30, i), timeout=0.05), TimeLimitExceeded))
                elif draw < 0.12:
                    size = rng.choice((10, 10_000, 2_000_000))
                    results.append((pool.apply_async(len, (b"x" * size,)), size))
                else:
                    results.append((pool.apply_async(t.echo, (i,)), i))
            for result, expected in results:
                if isinstance(expected, type):
                    with pytest.raises(expected):
                        result.get(60)
                else:
                    assert result.get(60) == expected
                ended += 1
            assert ended == 700
            del results, result, expected
            gc.collect()
            if round_ == 1:
                fds, rss = _descriptors(), _rss_mb()
        assert _descriptors() <= fds + 2
        assert _rss_mb() <= rss + 5


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
