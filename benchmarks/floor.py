#!/usr/bin/env python3
"""The floor: what the work costs without any pool, and how far the engine is from it, per task and per side.

    python benchmarks/floor.py [--quick] [--profile]

Four floors, each a thing no pool of processes can do without:
- the calls pickled, unpickled and run, and their results pickled and unpickled, in one process;
- the same with the function sent once and a small number instead of it (what ours does);
- a socketpair ping-pong of 50 bytes between two Python processes (for one `apply`);
- a stream of 50-byte messages over a socketpair to an echoing process, many to a system call (for many calls).

Then the engine: wall time per task, CPU time per task in the parent and in the workers, and with `--profile` the
functions in which the parent's share goes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import socket
import statistics
import struct
import sys
import time
from pathlib import Path

from harness import envs, rows, runner, tasks
from harness.adapters import LIBRARIES

# work


def in_one_process(library, n):
    """Per call, in µs of CPU time: pickled with the function by name, then with a number in its place."""
    dumps, loads = pickle.dumps, pickle.loads
    clock = time.process_time  # set beside the CPU time of parent and workers
    started = clock()
    for i in range(n):
        fn, args, kwargs = loads(dumps((tasks.tiny, (i,), {}), 5))
        loads(dumps((True, fn(*args, **kwargs)), 5))
    by_name = (clock() - started) / n
    known = {7: tasks.tiny}
    started = clock()
    for i in range(n):
        number, args, kwargs = loads(dumps((7, (i,), {}), 5))
        loads(dumps((True, known[number](*args, **kwargs)), 5))
    by_number = (clock() - started) / n
    return {"by_name_us": 1e6 * by_name, "by_number_us": 1e6 * by_number}


def stream(library, n, size=50, window=256):
    """Per message, in µs: framed, written `window` at a time, echoed one by one by a Python process, read in bulk.

    The echo answers each message with its own `send`, as a worker must that holds no result back.
    """
    near, far = socket.socketpair()
    header = struct.Struct("<I")
    pid = os.fork()
    if not pid:
        near.close()
        _echo_frames(far, header)
        os._exit(0)
    far.close()
    frame = header.pack(size) + b"x" * size
    block, buffer = frame * window, bytearray(65536)
    started = time.perf_counter()
    for _ in range(n // window):
        near.sendall(block)
        missing = len(block)
        while missing:
            missing -= near.recv_into(buffer)
    elapsed = time.perf_counter() - started
    near.close()
    os.waitpid(pid, 0)
    return {"us": 1e6 * elapsed / (n // window * window)}


def _echo_frames(channel, header):
    pending = bytearray()
    buffer = bytearray(65536)
    view = memoryview(buffer)
    while count := channel.recv_into(buffer):
        pending += view[:count]
        at = 0
        while len(pending) - at >= header.size:
            (size,) = header.unpack_from(pending, at)
            end = at + header.size + size
            if end > len(pending):
                break
            channel.send(pending[at:end])
            at = end
        del pending[:at]


def engine(library, n, profile=False):
    """A burst and a `map`, with the CPU time of both sides. The parent's includes all its threads."""
    pool = LIBRARIES[library](2)
    pool.burst(tasks.tiny, 2000)
    found = {}
    for name, work in (
        ("burst", lambda: pool.burst(tasks.tiny, n)),
        ("map", lambda: pool.map(tasks.tiny, range(n), 1)),
    ):
        workers = _cpu_of_descendants()
        parent, wall = time.process_time(), time.perf_counter()
        work()
        wall, parent = time.perf_counter() - wall, time.process_time() - parent
        workers = _cpu_of_descendants() - workers
        found[name] = {"wall_us": 1e6 * wall / n, "parent_us": 1e6 * parent / n, "workers_us": 1e6 * workers / n}
    if profile:
        found["profile"] = _profiled(lambda: pool.burst(tasks.tiny, n), n)
    return found


def _cpu_of_descendants():
    total = 0
    for pid in runner.descendants(os.getpid()):
        with contextlib.suppress(OSError):
            # 1st field is the time on the CPU in ns; utime and stime of stat count in ticks of 10 ms
            total += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return total / 1e9


def _profiled(work, n):
    """The caller's thread under cProfile: shares are right, absolute times are inflated by the profiler."""
    import cProfile
    import pstats

    profiler = cProfile.Profile()
    profiler.runcall(work)
    stats = pstats.Stats(profiler).stats
    total = sum(row[2] for row in stats.values())
    top = sorted(stats.items(), key=lambda item: -item[1][2])[:15]
    return [
        {"where": f"{Path(file).name}:{line} {name}" if line else name, "share": row[2] / total, "calls": row[0] / n}
        for (file, line, name), row in top
    ]


# the runner's side


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    options = parser.parse_args()
    n, rounds = (5000, 2) if options.quick else (50000, 5)
    rounds = options.rounds or rounds
    taken: dict[str, list[dict[str, object]]] = {}
    for number in range(rounds):
        for key, work, library, params in (
            ("pickle", "floor:in_one_process", "bare", {"n": n}),
            ("stream", "floor:stream", "bare", {"n": n}),
            ("ping_pong", "latency:ping_pong", "bare", {"n": n // 20}),
            ("apply", "latency:apply_one", "ours", {"n": n // 20}),
            ("engine", "floor:engine", "ours", {"n": n}),
        ):
            rows.say(f"round {number + 1}/{rounds}: {key}")
            outcome = runner.run(work, library, params, 60)
            if outcome.state == "ok":
                taken.setdefault(key, []).append(outcome.value)
            else:
                rows.say(f"  {outcome.state}: {outcome.detail}")
    profile = None
    if options.profile:
        outcome = runner.run("floor:engine", "ours", {"n": n, "profile": True}, 60)
        profile = outcome.value["profile"] if outcome.state == "ok" else None
    text = render(taken, profile)
    document = {"machine": envs.machine(), "rounds": rounds, "taken": taken, "profile": profile}
    rows.keep("floor", document, text, quick=options.quick)
    print(text)
    return 0 if "engine" in taken else 1


def render(taken, profile) -> str:
    def middle(key, *path):
        figures = []
        for value in taken.get(key, []):
            for step in path:
                value = value[step]
            figures.append(value)
        return statistics.median(figures) if figures else None

    def show(x):
        return "–" if x is None else f"{x:.2f}"

    def over(x, floor):
        return "" if x is None or not floor else f"{x / floor:.2f} ×"

    name, number = middle("pickle", "by_name_us"), middle("pickle", "by_number_us")
    ping, echoed = middle("ping_pong", "p50_us"), middle("stream", "us")
    lines = [
        "### The floor: µs per call, without any pool\n",
        "| what | µs |",
        "|---|---:|",
        f"| pickled, unpickled, run, in one process, function by name | {show(name)} |",
        f"| the same, a number instead of the function | {show(number)} |",
        f"| 50-byte messages streamed to an echoing process and back | {show(echoed)} |",
        f"| socketpair ping-pong of 50 bytes, p50 | {show(ping)} |",
        "\n### The engine above it: µs per call\n",
        "| what | µs | of the floor | floor |",
        "|---|---:|---:|---|",
    ]
    apply = middle("apply", "p50_us")
    lines.append(f"| one `apply(tiny)`, p50 | {show(apply)} | {over(apply, ping)} | ping-pong |")
    for kind, title in (("burst", "`apply_async` + `get`"), ("map", "`map(chunksize=1)`")):
        for field, what in (
            ("wall_us", "wall"),
            ("parent_us", "CPU in the parent"),
            ("workers_us", "CPU in the workers"),
        ):
            value = middle("engine", kind, field)
            floor, floor_name = (echoed, "stream") if field == "wall_us" else (number, "pickle, both sides together")
            lines.append(f"| {title}, {what} | {show(value)} | {over(value, floor)} | {floor_name} |")
    if profile:
        lines += [
            "\n### Where the caller's time goes (cProfile of a burst)\n",
            "| share | calls per task | where |",
            "|---:|---:|---|",
        ]
        lines += [f"| {100 * p['share']:.1f} % | {p['calls']:.2f} | `{p['where']}` |" for p in profile]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
