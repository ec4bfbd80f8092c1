#!/usr/bin/env python3
"""Recycling and replacement: what new workers cost while work goes on."""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

from harness import tasks
from harness.adapters import LIBRARIES, PEERS
from harness.cli import family
from harness.rows import Bar, Case, Row, libraries_that

# work


def recycled(library, n, maxtasks):
    pool = LIBRARIES[library](2, maxtasks=maxtasks)
    pool.burst(tasks.tiny, 100)
    started = time.perf_counter()
    results = pool.burst(tasks.tiny, n)
    elapsed = time.perf_counter() - started
    if results != list(range(n)):
        raise AssertionError("wrong results")
    return {"rate": n / elapsed}


def recycled_spun(library, n, maxtasks):
    """The same with tasks of 1 ms, as a recycled worker's tasks are rather."""
    pool = LIBRARIES[library](2, maxtasks=maxtasks)
    pool.burst(tasks.tiny, 10)
    started = time.perf_counter()
    for handle in [pool.submit(tasks.spin, (0.001,)) for _ in range(n)]:
        pool.result(handle, 60)
    return {"rate": n / (time.perf_counter() - started)}


def bare_lives(library, n, maxtasks, workers=2):
    """What the machine gives: processes that fork, and whose children exit at once. No pool can have more lives."""
    started = time.perf_counter()
    parents = []
    for _ in range(workers):
        pid = os.fork()
        if not pid:
            for _ in range(n // maxtasks // workers):
                child = os.fork()
                if not child:
                    os._exit(0)
                os.waitpid(child, 0)
            os._exit(0)
        parents.append(pid)
    for pid in parents:
        os.waitpid(pid, 0)
    return {"rate": n / (time.perf_counter() - started)}


def replaced(library, n):
    """A pool of one, so that only a replacement can give the next result."""
    pool = LIBRARIES[library](1)
    times = []
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(n):
            pool.submit(tasks.announce_then_nap, (f"{scratch}/{i}", 60))
            path = Path(f"{scratch}/{i}")
            while not path.exists():
                time.sleep(0.0005)
            following = pool.submit(tasks.tiny, (i,))
            started = time.perf_counter()
            os.kill(int(path.read_text()), signal.SIGKILL)
            if pool.result(following, 15) != i:
                raise AssertionError("wrong result")
            times.append(time.perf_counter() - started)
    return {"ms": 1e3 * statistics.median(times), "max_ms": 1e3 * max(times)}


# rows


def rows(quick: bool):
    n, maxtasks = (1000 if quick else 10000), 25
    slow = {"billiard 4": 100, "PPE": 200, "deadpool": 1000}  # a rate needs no more tasks than this from them
    recycling = [
        Case.of(name, "recycling:recycled", name, n=min(n, slow.get(name, n)), maxtasks=maxtasks)
        for name in libraries_that("maxtasks")
    ]
    plain = Case.of("ours, not recycled", "recycling:recycled", "ours", n=n, maxtasks=None)
    lives = Case.of("fork and exit, without a pool", "recycling:bare_lives", "bare", n=n, maxtasks=maxtasks)
    spun = {"n": 500 if quick else 4000}
    spinning = [
        Case.of(name, "recycling:recycled_spun", name, n=min(spun["n"], slow.get(name, spun["n"])), maxtasks=maxtasks)
        for name in libraries_that("maxtasks")
    ]
    spun_plain = Case.of("ours, not recycled", "recycling:recycled_spun", "ours", **spun, maxtasks=None)
    kills = 3 if quick else 20
    replacing = [
        Case.of(name, "recycling:replaced", name, n=kills if name == "ours" else min(kills, 3))
        for name in ("ours", *PEERS)
    ]
    return [
        Row("recycled", f"`maxtasksperchild={maxtasks}`, tiny tasks", "rate", "tasks/s", [*recycling, plain, lives],
            [Bar(0.8, "ours, not recycled", 0.9)],
            note="25 tiny calls take a worker 0.1 ms. A fork and an exit alone take longer: where the last line is below "
            "0.8 of the unrecycled rate, no pool of processes can reach the bar."),
        Row("recycled-1ms", f"`maxtasksperchild={maxtasks}`, tasks of 1 ms", "rate", "tasks/s", [*spinning, spun_plain],
            [Bar(0.8, "ours, not recycled", 0.9)]),
        Row("replaced", "kill -9 of a busy worker to the replacement's first result, p50", "ms", "ms", replacing,
            [Bar(10, "", 3)], lower_is_better=True, limit_s=40),
    ]  # fmt: skip


if __name__ == "__main__":
    family("recycling", __doc__, rows)
