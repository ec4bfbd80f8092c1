"""Idle and large pools: who wakes up, what is remembered, what a long run leaves."""

from __future__ import annotations

import time
from pathlib import Path

import fault_tasks as t
import gauges
import pytest
import soak

from billiard import Pool
from pool_helpers import wait_until

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
        wait_until(lambda: all(handle.pid for handle in pool._pool))  # the first few may have done it all
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


def test_limits_of_workers_that_are_gone_are_forgotten(make_pool):
    """Limits of an hour, lives of one call: the dead ones' deadlines filled the heap for the hour."""
    pool = make_pool(2, maxtasksperchild=1, timeout=3600, soft_timeout=1800)
    assert pool.map(t.echo, range(200), 1) == list(range(200))
    assert len(pool._engine.core.timers) < 100


@pytest.mark.timeout(240)
def test_soak():
    """Errors, limits, kills, recycling and sizes from 10 B to 2 MB: each runs once and ends as it must, and nothing grows."""
    gauges.exact_malloc()
    _, verdict = soak.run(4000, seed=20261123, largest=2_000_000, compare=False)
    assert not verdict.missed
