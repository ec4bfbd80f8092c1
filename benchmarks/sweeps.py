#!/usr/bin/env python3
"""The curves behind the plots: latency distribution, payload sizes, task lengths, and a kill every second.

    python benchmarks/sweeps.py [--quick] [--only timeline] [--libraries ours,mp.Pool]

Draws nothing; `plots.py` does, from what is kept here.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import threading
import time

from faults import _worker_pids
from harness import envs, rows, runner, tasks
from harness.adapters import LIBRARIES

# work


def task_length(library, length_us, seconds):
    """Tasks of `length_us` of CPU time, for about `seconds`: the share of two cores that goes into tasks."""
    pool = LIBRARIES[library](2)
    length = length_us / 1e6
    pool.burst(tasks.tiny, 200)
    n = max(20, min(20_000, int(2 * seconds / (length + 5e-6))))
    started = time.perf_counter()
    handles = [pool.submit(tasks.spin, (length,)) for _ in range(n)]
    for h in handles:
        pool._get(h, None)
    elapsed = time.perf_counter() - started
    return {"rate": n / elapsed, "efficiency": n * length / (2 * elapsed)}


def timeline(library, seconds, every_s=1.0, bin_s=0.1):
    """Results per 0.1 s while a random worker is killed every second. A broken pool is opened anew by nobody."""
    pool = LIBRARIES[library](2)
    pool.burst(tasks.tiny, 200)
    counts: list[int] = [0] * int(seconds / bin_s)
    started = time.monotonic()
    stop = threading.Event()
    kills = []

    def killer():
        while not stop.wait(every_s):
            if pids := _worker_pids():
                kills.append(time.monotonic() - started)
                os.kill(random.choice(pids), signal.SIGKILL)

    threading.Thread(target=killer, daemon=True).start()
    failed, flight = 0, []
    while time.monotonic() - started < seconds:
        try:
            flight += [pool.submit(tasks.tiny, (i,)) for i in range(200)]
        except Exception:
            failed += 1
            time.sleep(0.01)
        while len(flight) > 200 or (flight and pool.done(flight[0])):
            left = seconds - (time.monotonic() - started)
            if left <= 0:
                break
            try:
                pool.result(flight[0], left)
            except Exception:
                failed += 1
            else:
                counts[min(len(counts) - 1, int((time.monotonic() - started) / bin_s))] += 1
            del flight[0]
    stop.set()
    return {"per_s": [c / bin_s for c in counts], "bin_s": bin_s, "kills": kills, "failed": failed}


# the runner's side


def cases(quick: bool):
    """(curve, library, x, work, params, limit)"""
    sizes = [1 << k for k in (range(10, 23, 4) if quick else range(10, 29, 2))]
    lengths = [1, 100, 10_000] if quick else [1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000]
    seconds = 3.0 if quick else 8.0
    for name in LIBRARIES:
        yield "latency", name, 0, "latency:apply_one", {"n": 300 if quick else 2000, "keep_samples": True}, 60
    yield "latency", "socketpair", 0, "latency:ping_pong", {"n": 300 if quick else 2000, "keep_samples": True}, 60
    for size in sizes:
        n = 3 if size >= 1 << 24 else 10
        for name in LIBRARIES:
            yield "payload", name, size, "payload:round_trip_apply", {"kind": "bytes", "size": size, "n": n}, 60
    for length in lengths:
        for name in LIBRARIES:
            params = {"length_us": length, "seconds": 0.3 if quick else 0.6}
            yield "length", name, length, "sweeps:task_length", params, 60
    for name in LIBRARIES:
        yield "timeline", name, 0, "sweeps:timeline", {"seconds": seconds}, seconds + 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="only this curve: latency, payload, length or timeline")
    parser.add_argument("--libraries", default="")
    options = parser.parse_args()
    where = envs.cache_dir() / "quick" if options.quick else rows.results_dir()
    kept = where / "sweeps.json"
    curves = json.loads(kept.read_text())["curves"] if kept.exists() else {}
    where.mkdir(parents=True, exist_ok=True)
    versions = {k: v for e in ("ours", "billiard4", "peers") for k, v in envs.versions_in(e).items()}
    for curve, name, x, work, params, limit_s in cases(options.quick):
        if options.only not in curve or (options.libraries and name not in options.libraries.split(",")):
            continue
        rows.say(f"{curve} {name} {x:,}")
        outcome = runner.run(work, "bare" if name == "socketpair" else name, params, limit_s)
        points = curves.setdefault(curve, {}).setdefault(name, {})
        points[str(x)] = outcome.value if outcome.state == "ok" else {"failed": outcome.detail}
        if outcome.state != "ok":
            rows.say(f"  {outcome.state}: {outcome.detail}")
        # after each point: a run that is cut short has still drawn its part of the curves
        kept.write_text(json.dumps({"machine": envs.machine(), "versions": versions, "curves": curves}) + "\n")
    print(f"kept {', '.join(f'{c}: {len(p)} libraries' for c, p in curves.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
