#!/usr/bin/env python3
"""Latency: one `apply` at a time, beside a bare socketpair ping-pong, and beside a thread waiting for a long task."""

from __future__ import annotations

import os
import socket
import statistics
import threading
import time

from harness import tasks
from harness.adapters import LIBRARIES, PEERS
from harness.cli import family
from harness.rows import Bar, Case, Row, per_library

# work


def _percentiles(samples_s):
    ordered = sorted(samples_s)
    pick = {f"p{q}_us": 1e6 * ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (10, 25, 75, 90, 99)}
    return {"p50_us": 1e6 * statistics.median(ordered), "max_us": 1e6 * ordered[-1], **pick}


def apply_one(library, n, keep_samples=False):
    pool = LIBRARIES[library](2)
    for i in range(300):
        pool.apply(tasks.tiny, (i,))
    samples = []
    clock = time.perf_counter
    for i in range(n):
        started = clock()
        value = pool.apply(tasks.tiny, (i,))
        samples.append(clock() - started)
        if value != i:
            raise AssertionError(f"{value!r} for {i}")
    found = _percentiles(samples)
    if keep_samples:
        found["samples_us"] = [round(1e6 * s, 2) for s in samples]
    return found


def ping_pong(library, n, size=50, keep_samples=False):
    """Two Python processes, one socketpair, `size` bytes there and back: what no pool of processes can undercut."""
    near, far = socket.socketpair()
    pid = os.fork()
    if not pid:
        near.close()
        buffer = bytearray(size)
        while count := far.recv_into(buffer):
            far.sendall(memoryview(buffer)[:count])
        os._exit(0)
    far.close()
    message, buffer, clock = b"x" * size, bytearray(size), time.perf_counter
    samples = []
    for i in range(n + 300):
        started = clock()
        near.sendall(message)
        if near.recv_into(buffer) != size:
            raise AssertionError("a 50-byte message came back in parts")
        if i >= 300:
            samples.append(clock() - started)
    near.close()
    os.waitpid(pid, 0)
    found = _percentiles(samples)
    if keep_samples:
        found["samples_us"] = [round(1e6 * s, 2) for s in samples]
    return found


def apply_beside_waiter(library, n):
    """`apply` while another thread sits in `get()` on a long task. One worker is left for the calls."""
    pool = LIBRARIES[library](2)
    for i in range(100):
        pool.apply(tasks.tiny, (i,))
    long_task = pool.submit(tasks.nap, (60,))
    waiting = threading.Thread(target=lambda: pool.result(long_task, 60), daemon=True)
    waiting.start()
    for i in range(50):
        pool.apply(tasks.tiny, (i,))
    samples = []
    for i in range(n):
        started = time.perf_counter()
        pool.apply(tasks.tiny, (i,))
        samples.append(time.perf_counter() - started)
    return _percentiles(samples)


# rows


def rows(quick: bool):
    n = 500 if quick else 3000
    floor = Case.of("socketpair ping-pong", "latency:ping_pong", "bare", n=n)
    one = [*per_library("latency:apply_one", n=n), floor]
    beside = per_library("latency:apply_beside_waiter", n=n // 2)
    return [
        # "at most 1.8 × the ping-pong" reads, in the harness's terms, "at least 1 / 1.8 as good as it"
        Row("apply", "one `apply(tiny)`, p50", "p50_us", "µs", one,
            [Bar(round(1 / 1.8, 3), "socketpair ping-pong", round(1 / 1.4, 3)), *(Bar(3, name) for name in PEERS)],
            lower_is_better=True),
        Row("apply_p99", "one `apply(tiny)`, p99", "p99_us", "µs", one, lower_is_better=True),
        Row("apply_beside_waiter", "`apply(tiny)`, p99, beside a thread in `get()` on a long task", "p99_us", "µs",
            beside, [Bar(2000, "", 1000)], lower_is_better=True, limit_s=30),
    ]  # fmt: skip


if __name__ == "__main__":
    family("latency", __doc__, rows)
