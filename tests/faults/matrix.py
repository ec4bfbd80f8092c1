"""The fault matrix: every fault at every point of a call's life, with every start method, in every way to call.

    python -m tests.faults.matrix            a seeded tenth
    python -m tests.faults.matrix --all      every cell
    python -m tests.faults.matrix --list     the cells that cannot exist, and why
    python -m tests.faults.matrix --seed 7 --share 0.3 --only "mid-result"

After each cell: every call ended exactly once, only the guilty one may have failed, every other ran exactly once, the worker
count is what it was, nothing is left (processes, zombies, descriptors, threads), and all that within the bound.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import os
import random
import select
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import fault_tasks as t
import gauges

import billiard
from billiard import TimeLimitExceeded, WorkerLostError
from billiard.exceptions import TaskError
from billiard.pool import Pool

POINTS = (
    "before read", "mid-read", "before start", "in the task", "before the result", "mid-result", "after the result",
    "in the initializer", "at exit",
)  # fmt: skip
FAULTS = tuple(t.FAULTS)
METHODS = ("fork", "forkserver", "spawn")
WAYS = ("apply", "map", "imap", "callbacks", "caller-driven", "outer loop")

HANGS = {"SIGSTOP", "GIL held", "SIGTERM ignored"}
ERRORS = {"MemoryError", "unpicklable"}
LIMIT_S = 0.7
BOUND_S = 15.0
GUILTY, ITEMS = 3, 8


def impossible(point: str, fault: str) -> str | None:
    """Why this cell cannot exist, or None."""
    outside = {"SIGKILL", "SIGSEGV"}
    if point in ("before read", "mid-read"):
        if fault == "SIGSTOP":
            return "a stopped worker that has begun no call is not over any limit; suspension is tested on its own"
        if fault not in outside:
            return "no code of the user's runs there: only what comes from outside can strike"
    if point in ("mid-result", "after the result"):
        if fault in ERRORS:
            return "what a background thread raises ends that thread only"
        if fault in HANGS and point == "after the result":
            return "the call has ended, and no limit watches an idle worker"
        if fault == "SIGTERM ignored":
            return "a background thread cannot set a signal's handler"
    if point == "in the initializer" and fault in HANGS:
        return "there is no limit on an initializer"
    return None


def cells() -> list[tuple[str, str, str, str]]:
    return [
        (point, fault, method, way)
        for point, fault, method, way in itertools.product(POINTS, FAULTS, METHODS, WAYS)
        if impossible(point, fault) is None
    ]


def share_of(cells: list, share: float, seed: int) -> list:
    return random.Random(seed).sample(cells, max(1, int(len(cells) * share)))


# -- one cell


def run_cell(point: str, fault: str, method: str, way: str) -> float:
    """Run it; returns how long it took. Raises AssertionError with what was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        log = f"{folder}/log"
        before = _leftovers()
        began = time.monotonic()
        pool = _make_pool(point, fault, method, way, log)
        try:
            outcomes = CALLERS[way](pool, point, fault, log)
            took = time.monotonic() - began
            _check(outcomes, point, fault, t.noted(log))
            assert took < BOUND_S, f"it took {took:.1f} s"
            _check_staff(pool)
        finally:
            ending = time.monotonic()
            pool.terminate()
            ended = time.monotonic() - ending
            pool.join()
        assert ended < 3, f"terminate() took {ended:.1f} s"
        _check_left(before)
        return took


def _make_pool(point: str, fault: str, method: str, way: str, log: str) -> Pool:
    hang = fault in HANGS and point != "at exit"
    return Pool(
        2, t.initializer, (point, fault, log), context=billiard.get_context(method),
        threads=way not in ("caller-driven", "outer loop"),
        timeout=LIMIT_S if hang else None, maxtasksperchild=2 if point == "at exit" else None,
        on_process_exit=t.AtExit(fault, log) if point == "at exit" else None,
    )  # fmt: skip


def _items(point: str, fault: str, log: str) -> list[t.Item]:
    guilty = t.Item(log, GUILTY, point, fault)
    return [guilty if i == GUILTY else t.Item(log, i) for i in range(ITEMS)]


def _before_read(pool: Pool, point: str, fault: str) -> None:
    """Strike an idle worker from outside, or one that is stopped in the middle of a large frame."""
    if point not in ("before read", "mid-read"):
        return
    signum = signal.SIGKILL if fault == "SIGKILL" else signal.SIGSEGV
    pid = pool.apply(t.identify)
    if point == "before read":
        os.kill(pid, signum)
        return
    os.kill(pid, signal.SIGSTOP)
    blocks = [pool.apply_async(t.echo, (bytearray(1 << 23),)) for _ in range(2)]
    deadline = time.monotonic() + 5
    while not any(block.ready() for block in blocks) and time.monotonic() < deadline:
        pool.turn() if not pool.threads else time.sleep(0.005)
    os.kill(pid, signum)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    for block in blocks:  # read by none, so both go to a worker that lives
        assert len(block.get(BOUND_S)) == 1 << 23


def _outcome(get) -> object:
    try:
        return get()
    except billiard.TimeoutError:
        raise AssertionError("a call never ended") from None
    except Exception as exc:  # which one, the checks look at
        return exc


def by_apply(pool: Pool, point: str, fault: str, log: str) -> list:
    _before_read(pool, point, fault)
    return [_outcome(lambda item=item: pool.apply(t.run, (item,))) for item in _items(point, fault, log)]


def by_map(pool: Pool, point: str, fault: str, log: str) -> list:
    _before_read(pool, point, fault)
    result = pool.map_async(t.run, _items(point, fault, log), 1)
    value = _outcome(lambda: result.get(BOUND_S))
    if isinstance(value, list):
        return value
    return [value if i == GUILTY else i for i in range(ITEMS)]  # a map says one error; what ran is in the log


def by_imap(pool: Pool, point: str, fault: str, log: str) -> list:
    _before_read(pool, point, fault)
    results = pool.imap(t.run, _items(point, fault, log))
    outcomes = [_outcome(lambda: results.next(BOUND_S)) for _ in range(ITEMS)]
    with contextlib.suppress(StopIteration):
        raise AssertionError(f"one more came: {results.next(1)}")
    return outcomes


def by_callbacks(pool: Pool, point: str, fault: str, log: str) -> list:
    _before_read(pool, point, fault)
    told: dict[int, list] = {i: [] for i in range(ITEMS)}
    for i, item in enumerate(_items(point, fault, log)):
        mine = told[i]
        pool.apply_async(
            t.run, (item,), callback=mine.append, error_callback=lambda einfo, mine=mine: mine.append(einfo.exception)
        )
    deadline = time.monotonic() + BOUND_S
    while not all(told.values()):
        assert time.monotonic() < deadline, "a callback never came"
        time.sleep(0.002)
    assert all(len(mine) == 1 for mine in told.values()), "a callback came twice"
    return [told[i][0] for i in range(ITEMS)]


def by_caller(pool: Pool, point: str, fault: str, log: str) -> list:
    _before_read(pool, point, fault)
    results = [pool.apply_async(t.run, (item,)) for item in _items(point, fault, log)]
    return [_outcome(lambda result=result: result.get(BOUND_S)) for result in results]


def by_outer_loop(pool: Pool, point: str, fault: str, log: str) -> list:
    _before_read(pool, point, fault)
    results = [pool.apply_async(t.run, (item,)) for item in _items(point, fault, log)]
    poller, end = select.poll(), time.monotonic() + BOUND_S
    poller.register(pool.fileno(), select.POLLIN)
    while not all(result.ready() for result in results):
        now = time.monotonic()
        assert now < end, "a call never ended"
        deadline = pool.next_deadline()
        poller.poll(max(0.0, min(end, deadline or end) - now) * 1000 + 1)
        pool.handle_result_event()
    return [_outcome(lambda result=result: result.get(0)) for result in results]


CALLERS = {
    "apply": by_apply, "map": by_map, "imap": by_imap, "callbacks": by_callbacks, "caller-driven": by_caller,
    "outer loop": by_outer_loop,
}  # fmt: skip


# -- what must hold


def _check(outcomes: list, point: str, fault: str, ran: list[str]) -> None:
    assert len(outcomes) == ITEMS
    for i, outcome in enumerate(outcomes):
        if i != GUILTY:
            assert outcome == i, f"call {i} is innocent and ended with {outcome!r}"
            assert ran.count(str(i)) == 1, f"call {i} ran {ran.count(str(i))} times"
    assert ran.count(str(GUILTY)) <= 1, "the guilty call ran twice"
    outcome = outcomes[GUILTY]
    allowed = allowed_outcomes(point, fault)
    assert any(
        outcome == GUILTY if kind is None else (kind is bytearray and isinstance(outcome, bytearray)) or type(outcome) is kind
        for kind in allowed
    ), f"the guilty call ended with {outcome!r}, not with one of {allowed}"


def allowed_outcomes(point: str, fault: str) -> tuple:
    """Types of the guilty call's end; None: its own value."""
    if point in ("before read", "mid-read", "after the result", "in the initializer", "at exit"):
        return (None,)
    if point == "mid-result":
        # the thread strikes while 64 MB are on their way: whole, or lost
        return (bytearray, TimeLimitExceeded if fault in HANGS else WorkerLostError)
    if fault in HANGS:
        # beyond the call's end a limit has nothing to say, but pickling the result belongs to it
        return (TimeLimitExceeded,)
    if fault == "MemoryError":
        return {"in the task": (MemoryError,), "before start": (billiard.exceptions.PayloadError, MemoryError)}.get(
            point, (_encoding_error(),)
        )
    if fault == "unpicklable":
        return {"in the task": (TaskError,), "before start": (billiard.exceptions.PayloadError, TaskError)}.get(
            point, (_encoding_error(), TaskError)
        )
    return (WorkerLostError,)


def _encoding_error() -> type:
    from billiard.pool import MaybeEncodingError

    return MaybeEncodingError


def _check_staff(pool: Pool) -> None:
    deadline = time.monotonic() + 5
    while len([handle for handle in pool._pool if handle.is_alive()]) != 2:
        assert time.monotonic() < deadline, f"{len(pool._pool)} workers instead of 2"
        pool.turn() if not pool.threads else time.sleep(0.005)
    values = [pool.apply_async(t.add, (i, 1)) for i in range(4)]
    assert [value.get(BOUND_S) for value in values] == [1, 2, 3, 4]


def _leftovers() -> tuple[set[int], int, int]:
    return _children(), len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def _children() -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = set()
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid() and pid != os.getpid():
            found.add(pid)
    return found


def _check_left(before: tuple[set[int], int, int]) -> None:
    deadline = time.monotonic() + 5
    while True:
        gc.collect()
        now = _leftovers()
        left = now[0] - before[0]
        if not left and now[1] <= before[1] and now[2] <= before[2]:
            return
        said = f"processes {left}, descriptors {now[1] - before[1]}, threads {now[2] - before[2]}"
        assert time.monotonic() < deadline, f"left: {said}"
        time.sleep(0.01)


def warm_up() -> None:
    """What lives as long as the interpreter is there before anything is counted."""
    from billiard.pool import MaybeEncodingError  # noqa: F401 - its import must not be part of a cell

    gauges.lasting_helpers()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every cell")
    parser.add_argument("--list", action="store_true", help="the cells that cannot exist")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="cells whose name contains this")
    options = parser.parse_args(argv)
    if options.list:
        for point, fault in itertools.product(POINTS, FAULTS):
            if reason := impossible(point, fault):
                print(f"{point:20} {fault:22} {reason}")
        return 0
    chosen = [cell for cell in cells() if options.only in " / ".join(cell)]
    if not options.all:
        chosen = share_of(chosen, options.share, options.seed)
    warm_up()
    failed, slowest, began = [], 0.0, time.monotonic()
    for number, cell in enumerate(chosen, 1):
        try:
            slowest = max(slowest, run_cell(*cell))
        except Exception as exc:  # one cell's failure must not hide the others'
            failed.append(cell)
            print(f"FAIL {' / '.join(cell)}: {type(exc).__name__}: {exc}", flush=True)
        if number % 50 == 0:
            print(f"{number} of {len(chosen)}, {len(failed)} failed, {time.monotonic() - began:.0f} s", flush=True)
    everything = len(list(itertools.product(POINTS, FAULTS, METHODS, WAYS)))
    print(
        f"{len(chosen)} cells of {len(cells())} that can exist ({everything} in all): {len(chosen) - len(failed)} held, "
        f"{len(failed)} failed; slowest {slowest:.1f} s; {time.monotonic() - began:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
