"""Survey this machine's Python standard library with a process pool, while somebody murders the workers.

    ./demo                        or: python examples/stdlib_survey.py [--help]

Every source file is parsed and measured in a worker: lines, functions, classes, the longest and the most branching
functions. Three things go wrong on purpose:

  1. one task hangs inside a C call that holds the GIL (a hopeless regular expression); its limit is 2 seconds;
  2. one task kills its own worker with a segmentation fault;
  3. half-way through, a worker is killed from outside with SIGKILL.

Each may cost the one task it hits and nothing else. A file that was lost is handed in once more, because we say so: the
pool never runs a started task again by itself. So the survey ends complete, and its totals must equal those of the
undisturbed run on `multiprocessing.Pool`; the exit status says whether all of that held.
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import billiard
from billiard import TimeLimitExceeded, WorkerLostError

STDLIB = Path(sysconfig.get_path("stdlib"))
HANG_LIMIT_S = 2.0
TOP = 5


# --- the work: runs in the workers ----------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Function:
    """One function's size: how many lines it has, how many ways lead through it."""

    lines: int
    branches: int
    where: str


@dataclass
class Report:
    """What was found in one file, or in all of them."""

    counts: Counter[str] = field(default_factory=Counter)
    longest: list[Function] = field(default_factory=list)
    branching: list[Function] = field(default_factory=list)

    def add(self, other: Report) -> None:
        self.counts += other.counts
        self.keep(self.longest + other.longest, self.branching + other.branching)

    def keep(self, longest: Iterable[Function], branching: Iterable[Function]) -> None:
        self.longest = sorted(longest, key=lambda f: (-f.lines, f.where))[:TOP]
        self.branching = sorted(branching, key=lambda f: (-f.branches, f.where))[:TOP]


BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def ways_through(function: ast.AST) -> int:
    """McCabe's cyclomatic complexity; functions defined inside are measured for themselves."""
    ways, todo = 1, list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        if isinstance(node, BRANCHES):
            ways += 1
        elif isinstance(node, ast.BoolOp):
            ways += len(node.values) - 1
        if not isinstance(node, (*FUNCTIONS, ast.Lambda)):
            todo.extend(ast.iter_child_nodes(node))
    return ways


def analyse(path: Path) -> Report:
    """Parse one file and measure it."""
    source = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old files use escapes that newer Pythons warn about
        tree = ast.parse(source)
    report = Report(Counter(files=1, lines=source.count(b"\n")))
    functions = []
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            where = f"{path.relative_to(STDLIB)}:{node.lineno} {node.name}"
            functions.append(Function(lines, ways_through(node), where))
        elif isinstance(node, ast.ClassDef):
            report.counts["classes"] += 1
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            report.counts["imports"] += 1
    report.counts["functions"] = len(functions)
    report.keep(functions, functions)
    return report


def size_of(path: Path) -> tuple[int, Path]:
    return path.stat().st_size, path


def hang_in_a_regex(path: Path) -> Report:
    """A task that never ends and cannot be asked to: the engine of `re` holds the GIL all the while."""
    re.match(r"(a+)+$", "a" * 60 + "b")
    raise AssertionError("unreachable before the sun goes out")


def crash(path: Path) -> Report:
    """A task that takes its whole process with it."""
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("unreachable: the process is dead")


# --- the survey: runs here ------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How one run went."""

    total: Report = field(default_factory=Report)
    refused: list[tuple[str, str]] = field(default_factory=list)  # files that are no valid source, and why
    lost: list[tuple[str, BaseException]] = field(default_factory=list)  # tasks that died or overran
    deaths: list[str] = field(default_factory=list)  # workers that went down, as the pool told
    seconds: float = 0.0


def source_files() -> list[Path]:
    """Every source file of the standard library, without what was installed into it since."""
    found = (path for path in STDLIB.rglob("*.py") if not {"site-packages", "dist-packages"} & set(path.parts))
    return sorted(path for path in found if path.is_file())


class Progress:
    """One line that is rewritten on a terminal, a line per tenth elsewhere."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.shown = label, total, -1
        self.steps = 100 if sys.stdout.isatty() else 10

    def show(self, done: int) -> None:
        step = done * self.steps // self.total
        if step == self.shown:
            return
        self.shown = step
        text = f"  {self.label}: {done:5d} of {self.total} files"
        if sys.stdout.isatty():
            print(f"\r{text} {'#' * (step * 40 // self.steps):40s}", end="\n" if done == self.total else "", flush=True)
        else:
            print(text, flush=True)


def in_good_order(sizes: Iterator[tuple[int, Path]]) -> list[Path]:
    """Largest first, so that no worker is left with a giant at the end."""
    return [path for _, path in sorted(sizes, reverse=True)]


def survey_disturbed(files: list[Path], processes: int, limit_s: float) -> Outcome:
    """The survey on billiard, with all three murders."""
    outcome = Outcome()
    workers: dict[int, Any] = {}

    def up(worker: Any) -> None:
        workers[int(worker)] = worker

    def down(worker: Any) -> None:
        workers.pop(int(worker), None)
        outcome.deaths.append(f"pid {worker}: {end_of(worker.exitcode)}")

    started = time.perf_counter()
    with billiard.Pool(processes, on_process_up=up, on_process_down=down) as pool:
        ordered = in_good_order(pool.imap_unordered(size_of, files, chunksize=64))
        hanging: list[int] = []  # the worker that hangs, which is not the one to murder
        quarter, third = len(ordered) // 4, len(ordered) // 3
        waiting, bad = [], []
        for place, path in enumerate(ordered):
            if place == quarter:
                on = Path("(the task that hangs)")
                told = {"accept_callback": lambda pid, _: hanging.append(pid)}
                bad.append((on, pool.apply_async(hang_in_a_regex, (on,), timeout=HANG_LIMIT_S, **told)))
            if place == third:
                on = Path("(the task that crashes)")
                bad.append((on, pool.apply_async(crash, (on,), timeout=limit_s)))
            waiting.append((path, pool.apply_async(analyse, (path,), timeout=limit_s)))
        progress, again, murdered = Progress("billiard", len(files)), [], False
        for place, (path, handle) in enumerate([*waiting, *bad]):
            if place >= len(waiting) // 2 and not murdered:
                murdered = murder_one(workers, hanging)
            if not collect(outcome, path, handle) and path.is_absolute():
                again.append(path)
            progress.show(outcome.total.counts["files"] + len(outcome.refused))
        for path in again:
            collect(outcome, path, pool.apply_async(analyse, (path,), timeout=limit_s))
            progress.show(outcome.total.counts["files"] + len(outcome.refused))
    outcome.seconds = time.perf_counter() - started
    return outcome


def murder_one(workers: dict[int, Any], spared: list[int]) -> bool:
    """Have a worker killed by another program, as an operator or the OOM killer would; False if there is none just now."""
    for victim in [worker for pid, worker in workers.copy().items() if pid not in spared]:
        if subprocess.run(["sh", "-c", f"kill -KILL {victim}"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
            print(f"  (killed worker {victim} from outside)", flush=True)
            return True  # else it has just gone, and we are not told yet
    return False


def collect(outcome: Outcome, path: Path, handle: Any) -> bool:
    """Take one result; False if the task was lost."""
    try:
        outcome.total.add(handle.get())
    except (WorkerLostError, TimeLimitExceeded) as error:
        outcome.lost.append((name_of(path), error))
        return False
    except (SyntaxError, ValueError, UnicodeDecodeError) as error:
        outcome.refused.append((name_of(path), f"{type(error).__name__}: {error}".splitlines()[0]))
    return True


def survey_in_peace(pool: Any, files: list[Path], label: str) -> Outcome:
    """The same work on any pool with multiprocessing's methods, with neither limits nor murders."""
    outcome, progress = Outcome(), Progress(label, len(files))
    started = time.perf_counter()
    with pool:
        ordered = in_good_order(pool.imap_unordered(size_of, files, chunksize=64))
        waiting = [(path, pool.apply_async(analyse, (path,))) for path in ordered]
        for path, handle in waiting:
            collect(outcome, path, handle)
            progress.show(outcome.total.counts["files"] + len(outcome.refused))
    outcome.seconds = time.perf_counter() - started
    return outcome


# --- the report -----------------------------------------------------------------------------------------------------


def name_of(path: Path) -> str:
    return str(path.relative_to(STDLIB)) if path.is_absolute() else str(path)


def why(error: Any) -> str:
    """What an error of the pool tells about a lost task."""
    end = f"died of {error.signal_name}" if error.signal_name else f"left with exit code {error.exitcode}"
    if isinstance(error, TimeLimitExceeded):
        end = "was killed at the task's limit"
    if error.runtime_s is None:
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__name__}: worker {error.pid} {end}, {error.runtime_s:.2f} s into {error.function}"


def end_of(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


def table(title: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Print rows in columns: numbers to the right, the last column as it is."""
    rows = list(rows)
    print(f"\n{title}")
    if not rows:
        print("  none")
        return
    widths = [max(len(cell(row[i])) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell(value).rjust(w) if isinstance(value, (int, float)) else cell(value).ljust(w)
                 for value, w in zip(row, widths, strict=False)]  # fmt: skip
        print("  " + "  ".join([*cells, cell(row[-1])]))


def cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}" if isinstance(value, float) else str(value)


def report(ours: Outcome, calm: Outcome, peer: Outcome, processes: int) -> None:
    counts = ours.total.counts
    table(f"Standard library of Python {sys.version.split()[0]}",
          [(counts[what], what) for what in ("files", "lines", "functions", "classes", "imports")])  # fmt: skip
    table("Longest functions (lines)", [(f.lines, f.where) for f in ours.total.longest])
    table("Most branching functions (ways through)", [(f.branches, f.where) for f in ours.total.branching])
    table("Not valid source, and reported as such", sorted(ours.refused))
    table("Lost, and why", [(name, why(error)) for name, error in ours.lost])
    table("Workers that went down", [(text,) for text in ours.deaths])
    table(f"Time with {processes} workers (s)", [
        (ours.seconds, f"billiard, three murders and a task hanging for {HANG_LIMIT_S:g} s included"),
        (calm.seconds, "billiard, undisturbed"),
        (peer.seconds, "multiprocessing.Pool, undisturbed"),
    ])  # fmt: skip


def faults_of(ours: Outcome, calm: Outcome, peer: Outcome) -> list[str]:
    """What did not go as promised."""
    faults = []
    for label, other in (("undisturbed", calm), ("multiprocessing's", peer)):
        if (ours.total, sorted(ours.refused)) != (other.total, sorted(other.refused)):
            faults.append(f"the disturbed survey and the {label} one differ")
    kinds = {name: type(error) for name, error in ours.lost if name.startswith("(")}
    if kinds != {"(the task that hangs)": TimeLimitExceeded, "(the task that crashes)": WorkerLostError}:
        faults.append(f"the two bad tasks ended otherwise than they must: {kinds}")
    bystanders = [name for name, _ in ours.lost if not name.startswith("(")]
    if len(bystanders) > 1:  # none, if the worker was struck between two tasks
        faults.append(f"one murder from outside cost {len(bystanders)} files: {', '.join(bystanders)}")
    violent = [text for text in ours.deaths if "SIGKILL" in text or "SIGSEGV" in text]
    if len(violent) != 3:
        faults.append(f"three workers died by violence, the pool told of {len(violent)}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description="Survey the standard library with a pool whose workers are murdered.")
    parser.add_argument("--processes", type=int, default=max(2, os.cpu_count() or 2), help="workers (default: cores)")
    parser.add_argument("--limit", type=float, default=10.0, metavar="S", help="seconds a file may take (default 10)")
    parser.add_argument("--files", type=int, metavar="N", help="survey only N files, evenly picked")
    options = parser.parse_args()
    files = source_files()
    if options.files:
        files = files[:: max(1, len(files) // options.files)][: options.files]
    print(f"{len(files)} files under {STDLIB}, {options.processes} workers, {options.limit:g} s a file", flush=True)
    ours = survey_disturbed(files, options.processes, options.limit)
    calm = survey_in_peace(billiard.Pool(options.processes), files, "billiard, undisturbed")
    peer = survey_in_peace(multiprocessing.Pool(options.processes), files, "multiprocessing.Pool")
    report(ours, calm, peer, options.processes)
    faults = faults_of(ours, calm, peer)
    print("\nEvery call ended once, and each death cost what it hit." if not faults else "\nNOT as promised:")
    print(*(f"  {fault}" for fault in faults), sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
