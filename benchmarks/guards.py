#!/usr/bin/env python3
"""Guards what speed was won, without a clock: system calls and changes of threads per 1,000 tasks, instructions per task.

    python benchmarks/guards.py              check against benchmarks/budgets.json; exit status 1 when over budget
    python benchmarks/guards.py --update     write new budgets; the commit that does so says what the calls are spent on

Each figure is the difference between a longer and a shorter run of the same work, so that start-up is not in it.
System calls come from `strace -c -f` (parent, template and workers together), instructions from callgrind, per side.
Both tools slow the processes, each differently, and so change how many messages share a system call: the system calls
repeat within some per cent, the instructions of `apply` too, those of `burst` and `map1` within fifteen. Budgets are set
above the largest of several runs. How often the kernel changes between the threads of a parent in which eight of them call
`apply` is counted without a tool; it varies by a half, and was three times as much before system calls kept the interpreter.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path

from harness import envs, rows, runner, tasks
from harness.adapters import LIBRARIES

BUDGETS = envs.BENCHMARKS / "budgets.json"
KINDS = ("burst", "apply", "map1")
#: how much more than measured `--update` allows
MARGIN = {"system_calls_per_1000": 1.25, "instructions_per_task": 1.05, "context_switches_per_1000": 1.5}

# work


def fixed(library, kind, n, workers=2, under_valgrind=False):
    if under_valgrind:
        _stand_in_for_pidfds()
    pool = LIBRARIES[library](workers)
    pool.burst(tasks.tiny, 200)
    if kind == "burst":
        right = pool.burst(tasks.tiny, n) == list(range(n))
    elif kind == "map1":
        right = pool.map(tasks.tiny, range(n), 1) == list(range(n))
    else:
        right = all(pool.apply(tasks.tiny, (i,)) == i for i in range(n))
    if not right:
        raise AssertionError("wrong results")
    pool.close()  # workers that end by themselves are the ones whose counts callgrind writes down
    return {"pid": os.getpid()}


def switched(library, n, threads=8):
    """How often the kernel takes a processor from a thread of the parent, or is given it back, while several call `apply`."""
    pool = LIBRARIES[library](2)
    pool.burst(tasks.tiny, 200)
    values = [[] for _ in range(threads)]

    def caller(mine):
        for i in range(n // threads):
            mine.append(pool.apply(tasks.tiny, (i,)))

    callers = [threading.Thread(target=caller, args=(mine,)) for mine in values]
    before = resource.getrusage(resource.RUSAGE_SELF)
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    after = resource.getrusage(resource.RUSAGE_SELF)
    if values != [list(range(n // threads))] * threads:
        raise AssertionError("wrong results")
    return {"switches": after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw}


def _stand_in_for_pidfds():
    """valgrind before 3.21 knows no pidfd_open: give the pool an fd that never becomes readable instead.

    Nothing dies in this run, so nobody misses what the fd would have told.
    """
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        os.pidfd_open = lambda pid, flags=0: os.eventfd(0)


# the runner's side


def system_calls(library: str, kind: str, n: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as scratch:
        out = f"{scratch}/strace"
        wrapper = ["strace", "-f", "-c", "-U", "calls,name", "-o", out]
        _must(runner.run("guards:fixed", library, {"kind": kind, "n": n}, 120, wrapper=wrapper))
        found = re.findall(r"^\s*(\d+)\s+(\w+)$", Path(out).read_text(), re.MULTILINE)
    return {name: int(count) for count, name in found if name != "total"}


def instructions(library: str, kind: str, n: int) -> dict[str, int]:
    """Of the parent, and of all other processes together. One worker, so that the split of the work cannot vary."""
    with tempfile.TemporaryDirectory() as scratch:
        wrapper = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={scratch}/cg.%p", "--quiet"]
        params = {"kind": kind, "n": n, "workers": 1, "under_valgrind": True}
        parent = _must(runner.run("guards:fixed", library, params, 300, wrapper=wrapper))["pid"]
        counts = {}
        for path in Path(scratch).glob("cg.*"):
            with contextlib.suppress(ValueError):
                counts[int(path.suffix[1:])] = int(re.findall(r"^(?:totals|summary): (\d+)", path.read_text(), re.M)[-1])
    if parent not in counts or len(counts) < 2:
        raise SystemExit(f"callgrind wrote counts of {len(counts)} processes, the parent's and a worker's are needed")
    return {"parent": counts.pop(parent), "workers": sum(counts.values())}


def _least_instructions(library: str, kind: str, n: int, repeat: int) -> dict[str, int]:
    """The least of some runs: what varies is only ever added (a thread that looked once more, a turn in vain)."""
    runs = [instructions(library, kind, n) for _ in range(repeat)]
    return {side: min(run[side] for run in runs) for side in ("parent", "workers")}


def _must(outcome: runner.Outcome):
    if outcome.state != "ok":
        raise SystemExit(f"the guarded run failed: {outcome.state} {outcome.detail}\n{outcome.stderr[-2000:]}")
    return outcome.value


def measure(library: str, repeat: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {kind: {} for kind in MARGIN}
    for kind in KINDS:
        short, long = (200, 1200) if kind == "apply" else (1000, 6000)
        counts = []
        for _ in range(repeat):
            rows.say(f"system calls of {kind}")
            few, many = system_calls(library, kind, short), system_calls(library, kind, long)
            each = {name: (many.get(name, 0) - few.get(name, 0)) * 1000 / (long - short) for name in {*few, *many}}
            counts.append(sum(each.values()))
            rows.say("  " + ", ".join(f"{k} {v:.0f}" for k, v in sorted(each.items(), key=lambda kv: -kv[1]) if v >= 5))
        found["system_calls_per_1000"][kind] = statistics.median(counts)
        rows.say(f"instructions of {kind}")
        few, many = _least_instructions(library, kind, 200, repeat), _least_instructions(library, kind, 700, repeat)
        for side in ("parent", "workers"):
            found["instructions_per_task"][f"{kind}, {side}"] = (many[side] - few[side]) / 500
    rows.say("changes of threads")
    runs = [_must(runner.run("guards:switched", library, {"n": 8000}, 120))["switches"] / 8 for _ in range(repeat)]
    found["context_switches_per_1000"]["apply in 8 threads"] = statistics.median(runs)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write new budgets from this run")
    parser.add_argument("--library", default="ours", help="measure a peer (of which no budget is kept)")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    for tool in ("strace", "valgrind"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not installed: the guards cannot count without it")
    found = measure(options.library, options.repeat)
    if options.update and options.library == "ours":
        kept = {
            what: {k: {"measured": round(v), "budget": round(v * MARGIN[what])} for k, v in figures.items()}
            for what, figures in found.items()
        }
        BUDGETS.write_text(json.dumps({"machine": envs.machine(), **kept}, indent=1) + "\n")
    budgets = json.loads(BUDGETS.read_text()) if BUDGETS.exists() and options.library == "ours" else {}
    print("| what | measured | budget | |\n|---|---:|---:|---|")
    over = 0
    for what, figures in found.items():
        for key, value in figures.items():
            budget = budgets.get(what, {}).get(key, {}).get("budget")
            over += budget is None or value > budget
            word = "no budget" if budget is None else "kept" if value <= budget else "**over budget**"
            allowed = "–" if budget is None else f"{budget:,}"
            print(f"| {what.replace('_', ' ')}: {key} | {value:,.0f} | {allowed} | {word} |")
    return 1 if over and options.library == "ours" else 0


if __name__ == "__main__":
    sys.exit(main())
