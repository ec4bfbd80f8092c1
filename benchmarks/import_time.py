#!/usr/bin/env python3
"""Import: `from X import Pool` in a bare interpreter, until the class behind the name is there."""

from __future__ import annotations

import statistics
import subprocess
import sys

from harness.cli import family
from harness.rows import Bar, Case, Row

# `billiard` resolves lazily: naming the module of the class makes it pay in full
STATEMENTS = {
    "ours": "from billiard import Pool; import billiard.pool",
    "multiprocessing": "from multiprocessing.pool import Pool",
    "billiard 4": "from billiard import Pool; import billiard.pool",
    "PPE": "from concurrent.futures import ProcessPoolExecutor",
    "pebble": "from pebble import ProcessPool",
    "loky": "from loky import ProcessPoolExecutor",
    "mpire": "from mpire import WorkerPool",
    "deadpool": "from deadpool import Deadpool",
}

# work


def imported(library, statement, n):
    code = f"from time import perf_counter as t; a = t(); {statement}; print(t() - a)"
    times = []
    for _ in range(n + 1):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
        times.append(float(done.stdout))
    return {"ms": 1e3 * statistics.median(times[1:])}  # the first one compiles


# rows


def rows(quick: bool):
    n = 5 if quick else 15
    library_of = {"multiprocessing": "mp.Pool"}
    cases = [
        Case.of(name, "import_time:imported", library_of.get(name, name), statement=statement, n=n)
        for name, statement in STATEMENTS.items()
    ]
    plain = [
        Case.of(label, "import_time:imported", library, statement=f"from {module} import Pool", n=n)
        for label, library, module in (
            ("ours", "ours", "billiard"),
            ("billiard 4", "billiard 4", "billiard"),
            ("multiprocessing", "mp.Pool", "multiprocessing"),
        )
    ]
    return [
        Row("import_name", "`from billiard import Pool`, the name alone", "ms", "ms", plain, lower_is_better=True),
        Row("import", "`from billiard import Pool`, resolved", "ms", "ms", cases,
            [Bar(round(1 / 1.5, 3), "multiprocessing", 1)], lower_is_better=True),
    ]  # fmt: skip


if __name__ == "__main__":
    family("import_time", __doc__, rows)
