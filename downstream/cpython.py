"""CPython's own multiprocessing tests, rewritten to import billiard: one process per class, 60 s each.

The tests are taken from the interpreter that runs them (never from this repository) and rewritten into the cache.
With `stdlib` nothing is rewritten, so that both sides go through exactly the same harness.

Many of these tests keep times, and on a machine busy with something else the standard library fails and "hangs" in them
as well. So a class that is worse than it should be is run once more when all others are done, alone and with more time,
and what passes only then is told by name.
"""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from environments import Environment, SetUpError, clean_environment, run_checked
from judge import GOOD, Outcome, second_chance
from suites import group_run

START_METHODS = ("fork", "spawn", "forkserver")
CLASS_LIMIT_S = 60.0
ALONE_LIMIT_S = 240.0  # a hang stays a hang, and a slow machine gets through
HARNESS = Path(__file__).resolve().parent / "plugin" / "cpython_class.py"
# `\b` keeps the C module `_multiprocessing` and the names of test modules as they are.
NAME = re.compile(r"\bmultiprocessing\b")
TESTS = "_test_multiprocessing"  # the file keeps its name: one test looks for it in a traceback
WRAPPER = """import unittest
import {tests}

{tests}.install_tests_in_module_dict(globals(), {method!r})
"""


def prepare(environment: Environment, cache: Path, method: str, stdlib: bool) -> tuple[Path, str]:
    """Write the rewritten tests and their wrapper; give their directory and the wrapper's module name."""
    place = cache / "cpython" / f"{environment.version}-{'stdlib' if stdlib else 'billiard'}"
    place.mkdir(parents=True, exist_ok=True)
    code = "import test, pathlib; print(pathlib.Path(test.__file__).with_name('_test_multiprocessing.py'))"
    source = Path(run_checked([str(environment.python), "-P", "-c", code], 60, cwd=Path("/")).strip())
    if not source.exists():
        raise SetUpError(f"{source} is missing: this interpreter comes without its test package")
    # The scripts that some tests start lie beside the tests, as in CPython.
    for name in ("_test_multiprocessing.py", "mp_fork_bomb.py", "mp_preload.py"):
        text = source.with_name(name).read_text(encoding="utf-8").replace(f"test.{TESTS}", TESTS)
        (place / name).write_text(text if stdlib else NAME.sub("billiard", text), encoding="utf-8")
    wrapper = f"tests_{method}"
    (place / f"{wrapper}.py").write_text(WRAPPER.format(tests=TESTS, method=method))
    return place, wrapper


def list_classes(environment: Environment, place: Path, wrapper: str) -> dict[str, list[str]]:
    env = clean_environment() | {"PYTHONPATH": str(place)}
    text = ""
    command = [str(environment.python), str(HARNESS), wrapper, "--list"]
    log = place / f"{wrapper}-list.txt"
    if group_run(command, CLASS_LIMIT_S, place, env, log) == 0:
        text = log.read_text().strip().splitlines()[-1]
    if not text.startswith("{"):
        raise SetUpError(f"the rewritten tests cannot be imported: {log.read_text()[-3000:]}")
    classes: dict[str, list[str]] = json.loads(text)
    return classes


def run_class(
    environment: Environment, place: Path, wrapper: str, name: str, tests: list[str], limit_s: float = CLASS_LIMIT_S
) -> Outcome:
    """One class in one process. What did not get its turn, because an earlier test hung or died, is an error."""
    record = place / "records" / f"{wrapper}-{name}.jsonl"
    record.parent.mkdir(exist_ok=True)
    record.unlink(missing_ok=True)
    env = clean_environment() | {"PYTHONPATH": str(place)}
    command = [str(environment.python), str(HARNESS), wrapper, name, str(record)]
    status = group_run(command, limit_s, place, env, record.with_suffix(".log"))
    outcome = Outcome(finished=True)
    started = skipped = ""
    for text in record.read_text().splitlines() if record.exists() else ():
        line = json.loads(text)
        if line["kind"] == "module":
            outcome.billiard = line["what"]
        elif line["kind"] == "start":
            started = line["id"]
        elif line["kind"] == "test":
            outcome.tests[line["id"]] = line["outcome"]
            outcome.why[line["id"]] = line["why"]
        elif line["outcome"] == "skipped":  # by setUpClass or setUpModule, for all tests at once
            skipped = line["why"]
    for test in tests:
        if test not in outcome.tests and skipped:
            outcome.tests[test], outcome.why[test] = "skipped", skipped
        elif test not in outcome.tests:
            outcome.tests[test] = "error"
            outcome.why[test] = "never had its turn"
            if test == started:
                outcome.why[test] = f"HANGS: still running after {limit_s:.0f} s" if status is None else "died"
    if status is None and started in outcome.tests and not outcome.why[started].startswith("HANGS"):
        # Every test ended, and yet the process did not: that is a hang as well.
        outcome.tests[f"{name}:exit"] = "error"
        outcome.why[f"{name}:exit"] = f"HANGS: process still there after {limit_s:.0f} s"
    return outcome


def run(
    environment: Environment,
    cache: Path,
    method: str,
    stdlib: bool,
    only: list[str],
    jobs: int,
    may_fail: set[str],
) -> Outcome:
    """All classes, or those of `only`. A class where more goes wrong than `may_fail` gets its second chance."""
    place, wrapper = prepare(environment, cache, method, stdlib)
    classes = list_classes(environment, place, wrapper)
    unknown = set(only) - set(classes)
    if unknown:
        raise SetUpError(f"no such class: {', '.join(sorted(unknown))}; there are {', '.join(classes)}")
    chosen = [name for name in classes if not only or name in only]
    start = time.monotonic()
    whole = Outcome(finished=True)
    print(f"{method}: {len(chosen)} classes, logs in {place / 'records'}", flush=True)

    def judged(name: str, limit_s: float = CLASS_LIMIT_S, label: str = "") -> Outcome:
        part = run_class(environment, place, wrapper, name, classes[name], limit_s)
        hangs = [test for test, why in part.why.items() if why.startswith("HANGS")]
        print(f"  {name}{label}: {part.summary()}{'  HANG: ' + hangs[0] if hangs else ''}", flush=True)
        return part

    with ThreadPoolExecutor(jobs) as pool:
        parts = dict(zip(chosen, pool.map(judged, chosen), strict=True))
    for name, part in parts.items():
        bad = {test for test, what in part.tests.items() if what not in GOOD | {"skipped"}}
        if bad - may_fail:
            second_chance(part, judged(name, ALONE_LIMIT_S, ", alone"))
        whole.tests |= part.tests
        whole.why |= part.why
        whole.only_alone |= part.only_alone
        whole.billiard = part.billiard if part.billiard != "?" else whole.billiard
    whole.seconds = time.monotonic() - start
    return whole
