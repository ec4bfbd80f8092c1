#!/usr/bin/env python3
"""Ordinary faults, each in a fresh process with a time limit, against every library: who survives what.

    python benchmarks/faults.py [--only WORD] [--libraries ours,pebble] [--repeat 3] [--jobs 4]

"pass" means: only the guilty task gets an error, promptly (2 s), or it just works, and the pool still answers
afterwards. Everything else says what happened instead: `hang` (no answer while we waited), `broken` (an answer, but
the pool is unusable), `late`, `misleading` (a bad payload reported as a dead worker), `parent died`, `–` (the library
has no such thing). Exit status 1 if ours fails a cell.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness import envs, payloads, rows, runner, tasks
from harness.adapters import LIBRARIES, NoAnswerError

PROMPT_S = 2.0
PATIENCE_S = 8.0
#: what the libraries raise when a worker died; raised for a bad payload, it sends the user after the wrong fault
LOSSES = {"WorkerLostError", "BrokenProcessPool", "TerminatedWorkerError", "ProcessExpired", "ProcessError"}


# The child's side: one function per fault, called as `fault(library)`.


def _verdict(word, detail=""):
    return {"verdict": word, "detail": detail}


def _ask(pool, fn, args=(), patience_s=PATIENCE_S, **options):
    """What became of one call: (kind, value or error, seconds); kind is value, error or hang."""
    started = time.monotonic()
    try:
        value = pool.result(pool.submit(fn, args, **options), patience_s)
    except NoAnswerError:
        return "hang", None, time.monotonic() - started
    except BaseException as error:
        return "error", error, time.monotonic() - started
    return "value", value, time.monotonic() - started


def _still_answers(pool):
    """None when three calls come back right; else what is wrong."""
    for i in range(3):
        kind, value, _ = _ask(pool, tasks.tiny, (i,), 5)
        if kind == "hang":
            return "hang afterwards"
        if kind == "error":
            return f"broken: {_name(value)} afterwards"
        if value != i:
            return f"wrong result afterwards: {value!r}"
    return None


def _name(error):
    # billiard 4.3.2 raises a wrapper that no `except WorkerLostError` catches; look inside to say what it was
    inner = getattr(error, "exc", None)
    return type(inner if isinstance(inner, BaseException) else error).__name__


def _judge(pool, answer, *, may_work=False, lost=False):
    kind, value, seconds = answer
    if kind == "hang":
        return _verdict("hang", f"no answer in {seconds:.0f} s")
    if kind == "value" and not may_work:
        return _verdict("ignored", f"returned {value!r}")
    sick = _still_answers(pool)
    shown = f"{_name(value) if kind == 'error' else 'works'}, {seconds:.2f} s"
    if sick:
        return _verdict("broken" if sick.startswith("broken") else "hang", f"{shown}; {sick}")
    if seconds > PROMPT_S:
        return _verdict("late", shown)
    died = kind == "error" and (_name(value) in LOSSES or "died unexpectedly" in str(value))
    if died and not lost:
        return _verdict("misleading", shown)
    return _verdict("pass", shown)


def killed_mid_task(library):
    pool = LIBRARIES[library](2)
    with tempfile.TemporaryDirectory() as scratch:
        innocent = pool.submit(tasks.nap_and_return, (1.0, 42))
        guilty = pool.submit(tasks.announce_then_nap, (f"{scratch}/pid", 60))
        os.kill(int(_read_when_there(f"{scratch}/pid")), signal.SIGKILL)
        started = time.monotonic()
        try:
            answer = ("value", pool.result(guilty, 15), time.monotonic() - started)
        except NoAnswerError:
            answer = ("hang", None, time.monotonic() - started)
        except BaseException as error:
            answer = ("error", error, time.monotonic() - started)
        found = _judge(pool, answer, lost=True)
        if found["verdict"] == "pass":
            try:
                if pool.result(innocent, 5) != 42:
                    return _verdict("wrong", "the innocent task's result")
            except BaseException as error:
                return _verdict("broken", f"the innocent task: {_name(error)}")
        return found


def idle_killed(library, workers=2):
    pool = LIBRARIES[library](workers)
    for i in range(20):
        pool.result(pool.submit(tasks.tiny, (i,)), 10)
    pids = _worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    _wait_gone(pids)
    answer = _ask(pool, tasks.tiny, (1,))
    if answer[0] == "error":
        return _verdict("broken", f"{_name(answer[1])}; {_still_answers(pool) or 'answers afterwards'}")
    return _judge(pool, answer, may_work=True)


def idle_killed_pool_of_1(library):
    return idle_killed(library, 1)


def exception_not_loading(library):
    pool = LIBRARIES[library](2)
    first = _judge(pool, _ask(pool, payloads.raise_two_arguments))
    if first["verdict"] != "pass":
        return first
    return _judge(pool, _ask(pool, payloads.raise_two_arguments))  # billiard's second one ends the parent


def unpicklable_result(library):
    pool = LIBRARIES[library](2)
    return _judge(pool, _ask(pool, payloads.return_unpicklable), may_work=True)


def result_not_loading(library):
    pool = LIBRARIES[library](2)
    return _judge(pool, _ask(pool, payloads.return_poison, (os.getpid(),)))


def argument_not_loading(library):
    pool = LIBRARIES[library](2)
    return _judge(pool, _ask(pool, payloads.take, (payloads.FailsToLoadInWorker(),)))


def lambda_function(library):
    pool = LIBRARIES[library](2)
    return _judge(pool, _ask(pool, lambda: 1), may_work=True)


def sys_exit(library):
    pool = LIBRARIES[library](2)
    return _judge(pool, _ask(pool, payloads.leave))


def generator_result(library):
    pool = LIBRARIES[library](2)
    return _judge(pool, _ask(pool, payloads.generate), may_work=True)


def initializer_raises(library):
    try:
        pool = LIBRARIES[library](2, initializer=payloads.boom)
        kind, value, seconds = _ask(pool, tasks.tiny, (1,))
    except Exception as error:
        return _verdict("pass", f"{_name(error)} in the constructor")
    if kind == "error":
        return _verdict("pass" if seconds < PATIENCE_S else "late", f"{_name(value)}, {seconds:.2f} s")
    return _verdict("hang", f"no answer in {seconds:.0f} s") if kind == "hang" else _verdict("ignored", f"{value!r}")


def kills_itself(library):
    pool = LIBRARIES[library](2)
    return _judge(pool, _ask(pool, payloads.kill_me, (), 15), lost=True)


def kills_under_load(library, kills=15, every_s=0.3):
    """Random workers die while 4 of them are kept busy: everything must end, one task lost per kill at most."""
    pool = LIBRARIES[library](4)
    pool.result(pool.submit(tasks.tiny, (1,)), 10)
    chance, killed, all_killed = random.Random(1), [], threading.Event()

    def killer():
        for _ in range(kills):
            time.sleep(every_s)
            if pids := _worker_pids():
                killed.append(chance.choice(pids))
                os.kill(killed[-1], signal.SIGKILL)
        all_killed.set()

    threading.Thread(target=killer).start()
    ends, handles = Counter(), []
    while not all_killed.wait(0.02):  # up to 5,000 tasks a second: more than most can do, so that a queue stands
        for i in range(100):
            try:
                handles.append(pool.submit(tasks.nap_and_return, (0.0003, i)))
            except Exception:
                ends["refused"] += 1
    deadline = time.monotonic() + 20
    for h in handles:
        try:
            pool.result(h, max(0.001, deadline - time.monotonic()))
            ends["ended"] += 1
        except NoAnswerError:
            ends["unresolved"] += 1
        except BaseException:
            ends["failed"] += 1
    sick = _still_answers(pool)
    lost = ", ".join(f"{ends[what]:,} {what}" for what in ("failed", "refused", "unresolved") if ends[what])
    shown = f"{len(killed)} kills, {sum(ends.values()):,} tasks: {lost or 'none lost'}" + (f"; {sick}" if sick else "")
    if ends["unresolved"]:
        return _verdict("hang", shown)
    if sick or ends["refused"] or ends["failed"] > len(killed):
        return _verdict("broken", shown)
    return _verdict("pass", shown)


def killer_among_40(library):
    pool = LIBRARIES[library](2)
    handles = [pool.submit(payloads.kill_me if i == 20 else tasks.tiny, (i,)) for i in range(41)]
    ends = Counter()
    deadline = time.monotonic() + 15
    for h in handles:
        try:
            pool.result(h, max(0.001, deadline - time.monotonic()))
            ends["ended"] += 1
        except NoAnswerError:
            ends["unresolved"] += 1
        except BaseException:
            ends["failed"] += 1
    sick = _still_answers(pool)
    shown = ", ".join(f"{n} {what}" for what, n in ends.items()) + (f"; {sick}" if sick else "")
    if ends["unresolved"]:
        return _verdict("hang", shown)
    return _verdict("pass" if ends["failed"] == 1 and not sick else "broken", shown)


def unpicklable_argument(library):
    pool = LIBRARIES[library](2)
    return _judge(pool, _ask(pool, payloads.take, (threading.Lock(),)))


def recycle_each_task(library):
    pool = LIBRARIES[library](2, maxtasks=1)
    started = time.monotonic()
    handles = [pool.submit(tasks.tiny, (i,)) for i in range(20)]
    got = [pool.result(h, 20) for h in handles]
    return _timed(started, PROMPT_S, got == list(range(20)))


def recycle_in_map(library):
    pool = LIBRARIES[library](2, maxtasks=2)
    started = time.monotonic()
    if hasattr(pool.pool, "map_async"):
        got = pool.pool.map_async(_nap_half, range(8), 1).get(20)
    else:
        handles = [pool.submit(_nap_half, (i,)) for i in range(8)]
        got = [pool.result(h, 20) for h in handles]
    return _timed(started, 4, got == list(range(8)))


def _nap_half(x):
    return tasks.nap_and_return(0.5, x)


def map_then_close(library):
    pool = LIBRARIES[library](2)
    if pool.map(tasks.tiny, range(1000), 1) != list(range(1000)):
        return _verdict("wrong", "results")
    started = time.monotonic()
    pool.close()
    return _timed(started, PROMPT_S, True)


def _timed(started, prompt_s, right):
    seconds = time.monotonic() - started
    if not right:
        return _verdict("wrong", "results")
    return _verdict("pass" if seconds <= prompt_s else "late", f"{seconds:.2f} s")


def limit_on_default_pool(library):
    pool = LIBRARIES[library](2)
    return _limited(pool, tasks.nap, 5, 1)


def _limited(pool, task, seconds, limit_s, patience_s=15):
    kind, value, took = _ask(pool, task, (seconds,), patience_s, timeout=limit_s)
    if kind == "value":
        return _verdict("ignored", f"ran {took:.1f} s")
    return _judge(pool, (kind, value, took - limit_s if kind == "error" else took), lost=True)


def three_limits(library):
    pool = LIBRARIES[library](2, limits=True)
    late = []
    for limit_s in (0.2, 1.0, 1.0):
        found = _limited(pool, tasks.nap, 60, limit_s)
        if found["verdict"] not in ("pass", "late"):
            return found
        late.append(found["detail"].split(", ")[-1])
    return _verdict("pass", "overshoot " + ", ".join(late))


def limit_in_c_call(library):
    return _limited(LIBRARIES[library](2, limits=True), payloads.long_c_call, 8, 1)


def soft_limit(library):
    pool = LIBRARIES[library](2, limits=True)
    kind, value, seconds = _ask(pool, payloads.python_loop, (6,), 15, soft_timeout=1)
    if kind == "error" and _name(value) == "SoftTimeLimitExceeded":
        sick = _still_answers(pool)
        late = seconds - 1
        return _verdict("broken" if sick else "pass" if late < 0.5 else "late", sick or f"overshoot {late:.2f} s")
    return _verdict("hang" if kind == "hang" else "ignored", f"{kind} after {seconds:.1f} s")


def task_children_go(library):
    """The hard limit must end the task's own child processes too."""
    pool = LIBRARIES[library](2, limits=True)
    with tempfile.TemporaryDirectory() as scratch:
        handle = pool.submit(payloads.child_then_nap, (f"{scratch}/pid", 60), timeout=1)
        child = int(_read_when_there(f"{scratch}/pid"))
        try:
            pool.result(handle, 15)
        except NoAnswerError:
            return _verdict("hang", "no answer in 15 s")
        except BaseException:
            pass
        try:
            _wait_gone([child], 2)
        except TimeoutError:
            return _verdict("orphan", "the task's child lives on")
        return _verdict("pass", "the task's child is gone")


def catchable(library):
    """`except` the documented type of a lost worker."""
    if library in ("ours", "billiard 4"):
        from billiard.exceptions import WorkerLostError as Lost
    elif library == "pebble":
        from pebble import ProcessExpired as Lost
    elif library == "deadpool":
        from deadpool import ProcessError as Lost
    elif library == "mpire":
        Lost = RuntimeError  # noqa: N806 - mpire documents no better type
    else:
        from concurrent.futures.process import BrokenProcessPool as Lost
    pool = LIBRARIES[library](2)
    kind, error, _ = _ask(pool, payloads.kill_me, (), 15)
    if kind == "hang":
        return _verdict("hang", "no answer in 15 s")
    if isinstance(error, Lost):
        return _verdict("pass", type(error).__name__)
    return _verdict("wrong type", type(error).__name__)


def interrupted(library, marker):
    """Not a fault by itself: the process that ctrl_c interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pool = LIBRARIES[library](2)
    with pool.pool:
        handles = [pool.submit(tasks.nap, (30,)) for _ in range(4)]
        time.sleep(0.5)  # nobody can say for every library that both workers run
        Path(marker).write_text("")
        for h in handles:
            pool.result(h, 60)


def ctrl_c(library):
    with tempfile.TemporaryDirectory() as scratch, open(f"{scratch}/stderr", "w+") as stderr:
        params = json.dumps({"marker": f"{scratch}/marker"})
        command = [sys.executable, "-m", "harness.child", "faults:interrupted", library, params, f"{scratch}/out"]
        process = subprocess.Popen(command, stderr=stderr, start_new_session=True)
        _read_when_there(f"{scratch}/marker", empty_is_fine=True)
        os.killpg(process.pid, signal.SIGINT)
        started = time.monotonic()
        try:
            process.wait(12)
        except subprocess.TimeoutExpired:
            return _verdict("hang", "did not exit in 12 s")
        seconds = time.monotonic() - started
        stderr.seek(0)
        said = stderr.read().count("Traceback (most recent call last)")
        shown = f"{seconds:.2f} s, {said} tracebacks"
        if seconds > PROMPT_S:
            return _verdict("late", shown)
        return _verdict("pass" if said <= 1 else "noisy", shown)


def parent_killed(library):
    """The runner counts who is left 2 s after this process has killed itself."""
    pool = LIBRARIES[library](2)
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(2):
            pool.submit(tasks.announce_then_nap, (f"{scratch}/{i}", 20))
        for i in range(2):
            _read_when_there(f"{scratch}/{i}")
    os.kill(os.getpid(), signal.SIGKILL)


def endless_input(library):
    """How far a lazy map runs ahead of a slow reader: 100 results read, 5 ms each."""
    pool = LIBRARIES[library](2)
    taken = [0]

    def source():
        for i in range(50_000):
            taken[0] += 1
            yield i

    if hasattr(pool.pool, "imap"):
        results = iter(pool.pool.imap(tasks.tiny, source()))
    elif library == "pebble":
        results = pool.pool.map(tasks.tiny, source()).result()
    else:
        results = pool.pool.map(tasks.tiny, source())
    for _ in itertools.islice(results, 100):
        time.sleep(0.005)
    ahead = taken[0] - 100
    return _verdict("pass" if ahead <= 2000 else "unbounded", f"{ahead:,} inputs ahead")


def fds_leaked(library):
    def once():
        pool = LIBRARIES[library](2)
        pool.result(pool.submit(tasks.tiny, (1,)), 10)
        pool.close()

    once()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        once()
    leaked = (len(os.listdir("/proc/self/fd")) - before) / 3
    return _verdict("pass" if leaked <= 0 else "leak", f"{leaked:g} per pool")


def submit_after_close(library):
    pool = LIBRARIES[library](2)
    pool.result(pool.submit(tasks.tiny, (1,)), 10)
    pool.close()
    try:
        handle = pool.submit(tasks.tiny, (1,))
    except Exception as error:
        return _verdict("pass", type(error).__name__)
    if handle is None:
        return _verdict("silent", "returns None")
    try:
        return _verdict("pass", f"works: {pool.result(handle, 5)!r}")
    except NoAnswerError:
        return _verdict("hang", "accepted, never answered")


def _read_when_there(path, empty_is_fine=False, limit_s=10):
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if Path(path).exists() and (empty_is_fine or Path(path).stat().st_size):
            return Path(path).read_text()
        time.sleep(0.005)
    raise TimeoutError(f"{path} did not appear")


def _worker_pids():
    """The leaves of this process's tree; trackers and servers of the start methods are not workers."""
    tree = runner.descendants(os.getpid())
    helpers = ("resource_tracker", "semaphore_tracker", "forkserver", "tracker import main")
    found = []
    for pid in tree:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if not runner.descendants(pid) and not any(word in command for word in helpers):
            found.append(pid)
    return found


def _wait_gone(pids, limit_s=5):
    deadline = time.monotonic() + limit_s
    left = list(pids)
    while left:
        left = [pid for pid in left if _alive(pid)]
        if left and time.monotonic() > deadline:
            raise TimeoutError(f"{left} still alive")
        time.sleep(0.01)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# The runner's side.


@dataclass(frozen=True)
class Fault:
    work: str
    title: str
    needs: str = ""  # what a library must be able to do, else the cell is "–"
    limit_s: float = 40.0
    survivors_after_s: float = 0.0


ORDINARY = [
    Fault("killed_mid_task", "worker SIGKILLed mid-task"),
    Fault("idle_killed", "all idle workers killed"),
    Fault("exception_not_loading", "exception that pickles but won't unpickle, twice"),
    Fault("unpicklable_result", "unpicklable result"),
    Fault("result_not_loading", "result that fails to load in the parent"),
    Fault("argument_not_loading", "argument that fails to load in the worker"),
    Fault("lambda_function", "lambda as function"),
    Fault("sys_exit", "`sys.exit()` in a task"),
    Fault("generator_result", "task returns a generator"),
    Fault("initializer_raises", "initializer raises"),
]
FURTHER = [
    Fault("kills_itself", "task SIGKILLs itself"),
    Fault("idle_killed_pool_of_1", "idle worker of a pool of 1 killed, then a call"),
    Fault("kills_under_load", "`kill -9` of a random worker every 0.3 s × 15, 4 workers under load", limit_s=60),
    Fault("killer_among_40", "1 killer task among 40 others"),
    Fault("unpicklable_argument", "unpicklable argument (a lock)"),
    Fault("recycle_each_task", "20 tiny tasks, a new worker for each", "maxtasks"),
    Fault("recycle_in_map", "8 tasks × 0.5 s, a new worker every 2 tasks", "maxtasks"),
    Fault("map_then_close", "`map`, then `close()` + `join()`"),
    Fault("limit_on_default_pool", "a limit of 1 s on one call of a default pool", "limit"),
    Fault("three_limits", "hard limits of 0.2 s, 1 s, 1 s in a row", "limit", limit_s=60),
    Fault("limit_in_c_call", "hard limit of 1 s inside one long C call", "limit"),
    Fault("soft_limit", "soft limit of 1 s in Python code", "soft"),
    Fault("task_children_go", "the task's own child process after the hard limit", "limit"),
    Fault("catchable", "a lost worker is raised as its documented type"),
    Fault("ctrl_c", "Ctrl-C to the group inside `with Pool()`, 30 s tasks running and queued"),
    Fault("parent_killed", "parent SIGKILLed, workers busy: processes left after 2 s", survivors_after_s=2.0),
    Fault("endless_input", "lazy `map` over a long generator, slow reader"),
    Fault("fds_leaked", "file descriptors leaked per pool"),
    Fault("submit_after_close", "a call after `close()`"),
]


def run_cell(fault: Fault, library: str) -> dict[str, object]:
    if fault.needs and fault.needs not in LIBRARIES[library].can:
        return {"verdict": "–", "detail": f"has no {fault.needs}"}
    outcome = runner.run(f"faults:{fault.work}", library, {}, fault.limit_s, survivors_after_s=fault.survivors_after_s)
    if fault.survivors_after_s:
        if outcome.state == "crash" and "exit -9" in outcome.detail:
            word = "pass" if not outcome.survivors else "orphans"
            return {"verdict": word, "detail": f"{outcome.survivors} left"}
        return {"verdict": outcome.state, "detail": outcome.detail}
    if outcome.state == "ok":
        return outcome.value
    if outcome.state == "crash" and "NoAnswerError" in outcome.detail:
        return {"verdict": "hang", "detail": outcome.detail}
    if outcome.state == "crash":
        # an uncaught error of a peer is its answer; a vanished parent is something else
        told = "Traceback" in outcome.stderr and outcome.detail.startswith("exit 1")
        return {"verdict": "broken" if told else "parent died", "detail": outcome.detail}
    return {"verdict": outcome.state, "detail": outcome.detail}


def render(cells: dict[str, dict[str, dict[str, object]]], libraries: list[str], *, details: bool) -> str:
    lines = []
    for title, faults in (("Ten ordinary faults", ORDINARY), ("Further faults and actions", FURTHER)):
        shown = [f for f in faults if f.work in cells]
        if not shown:
            continue
        lines += [f"\n### {title}\n", "| fault | " + " | ".join(libraries) + " |", "|---|" + "---|" * len(libraries)]
        lines += [
            f"| {f.title} | " + " | ".join(_cell(cells[f.work][n], details) for n in libraries) + " |" for f in shown
        ]
        scores = []
        for name in libraries:
            words = [cells[f.work][name]["verdict"] for f in shown]
            scores.append(f"**{words.count('pass')}/{len(words) - words.count('–')}**")
        lines.append("| **passed** | " + " | ".join(scores) + " |")
    return "\n".join(lines)


def _cell(cell: dict[str, object], details: bool) -> str:
    word = "**pass**" if cell["verdict"] == "pass" else str(cell["verdict"])
    extra = str(cell["detail"]).replace("|", "/")[:90]
    return f"{word} ({extra})" if details and extra and word != "–" else word


def run_cells(only: str, libraries: list[str], repeat: int) -> dict[str, dict[str, dict[str, object]]]:
    cells: dict[str, dict[str, dict[str, object]]] = {}
    for fault in (*ORDINARY, *FURTHER):
        if only not in fault.work:
            continue
        for name in libraries:
            tries = [run_cell(fault, name) for _ in range(repeat)]
            cell = next((c for c in tries if c["verdict"] != "pass"), tries[-1])
            cells.setdefault(fault.work, {})[name] = cell
            rows.say(f"{fault.work:24} {name:12} {cell['verdict']:12} {cell['detail']}")
    return cells


def run_beside(only: str, libraries: list[str], repeat: int, jobs: int) -> dict[str, dict[str, dict[str, object]]]:
    """A process of this program per library: most of the time is spent waiting for hangs, so they can wait together."""

    def one(name: str) -> dict[str, dict[str, dict[str, object]]]:
        command = [sys.executable, __file__, "--json", "--only", only, "--libraries", name, "--repeat", str(repeat)]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, timeout=3600).stdout)["cells"]

    for name in libraries:  # made here, not by several processes at once
        envs.python_of(LIBRARIES[name].env)
    cells: dict[str, dict[str, dict[str, object]]] = {}
    with ThreadPoolExecutor(jobs) as executor:
        for found in executor.map(one, libraries):
            for work, by_library in found.items():
                cells.setdefault(work, {}).update(by_library)
    return cells


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--only", default="", help="only the faults whose name contains this")
    parser.add_argument("--libraries", default=",".join(LIBRARIES))
    parser.add_argument("--repeat", type=int, default=1, help="run each cell so often; a cell passes if all do")
    parser.add_argument("--jobs", type=int, default=1, help="so many libraries at a time")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    libraries = options.libraries.split(",")
    if options.jobs > 1:
        cells = run_beside(options.only, libraries, options.repeat, options.jobs)
    else:
        cells = run_cells(options.only, libraries, options.repeat)
    document = {
        "machine": envs.machine(),
        "versions": {k: v for e in ("ours", "billiard4", "peers") for k, v in envs.versions_in(e).items()},
        "cells": cells,
    }
    if not options.only and libraries == list(LIBRARIES):
        rows.keep("faults", document, render(cells, libraries, details=False), quick=False)
    print(json.dumps(document, indent=1) if options.json else render(cells, libraries, details=True))
    failed = [w for w, by in cells.items() if "ours" in by and by["ours"]["verdict"] not in ("pass", "–")]
    if failed:
        rows.say(f"ours fails: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
