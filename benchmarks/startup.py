#!/usr/bin/env python3
"""Start and end: from the constructor to the first result, and an idle pool's `close()` + `join()`."""

from __future__ import annotations

import os
import socket
import statistics
import time

from harness import tasks
from harness.adapters import LIBRARIES, PEERS
from harness.cli import family
from harness.rows import Bar, Case, Row, per_library

# work


def first_result(library, workers, n):
    """The library is imported and has run one pool before, so that the figure is the pool's and not the importer's."""
    times = []
    for i in range(n + 1):
        started = time.perf_counter()
        pool = LIBRARIES[library](workers)
        value = pool.apply(tasks.tiny, (i,))
        times.append(time.perf_counter() - started)
        if value != i:
            raise AssertionError(f"{value!r} for {i}")
        pool.close()
    return {"ms": 1e3 * statistics.median(times[1:])}


def bare_forks(library, n, depth):
    """What the machine gives: from a fork to the answer of a process that is `depth` forks away and does nothing else."""
    times = []
    for _ in range(n + 1):
        near, far = socket.socketpair()
        started = time.perf_counter()
        child = os.fork()
        if not child:
            for _ in range(depth - 1):
                if child := os.fork():
                    os.waitpid(child, 0)
                    os._exit(0)
            far.send(far.recv(100))
            os._exit(0)
        near.send(b"call")
        if near.recv(100) != b"call":
            raise AssertionError("wrong answer")
        times.append(time.perf_counter() - started)
        near.close()
        far.close()
        os.waitpid(child, 0)
    return {"ms": 1e3 * statistics.median(times[1:])}


def close_idle(library, n):
    times = []
    for _ in range(n):
        pool = LIBRARIES[library](2)
        for i in range(20):
            pool.apply(tasks.tiny, (i,))
        time.sleep(0.1)  # idle is what is measured: let every thread of every library park
        started = time.perf_counter()
        pool.close()
        times.append(time.perf_counter() - started)
    return {"ms": 1e3 * statistics.median(times)}


# rows


def rows(quick: bool):
    n = 2 if quick else 5
    faster = [Bar(1.3, name, 2) for name in PEERS]
    floors = [
        Case.of("a fork and its answer, without a pool", "startup:bare_forks", "bare", n=20, depth=1),
        Case.of("two forks, one in the other, and the answer", "startup:bare_forks", "bare", n=20, depth=2),
    ]
    return [
        Row("first_result_2", "`Pool(2)` to the first result", "ms", "ms",
            [*per_library("startup:first_result", workers=2, n=n), *floors], faster, lower_is_better=True,
            note="Our first worker is two forks away, through the template: where the last line is above a bar's figure, it "
            "is out of reach for a pool that forks its workers so."),
        Row("first_result_16", "`Pool(16)` to the first result", "ms", "ms",
            per_library("startup:first_result", workers=16, n=n), faster, lower_is_better=True),
        Row("close_idle", "`close()` + `join()`, idle", "ms", "ms", per_library("startup:close_idle", n=n),
            [Bar(20, "", 5)], lower_is_better=True),
    ]  # fmt: skip


if __name__ == "__main__":
    family("startup", __doc__, rows)
