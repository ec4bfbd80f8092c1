"""What grows with the size of things, and what must not.

    python -m tests.faults.scale
    python -m tests.faults.scale --queued 1000000 --rounds 5
    python -m tests.faults.scale --workers 2,64,256

queue     calls submitted while both workers are held at a gate, then worked off: memory of each, and processor time of the
          parent for submitting and for finishing one, beside a queue of 1,000
workers   the same backlog of tiny calls, and one call at a time, over 2, 64 and 256 workers: processor time of the parent
          (and of all processes together) for one call
start     from `Pool(64)` to all sentinels present, to all workers ready, to an answer from each

Costs are processor time, so that a busy machine says little about them; the clock is printed beside them.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fault_tasks as t
import gauges

from billiard import Pool

SMALL = 1000
QUEUE_FLAT = 1.5  # a call in a queue of a million beside one in a queue of a thousand
WORKERS_FLAT = 1.5
START_S = 0.2
STARTED = 64
QUEUED_BYTES = 2000
PATIENCE_S = 300.0

Tell = Callable[[str], None]


# -- a long queue


class Queued(NamedTuple):
    """Of one call, while `count` wait."""

    count: int
    bytes: float
    submit_s: float
    finish_s: float
    wall_s: float

    @property
    def cost_s(self) -> float:
        return self.submit_s + self.finish_s

    def __str__(self) -> str:
        return (
            f"{self.count:9,} queued: submit {self.submit_s * 1e6:5.1f} + finish {self.finish_s * 1e6:5.1f} = "
            f"{self.cost_s * 1e6:5.1f} us of the parent's time, {self.bytes:,.0f} B each, {1 / self.wall_s:,.0f}/s"
        )


def wait_at(gate: int) -> None:
    os.read(gate, 1)


class Gate:
    """Holds a pool's workers until it opens. Made before the pool, whose workers inherit it."""

    def __init__(self) -> None:
        self.inside, self._outside = os.pipe()

    def hold(self, pool: Pool) -> list[Any]:
        """Every worker is at the gate when this returns."""
        held = [pool.apply_async(wait_at, (self.inside,)) for _ in range(pool._processes)]
        deadline = time.monotonic() + PATIENCE_S
        while len({pid for call in held for pid in call.worker_pids()}) < len(held):
            assert time.monotonic() < deadline, "a worker is not at the gate"
            time.sleep(0.001)
        return held

    def open(self, held: list[Any]) -> None:
        os.write(self._outside, bytes(len(held)))

    def close(self) -> None:
        os.close(self.inside)
        os.close(self._outside)


def queue(pool: Pool, gate: Gate, count: int) -> Queued:
    held = gate.hold(pool)
    gauges.give_back()
    before = gauges.rss_mb()
    wall, began = time.monotonic(), time.process_time()
    results = [pool.apply_async(t.echo, (i,)) for i in range(count)]
    submitted = time.process_time()
    size = (gauges.rss_mb() - before) * 1e6 / count
    gate.open(held)
    for i, result in enumerate(results):
        if result.get(PATIENCE_S) != i:
            raise AssertionError(f"call {i} returned {result.get()}")
    finished = time.process_time()
    took = time.monotonic() - wall
    for call in held:
        call.get(PATIENCE_S)
    return Queued(count, size, (submitted - began) / count, (finished - submitted) / count, took / count)


def queues(count: int, rounds: int, verdict: gauges.Verdict, tell: Tell) -> None:
    gate = Gate()
    try:
        with Pool(2) as pool:
            pool.map(t.echo, range(5000), 1)
            # a thousand are over in 30 ms: as many times as make up for it
            small = [queue(pool, gate, SMALL) for _ in range(20 * rounds)]
            large = []
            for _ in range(rounds):
                large.append(queue(pool, gate, count))
                tell(str(large[-1]))
                small += [queue(pool, gate, SMALL) for _ in range(20)]
    finally:
        gate.close()
    one, many = (_middle(runs) for runs in (small, large))
    tell(f"{one} (median of {len(small)})")
    verdict.bar(
        f"{count:,} queued: cost of a call", many.cost_s <= QUEUE_FLAT * one.cost_s,
        f"{many.cost_s * 1e6:.1f} us, {many.cost_s / one.cost_s:.2f} of {one.cost_s * 1e6:.1f} us among {SMALL:,} "
        f"(submit {many.submit_s / one.submit_s:.2f}, finish {many.finish_s / one.finish_s:.2f}; bar {QUEUE_FLAT})",
    )  # fmt: skip
    verdict.bar(f"{count:,} queued: memory of a call", many.bytes <= QUEUED_BYTES, f"{many.bytes:,.0f} B")


def _middle(runs: list[Queued]) -> Queued:
    """The medians. Memory is what the largest took: after the first time it is reused and not seen to grow."""
    return Queued(
        runs[0].count, max(run.bytes for run in runs), *(statistics.median(getattr(run, name) for run in runs)
        for name in ("submit_s", "finish_s", "wall_s")),
    )  # fmt: skip


# -- many workers


class Staffed(NamedTuple):
    """Of one call, with `workers` workers."""

    workers: int
    parent_s: float  # in a backlog
    all_s: float
    rate: float
    alone_s: float  # one at a time

    def __str__(self) -> str:
        return (
            f"{self.workers:4} workers: backlog {self.parent_s * 1e6:6.1f} us of the parent's time a call "
            f"({self.all_s * 1e6:6.1f} of all processes, {self.rate:,.0f}/s); one at a time {self.alone_s * 1e6:6.1f} us"
        )


def staffed(pool: Pool, calls: int) -> Staffed:
    whole, parent, wall = gauges.family_cpu_s(), time.process_time(), time.monotonic()
    results = [pool.apply_async(t.echo, (i,)) for i in range(calls)]
    for i, result in enumerate(results):
        assert result.get(PATIENCE_S) == i
    parent = time.process_time() - parent
    took, whole = time.monotonic() - wall, gauges.family_cpu_s() - whole
    del results
    gc.collect()
    few = calls // 20
    alone = time.process_time()
    for i in range(few):
        assert pool.apply(t.echo, (i,)) == i
    alone = time.process_time() - alone
    return Staffed(pool._processes, parent / calls, whole / calls, calls / took, alone / few)


def ready(pool: Pool) -> None:
    """All workers are up and have learnt the function."""
    deadline, pids = time.monotonic() + PATIENCE_S, set()
    while len(pids) < pool._processes:
        assert time.monotonic() < deadline, f"{len(pids)} of {pool._processes} workers answered"
        pids.update(pool.map(t.identify, range(4 * pool._processes), 1))
        pool.map(t.nap, [0.002] * pool._processes, 1)
    pool.map(t.echo, range(20 * pool._processes), 1)


def staffs(sizes: list[int], calls: int, rounds: int, verdict: gauges.Verdict, tell: Tell) -> None:
    found: dict[int, list[Staffed]] = {size: [] for size in sizes}
    for _ in range(rounds):  # in turns, so that what the machine does meets all sizes
        for size in sizes:
            with Pool(size) as pool:
                ready(pool)
                found[size].append(staffed(pool, calls))
    base = None
    for size, runs in found.items():
        middle = Staffed(size, *(statistics.median(run[i] for run in runs) for i in range(1, 5)))
        tell(str(middle))
        if base is None:
            base = middle
            continue
        for what, name in (("in a backlog", "parent_s"), ("one at a time", "alone_s")):
            one, many = getattr(base, name), getattr(middle, name)
            verdict.bar(
                f"{size} workers: cost of a call {what}", many <= WORKERS_FLAT * one,
                f"{many * 1e6:.1f} us, {many / one:.2f} of {one * 1e6:.1f} us with {base.workers} (bar {WORKERS_FLAT})",
            )  # fmt: skip


# -- the start


class Started(NamedTuple):
    """Seconds from the constructor's call."""

    constructor: float
    sentinels: float
    up: float
    answered: float
    cpu: float  # processor time of all, until the last was up

    def __str__(self) -> str:
        return (
            f"constructor {self.constructor * 1e3:.0f} ms, sentinels present {self.sentinels * 1e3:.0f}, all ready "
            f"{self.up * 1e3:.0f}, an answer from each {self.answered * 1e3:.0f}; {self.cpu * 1e3:.0f} ms of processor time"
        )


def start(workers: int) -> Started:
    up, seen = threading.Event(), []

    def told(handle: Any) -> None:
        seen.append(handle)
        if len(seen) == workers:
            up.set()

    cpu = gauges.family_cpu_s()
    began = time.monotonic()
    with Pool(workers, on_process_up=told) as pool:
        constructor = time.monotonic() - began
        while not _has_sentinels(pool):  # on a busy machine they take longer than the pool waits for them
            assert time.monotonic() - began < PATIENCE_S
        sentinels = time.monotonic() - began
        assert up.wait(PATIENCE_S)
        all_up = time.monotonic() - began
        cpu = gauges.family_cpu_s() - cpu
        pids: set[int] = set()
        while len(pids) < workers:
            pids.update(call.get(PATIENCE_S) for call in [pool.apply_async(t.identify) for _ in range(workers)])
        return Started(constructor, sentinels, all_up, time.monotonic() - began, cpu)


def _has_sentinels(pool: Pool) -> bool:
    try:
        return len(pool.process_sentinels) == pool._processes
    except ValueError:
        return False


def starts(workers: int, rounds: int, verdict: gauges.Verdict, tell: Tell) -> None:
    start(2)
    runs = [start(workers) for _ in range(rounds)]
    middle = Started(*(statistics.median(run[i] for run in runs) for i in range(len(Started._fields))))
    tell(f"{workers} workers, median of {rounds}: {middle}")
    best = min(run.up for run in runs)
    # what the processors had to do, shared by those there are: the clock of a machine that does nothing else
    undisturbed = middle.cpu / min(workers, len(os.sched_getaffinity(0)))
    verdict.bar(
        f"{workers} workers ready within {START_S * 1e3:.0f} ms", min(best, undisturbed) <= START_S,
        f"by the clock {best * 1e3:.0f} ms at best, {middle.up * 1e3:.0f} in the middle; {undisturbed * 1e3:.0f} ms by "
        f"processor time (load {os.getloadavg()[0]:.1f})",
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queued", type=int, default=1_000_000)
    parser.add_argument("--workers", default="2,64,256")
    parser.add_argument("--calls", type=int, default=20_000, help="for each number of workers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("queue", "workers", "start"), action="append")
    options = parser.parse_args(argv)
    gauges.exact_malloc()
    verdict, chosen = gauges.Verdict(), options.only or ("start", "workers", "queue")

    def tell(line: str) -> None:
        print(line, flush=True)

    if "start" in chosen:
        starts(STARTED, 2 * options.rounds + 1, verdict, tell)
    if "workers" in chosen:
        staffs([int(size) for size in options.workers.split(",")], options.calls, options.rounds, verdict, tell)
    if "queue" in chosen:
        queues(options.queued, options.rounds, verdict, tell)
    return verdict.close()


if __name__ == "__main__":
    sys.exit(main())
