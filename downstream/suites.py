"""The suites: where each comes from, its command, its time limit, and how the judge's answer is recorded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from environments import CELERY, CHECKOUT, REAL, Environment, clean_environment, copy_tests, fetch_sdist, locked
from judge import Outcome, read_record
from redis_server import RedisServer

PLUGIN = Path(__file__).resolve().parent / "plugin"


@dataclass(frozen=True)
class Suite:
    """One pytest run over the test tree of a source distribution."""

    name: str
    requirement: str
    arguments: tuple[str, ...]
    limit_s: float
    most_allowed: int = 0
    redis: bool = False


SUITES = {
    suite.name: suite
    for suite in (
        Suite("celery-concurrency", CELERY, ("t/unit/concurrency",), 300),
        Suite("celery-unit", CELERY, ("t/unit", "--ignore", "t/unit/backends", "--timeout", "120"), 900),
        Suite("celery-integration", CELERY, ("t/integration/test_tasks.py", "--timeout", "120"), 900, redis=True),
        Suite("billiard-unit", REAL, ("t/unit",), 300, most_allowed=14),
    )
}


def group_run(command: list[str], limit_s: float, cwd: Path, env: dict[str, str], log: Path) -> int | None:
    """Run in a session of its own; None when the limit struck. Whatever the suite left in its group is killed."""
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def run_suite(suite: Suite, environment: Environment, cache: Path, extra: list[str]) -> Outcome:
    tree = copy_tests(cache, fetch_sdist(cache, str(environment.python), suite.requirement))
    results = cache / "results" / f"{suite.name}-{environment.version}-{'real' if environment.real else 'ours'}"
    results.mkdir(parents=True, exist_ok=True)
    record = results / "record.jsonl"
    env = clean_environment() | {"PYTHONPATH": str(PLUGIN), "DOWNSTREAM_RECORD": str(record)}
    command = [str(environment.python), "-m", "pytest", "-q", "-p", "downstream_record", "-p", "no:cacheprovider"]
    if suite.requirement == CELERY:
        command += ["-p", "celery.contrib.pytest"]
    command += [*suite.arguments, *extra]
    print(f"log: {results / 'log.txt'}", flush=True)
    # Two runs of one suite would write one record.
    with locked(results / "lock"):
        status, seconds = run_recorded(suite, command, tree, env, results)
        outcome = read_record(record)
    outcome.seconds = seconds
    if status is None:
        outcome.finished = False
        print(f"{suite.name}: stopped after {suite.limit_s:.0f} s")
    return outcome


def run_recorded(suite: Suite, command: list[str], tree: Path, env: dict[str, str], results: Path) -> tuple[int | None, float]:
    (results / "record.jsonl").unlink(missing_ok=True)
    log = results / "log.txt"
    start = time.monotonic()
    if suite.redis:
        with RedisServer(results / "redis") as redis:
            env |= {"REDIS_HOST": "localhost", "REDIS_PORT": str(redis.port)}
            env |= {
                "TEST_BROKER": f"redis://localhost:{redis.port}/0",
                "TEST_BACKEND": f"redis://localhost:{redis.port}/0",
            }
            redis.command("FLUSHALL")
            status = group_run(command, suite.limit_s, tree, env, log)
    else:
        status = group_run(command, suite.limit_s, tree, env, log)
    return status, time.monotonic() - start


def run_live(environment: Environment, cache: Path, extra: list[str]) -> int:
    """Our own tests against a real Celery worker and a real Redis. They judge themselves: pytest's status counts.

    With arguments only what these name; else first the tests of TaskPool, some of which need Celery and nothing else.
    """
    tests = CHECKOUT / "tests"
    # The workers' logs stay readable for the last runs, and no other run clears them away.
    logs = cache / "live"
    logs.mkdir(parents=True, exist_ok=True)
    for old in sorted(logs.iterdir(), key=lambda path: path.stat().st_mtime)[:-4]:
        shutil.rmtree(old, ignore_errors=True)
    folder = logs / f"{time.time_ns()}"
    status = 0
    if not extra:
        # their helpers are in tests/, which pytest itself puts on the path only where it sees the conftest.py there
        own = ["-o", "python_files=test_*.py", "-o", f"pythonpath={tests}"]
        status = run_pytest(environment, tests / "task_pool", own)
    return run_pytest(environment, tests / "celery", ["--basetemp", str(folder), *extra]) or status


def run_pytest(environment: Environment, tests: Path, arguments: list[str]) -> int:
    # --confcutdir: the fixtures of tests/ belong to the development environment, and may import what is not here.
    command = [str(environment.python), "-P", "-m", "pytest", "-c", str(CHECKOUT / "tests" / "celery" / "pytest.ini")]
    command += ["--rootdir", str(tests), "--confcutdir", str(tests), "-p", "no:cacheprovider", *arguments]
    env = clean_environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    print(" ".join(command), file=sys.stderr, flush=True)
    return subprocess.call(command, cwd=tests, env=env)
