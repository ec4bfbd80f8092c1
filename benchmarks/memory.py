#!/usr/bin/env python3
"""Idle cost: the private memory of an idle worker, and how often an idle pool wakes up."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from pathlib import Path

from harness import runner, tasks
from harness.adapters import LIBRARIES
from harness.cli import family
from harness.rows import Bar, Row, per_library

# work


def private_mb(library):
    """Private pages (what a worker does not share with the process it was forked from), median of the workers."""
    pool = LIBRARIES[library](2)
    pids = set()
    for _ in range(10):
        handles = [pool.submit(tasks.pid_after, (0.05,)) for _ in range(2)]
        pids |= {pool.result(h, 10) for h in handles}
    found = {"private": [], "resident": []}
    for pid in pids:
        fields = {
            line.split(":")[0]: int(line.split()[1])
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        }
        found["private"].append((fields["Private_Clean"] + fields["Private_Dirty"]) / 1024)
        found["resident"].append(fields["Rss"] / 1024)
    return {f"{what}_mb": statistics.median(figures) for what, figures in found.items()}


def wake_ups(library, seconds=2.0):
    """Voluntary context switches of every thread of parent and workers, per second, while nothing is asked of them."""
    pool = LIBRARIES[library](2)
    for i in range(50):
        pool.result(pool.submit(tasks.tiny, (i,)), 10)
    time.sleep(1)
    processes = [os.getpid(), *runner.descendants(os.getpid())]
    before = _switches(processes)
    time.sleep(seconds)
    return {"per_s": max(0, _switches(processes) - before - 1) / seconds}  # the one is this sleep's own


def _switches(processes):
    total = 0
    for pid in processes:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                text = Path(f"/proc/{pid}/task/{thread}/status").read_text()
                total += int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return total


# rows


def rows(quick: bool):
    memory = per_library("memory:private_mb")
    return [
        Row("private", "private memory of an idle worker", "private_mb", "MB", memory, [Bar(2, "", 1)],
            lower_is_better=True),
        Row("resident", "resident memory of an idle worker, shared pages included", "resident_mb", "MB", memory,
            lower_is_better=True),
        Row("wake_ups", "wake-ups of an idle pool of 2, all processes", "per_s", "/s",
            per_library("memory:wake_ups", seconds=2.0 if quick else 5.0), [Bar(0.5)], lower_is_better=True),
    ]  # fmt: skip


if __name__ == "__main__":
    family("memory", __doc__, rows)
