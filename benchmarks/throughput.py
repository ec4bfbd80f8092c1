#!/usr/bin/env python3
"""Throughput: how many tasks per second, in the ways people submit them.

Each function below `# work` runs in a fresh process of one library (see harness/child.py), warms the pool up with
calls of the same kind, and checks what it got before it reports a figure.
"""

from __future__ import annotations

import threading
import time

from harness import tasks
from harness.adapters import LIBRARIES
from harness.cli import family
from harness.rows import Bar, Case, Row, libraries_that, per_library_fewer

WARM = 500
#: tasks for libraries that would need a minute for the full number
SLOW = {"deadpool": 3000}
SLOWER = {"PPE": 500, "loky": 500, "deadpool": 300, "billiard 4": 1000, "mpire": 1000}


# work


def _open(library, workers=2, **options):
    pool = LIBRARIES[library](workers, **options)
    _same(pool.burst(tasks.tiny, WARM), WARM)
    return pool


def _same(results, n):
    if len(results) != n or results != list(range(n)):
        raise AssertionError(f"wrong results: {results[:3]} … ({len(results)} of {n})")


def burst(library, n):
    """`apply_async` n times, then `get` n times."""
    pool = _open(library)
    started = time.perf_counter()
    results = pool.burst(tasks.tiny, n)
    elapsed = time.perf_counter() - started
    _same(results, n)
    return {"rate": n / elapsed}


def burst_limited(library, n):
    """The same with a hard and a soft limit on each call (where there is no soft limit: the hard one)."""
    pool = _open(library, limits=True)
    pool.burst_limited(tasks.tiny, WARM, 60, 50)
    started = time.perf_counter()
    results = pool.burst_limited(tasks.tiny, n, 60, 50)
    elapsed = time.perf_counter() - started
    _same(results, n)
    return {"rate": n / elapsed}


def burst_callback(library, n):
    """The same with `callback=`; the caller waits in `get`, and the clock stops when the last callback has run."""
    pool = _open(library)
    seen, all_seen = [], threading.Event()

    def note(value):
        seen.append(value)
        if len(seen) == n:
            all_seen.set()

    started = time.perf_counter()
    submit = pool.submit
    handles = [submit(tasks.tiny, (i,), callback=note) for i in range(n)]
    for h in handles:
        pool._get(h, None)
    if not all_seen.wait(60):
        raise AssertionError(f"{len(seen)} of {n} callbacks ran")
    return {"rate": n / (time.perf_counter() - started)}


def callbacks_only(library, n):
    """Nobody in `get`: callbacks count, the main thread waits on an event."""
    pool = _open(library)
    count, all_seen = [0], threading.Event()

    def note(value):
        count[0] += 1
        if count[0] == n:
            all_seen.set()

    started = time.perf_counter()
    submit = pool.submit
    for i in range(n):
        submit(tasks.tiny, (i,), callback=note)
    if not all_seen.wait(60):
        raise AssertionError(f"{count[0]} of {n} callbacks ran")
    return {"rate": n / (time.perf_counter() - started)}


def apply_threads(library, n, threads=8):
    """`threads` threads, each calling `apply` again and again."""
    pool = _open(library)
    wrong = []

    def caller(first):
        for i in range(first, n, threads):
            if pool.apply(tasks.tiny, (i,)) != i:
                wrong.append(i)

    callers = [threading.Thread(target=caller, args=(k,)) for k in range(threads)]
    started = time.perf_counter()
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    elapsed = time.perf_counter() - started
    if wrong:
        raise AssertionError(f"wrong results: {wrong[:3]}")
    return {"rate": n / elapsed}


def mapped(library, n, chunksize=None):
    # warmed up by the same method: mpire's map fails on a pool that has served apply_async
    pool = LIBRARIES[library](2)
    _same(pool.map(tasks.tiny, range(WARM), chunksize), WARM)
    started = time.perf_counter()
    results = pool.map(tasks.tiny, range(n), chunksize)
    elapsed = time.perf_counter() - started
    _same(results, n)
    return {"rate": n / elapsed}


def unordered(library, n):
    pool = LIBRARIES[library](2)
    _same(sorted(pool.imap_unordered(tasks.tiny, range(WARM))), WARM)
    started = time.perf_counter()
    results = list(pool.imap_unordered(tasks.tiny, range(n)))
    elapsed = time.perf_counter() - started
    _same(sorted(results), n)
    return {"rate": n / elapsed}


def beside_python(library, n, kind, busy):
    """Tasks of 0.1 ms, with callbacks, while the main thread waits or runs Python code that never lets go by itself."""
    task, length = {"nap": (tasks.nap, 0.0001), "spin": (tasks.spin, 0.0001)}[kind]
    pool = _open(library)
    count, ended = [0], [0.0]

    def note(value):
        count[0] += 1
        if count[0] == n:
            ended[0] = time.perf_counter()

    started = time.perf_counter()
    for _ in range(n):
        pool.submit(task, (length,), callback=note)
    deadline = started + 60
    while not ended[0]:
        if busy:
            sum(range(300))  # Python code that holds the GIL until it is asked for it
        else:
            time.sleep(0.01)
        if time.perf_counter() > deadline:
            raise AssertionError(f"{count[0]} of {n} tasks ended")
    return {"rate": n / (ended[0] - started)}


def cpu_tasks(library, n, workers=2):
    """Tasks of 1 ms of CPU time, as many at a time as there are workers and a few in reserve."""
    pool = _open(library, workers)
    started = time.perf_counter()
    handles = [pool.submit(tasks.spin, (0.001,)) for _ in range(n)]
    for h in handles:
        pool._get(h, None)
    return {"rate": n / (time.perf_counter() - started)}


def cpu_bare(library, n, workers=2):
    """What the machine gives: processes that do only that, with nothing to talk to."""
    import multiprocessing

    ctx = multiprocessing.get_context("fork")
    gate = ctx.Barrier(workers + 1)
    processes = [ctx.Process(target=_spin_many, args=(gate, n // workers)) for _ in range(workers)]
    for p in processes:
        p.start()
    gate.wait()
    started = time.perf_counter()
    for p in processes:
        p.join()
    return {"rate": n / (time.perf_counter() - started)}


def _spin_many(gate, n):
    gate.wait()
    for _ in range(n):
        tasks.spin(0.001)


# rows


def rows(quick: bool):
    n = 3000 if quick else 15000
    items, many = (4000, 40000) if quick else (20000, 400000)
    plain = per_library_fewer("throughput:burst", SLOW, n=n)
    ours_plain = Case.of("ours, plain", "throughput:burst", "ours", n=n)
    limited = libraries_that("limit")
    spun = {"n": 400 if quick else 2000}
    few = [name for name in LIBRARIES if name != "deadpool"]
    return [
        Row("burst", f"`apply_async(tiny)` × {n:,}, then `get`", "rate", "tasks/s", plain,
            [Bar(7, "billiard 4"), Bar(6, "mp.Pool", 10), Bar(10, "pebble"), Bar(15, "PPE"), Bar(18, "loky")]),
        Row("burst_callback", "the same with `callback=`", "rate", "tasks/s",
            [*per_library_fewer("throughput:burst_callback", SLOW, n=n), ours_plain], [Bar(0.7, "ours, plain", 0.85)]),
        Row("burst_limited", "the same with `timeout=60, soft_timeout=50` on each call", "rate", "tasks/s",
            [*per_library_fewer("throughput:burst_limited", SLOW, limited, n=n), ours_plain],
             [Bar(0.7, "ours, plain", 0.85)]),
        Row("callbacks_only", "callbacks only, nobody in `get()`", "rate", "tasks/s",
            per_library_fewer("throughput:callbacks_only", SLOW, n=n), [Bar(2.5, "mp.Pool", 4)]),
        # as many calls as in the burst: 5,000 take us 0.12 s, no more than a few turns of the interpreter for each thread
        Row("apply_threads", "8 threads, each `apply(tiny)` again and again", "rate", "calls/s",
            per_library_fewer("throughput:apply_threads", SLOW, n=n), [Bar(3, "mp.Pool", 4)]),
        *_beside_rows(1000 if quick else 4000),
        Row("map1", f"`map(tiny, {items:,}, chunksize=1)`", "rate", "items/s",
            per_library_fewer("throughput:mapped", SLOW, n=items, chunksize=1), [Bar(4, "mp.Pool", 6)]),
        Row("imap_unordered", f"`imap_unordered(tiny, {items:,})`", "rate", "items/s",
            per_library_fewer("throughput:unordered", SLOW, n=items), [Bar(3, "mp.Pool", 5)]),
        Row("map_chunked", f"`map(tiny, {many:,})`", "rate", "items/s",
            per_library_fewer("throughput:mapped", SLOW, few, n=many), [Bar(0.95, "mp.Pool", 1.3)]),
        Row("cpu", "1 ms CPU tasks", "rate", "tasks/s",
            [*per_library_fewer("throughput:cpu_tasks", SLOW, **spun),
             Case.of("two bare processes", "throughput:cpu_bare", "bare", **spun)],
            [Bar(0.97, "two bare processes", 0.99), *(Bar(1, name) for name in LIBRARIES if name != "ours")]),
    ]  # fmt: skip


def _beside_rows(n):
    """0.1 ms tasks while the main thread computes.

    The bar is held by tasks that wait (their rate depends on the pool alone). Tasks that burn CPU share the cores with
    the computing main thread: with two workers on two cores nobody can pass 2/3, so that row is shown without a bar.
    """
    found = []
    for kind, bars, note in (
        ("nap", [Bar(0.7, "ours, main thread idle", 0.9)], ""),
        ("spin", [], "Three busy processes on the cores of this machine: on two cores 0.67 is the ceiling."),
    ):
        busy = per_library_fewer("throughput:beside_python", SLOWER, n=n, kind=kind, busy=True)
        idle = Case.of("ours, main thread idle", "throughput:beside_python", "ours", n=n, kind=kind, busy=False)
        title = f"0.1 ms tasks ({'waiting' if kind == 'nap' else 'computing'}) while the main thread runs Python code"
        found.append(Row(f"beside_python_{kind}", title, "rate", "tasks/s", [*busy, idle], bars, note=note))
    return found


if __name__ == "__main__":
    family("throughput", __doc__, rows)
