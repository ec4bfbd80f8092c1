#!/usr/bin/env python3
"""Limits: by how much a task outlives its hard limit."""

from __future__ import annotations

import statistics
import time

from harness import tasks
from harness.adapters import LIBRARIES
from harness.cli import family
from harness.rows import Bar, Row, libraries_that, per_library

# work


def overshoot(library, n, limit_s):
    """From the call to the error, less the limit; one call at a time, so that no queue is counted."""
    pool = LIBRARIES[library](2, limits=True)
    for i in range(20):
        pool.result(pool.submit(tasks.tiny, (i,)), 10)
    late = []
    for _ in range(n):
        started = time.perf_counter()
        handle = pool.submit(tasks.nap, (60,), timeout=limit_s)
        try:
            pool.result(handle, 20)
        except Exception as error:
            if "NoAnswer" in type(error).__name__:
                raise
        else:
            raise AssertionError("the limit was ignored")
        late.append(time.perf_counter() - started - limit_s)
    late.sort()
    return {"p50_ms": 1e3 * statistics.median(late), "p99_ms": 1e3 * late[min(n - 1, n * 99 // 100)]}


# rows


def rows(quick: bool):
    cases = per_library("limits:overshoot", libraries_that("limit"), n=3 if quick else 20, limit_s=0.3)
    return [
        Row("overshoot_p99", "hard limit of 0.3 s: overshoot, p99", "p99_ms", "ms", cases, [Bar(20, "", 5)],
            lower_is_better=True),
        Row("overshoot_p50", "hard limit of 0.3 s: overshoot, p50", "p50_ms", "ms", cases, lower_is_better=True),
    ]  # fmt: skip


if __name__ == "__main__":
    family("limits", __doc__, rows)
