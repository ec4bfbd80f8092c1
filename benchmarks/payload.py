#!/usr/bin/env python3
"""Payload: arrays and bytes there and back through one `apply`, in GB/s (both ways counted)."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from harness import tasks
from harness.adapters import LIBRARIES, PEERS
from harness.cli import family
from harness.rows import Bar, Row, per_library

# numpy's own threads spin for a while after its import, in each process: what is measured is the pool beside none of them
_WARM_UP_S = 0.2

# work


def _make(kind, size):
    if kind == "bytes":
        return os.urandom(min(size, 1 << 16)) * max(1, size >> 16)
    import numpy

    return numpy.arange(size // 8, dtype="float64")


def _equal(a, b):
    return bool((a == b).all()) if hasattr(a, "all") else a == b


def round_trip(library, kind, size, n):
    pool = LIBRARIES[library](2)
    load = _make(kind, size)
    submit, result = pool.submit, pool._get
    warm = time.perf_counter() + _WARM_UP_S
    while time.perf_counter() < warm:
        back = result(submit(tasks.echo, (load,)), None)
    if not _equal(load, back):
        raise AssertionError("the payload came back changed")
    times = []
    for _ in range(n):
        started = time.perf_counter()
        result(submit(tasks.echo, (load,)), None)
        times.append(time.perf_counter() - started)
    middle = statistics.median(times)
    return {"gb_s": 2 * size / middle / 1e9, "p50_us": 1e6 * middle}


def round_trip_apply(library, kind, size, n):
    """The same through `apply`, whose caller waits, so that the pool need not own the bytes."""
    pool = LIBRARIES[library](2)
    load = _make(kind, size)
    warm = time.perf_counter() + _WARM_UP_S
    while time.perf_counter() < warm:
        back = pool.apply(tasks.echo, (load,))
    if not _equal(load, back):
        raise AssertionError("the payload came back changed")
    times = []
    for _ in range(n):
        started = time.perf_counter()
        pool.apply(tasks.echo, (load,))
        times.append(time.perf_counter() - started)
    middle = statistics.median(times)
    return {"gb_s": 2 * size / middle / 1e9, "p50_us": 1e6 * middle}


# rows


def rows(quick: bool):
    n = 5 if quick else 25
    try:
        wmem_max = Path("/proc/sys/net/core/wmem_max").read_text().strip()
    except OSError:
        wmem_max = "unknown"
    note = f"net.core.wmem_max = {wmem_max}; socket buffers as the library sets them."
    big, small = 8_000_000, 65_536
    return [
        Row("array_8mb", "numpy array of 8 MB there and back, `apply`", "gb_s", "GB/s",
            per_library("payload:round_trip_apply", kind="array", size=big, n=n), [Bar(8, name, 15) for name in PEERS],
            note=note),
        Row("array_8mb_async", "numpy array of 8 MB there and back, `apply_async` + `get`", "gb_s", "GB/s",
            per_library("payload:round_trip", kind="array", size=big, n=n), note=note),
        Row("bytes_64kb", "64 KB of bytes there and back", "gb_s", "GB/s",
            per_library("payload:round_trip_apply", kind="bytes", size=small, n=20 * n),
            [Bar(3, name, 6) for name in PEERS]),
        Row("array_64kb", "numpy array of 64 KB there and back", "gb_s", "GB/s",
            per_library("payload:round_trip_apply", kind="array", size=small, n=20 * n),
            [Bar(3, name, 6) for name in PEERS]),
    ]  # fmt: skip


if __name__ == "__main__":
    family("payload", __doc__, rows)
