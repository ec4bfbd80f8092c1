#!/usr/bin/env python3
"""Growth: cost per task against queue length and worker count, cost per byte against payload size, as slopes.

    python benchmarks/growth.py [--quick]

The slope is that of log(cost) over log(size): 0 is flat, 1 means that the cost of *each* task grows with the size.
Queue length and worker count have to be flat (slope at most 0.1; 64 workers on two cores may cost their switches,
so 0.15 there), and the time of a round trip may grow no faster than its bytes (slope at most 1.05).
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path

from harness import envs, rows, runner, tasks
from harness.adapters import LIBRARIES

# work


def queue_length(library, n):
    """All n are accepted before the first `get`. Memory is the parent's growth at its highest point."""
    pool = LIBRARIES[library](2)
    pool.burst(tasks.tiny, 500)
    before = _rss_kb("VmRSS")
    started = time.perf_counter()
    results = pool.burst(tasks.tiny, n)
    elapsed = time.perf_counter() - started
    if results != list(range(n)):
        raise AssertionError("wrong results")
    return {"us": 1e6 * elapsed / n, "bytes_per_task": 1024 * max(0, _rss_kb("VmHWM") - before) / n}


def _rss_kb(field):
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def worker_count(library, workers, n):
    pool = LIBRARIES[library](workers)
    handles = [pool.submit(tasks.nap, (0.02,)) for _ in range(workers * 2)]  # every worker has run something
    for h in handles:
        pool._get(h, None)
    pool.burst(tasks.tiny, 1000)
    started = time.perf_counter()
    pool.burst(tasks.tiny, n)
    return {"us": 1e6 * (time.perf_counter() - started) / n}


def slope(points) -> float:
    """Least squares over (log size, log cost)."""
    logs = [(math.log(size), math.log(cost)) for size, cost in points]
    mean_x = statistics.fmean(x for x, _ in logs)
    mean_y = statistics.fmean(y for _, y in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


# the runner's side


def curves(quick: bool):
    """(key, title, metric, unit, bar on the slope, {size: (work, params)})"""
    longest = [1_000, 10_000, 100_000] if quick else [1_000, 10_000, 100_000, 1_000_000]
    workers = [2, 8, 32] if quick else [2, 4, 8, 16, 32, 64]
    sizes = [1 << 10, 1 << 16, 1 << 22] if quick else [1 << k for k in (10, 13, 16, 18, 20, 22, 24, 26)]
    n = 3000 if quick else 15000
    queue = {k: ("growth:queue_length", {"n": k}) for k in longest}
    return [
        ("queue", "cost per task against queue length", "us", "µs", 0.1, queue),
        ("queue_memory", "memory per queued task against queue length", "bytes_per_task", "B", 0.1, queue),
        ("workers", "cost per task against worker count", "us", "µs", 0.15,
         {k: ("growth:worker_count", {"workers": k, "n": n}) for k in workers}),
        ("payload", "time of a round trip against its bytes", "p50_us", "µs", 1.05,
         {k: ("payload:round_trip_apply", {"kind": "bytes", "size": k, "n": 5 if k > 1 << 22 else 25}) for k in sizes}),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--libraries", default="ours,mp.Pool")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 3)
    found, ok = [], True
    answers: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for key, title, metric, unit, bar, points in curves(options.quick):
        entry = {"key": key, "title": title, "unit": unit, "bar": bar, "libraries": {}}
        for library in options.libraries.split(","):
            medians = _medians(library, points, metric, rounds, answers)
            if len(medians) > 1:
                entry["libraries"][library] = {"points": medians, "slope": slope(medians)}
            ok &= library != "ours" or (len(medians) == len(points) and slope(medians) <= bar)
        found.append(entry)
    text = render(found)
    rows.keep("growth", {"machine": envs.machine(), "rounds": rounds, "curves": found}, text, quick=options.quick)
    print(text)
    return 0 if ok else 1


def _medians(library, points, metric, rounds, answers):
    medians = []
    for size, (work, params) in points.items():
        taken = answers.setdefault((library, work, size), [])
        while len(taken) < rounds:
            rows.say(f"{work} {library} {size:,}")
            outcome = runner.run(work, library, params, 120)
            if outcome.state != "ok":
                rows.say(f"  {outcome.state}: {outcome.detail}")
                break
            taken.append(outcome.value)
        if taken:
            medians.append((size, max(1e-9, statistics.median(value[metric] for value in taken))))
    return medians


def render(found) -> str:
    lines = []
    for entry in found:
        lines.append(f"\n### {entry['title'][0].upper()}{entry['title'][1:]}\n")
        sizes = sorted({size for lib in entry["libraries"].values() for size, _ in lib["points"]})
        lines.append("| library | " + " | ".join(f"{s:,}" for s in sizes) + " | slope | bar | |")
        lines.append("|---|" + "---:|" * (len(sizes) + 2) + "---|")
        for name, lib in entry["libraries"].items():
            costs = dict(lib["points"])
            cells = " | ".join(f"{rows.figure(costs[s])} {entry['unit']}" if s in costs else "–" for s in sizes)
            met = "" if name != "ours" else "met" if lib["slope"] <= entry["bar"] else "**not met**"
            lines.append(f"| {name} | {cells} | {lib['slope']:+.2f} | ≤ {entry['bar']} | {met} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
