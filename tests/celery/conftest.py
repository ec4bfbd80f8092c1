"""Fixtures of the live tests: one Redis for the session, workers over each pool, and the time every step took."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "downstream")]

from workers import POOLS, LiveWorker, PoolKind  # noqa: E402 - found by the path above

from redis_server import RedisServer  # noqa: E402 - found through the path set above

DATABASES = itertools.count(1)
FOLDERS = itertools.count(1)
STEPS: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)  # step -> pool -> (seconds, limit)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pool", action="append", choices=list(POOLS), help="only this pool (may be repeated)")
    parser.addoption("--patience", type=float, default=1.0, help="stretch the steps' limits on a crowded machine")
    parser.addoption("--soak-tasks", type=int, default=2000, help="tasks of the soak")
    parser.addoption("--soak-kill-every", type=float, default=1.0, help="seconds between two kills of the soak")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        names = metafunc.config.getoption("--pool") or list(POOLS)
        metafunc.parametrize("kind", [POOLS[name] for name in names], ids=names, scope="module")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


Starter = Callable[..., LiveWorker]


@pytest.fixture(scope="module")
def start_worker(kind: PoolKind, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Start workers; at the end stop those still running, and read every log."""
    started: list[LiveWorker] = []

    def start(*arguments: str, **options: Any) -> LiveWorker:
        folder = tmp_path_factory.mktemp("workers") / str(next(FOLDERS))
        database = next(DATABASES)
        options.setdefault("broker", redis_server.url(database))
        options.setdefault("backend", redis_server.url(database))
        worker = LiveWorker(kind, folder, meeting=redis_server.url(0), arguments=arguments, **options)
        started.append(worker)
        worker.start()
        return worker

    yield start
    problems: list[str] = []
    for worker in started:
        if worker.process is not None and worker.process.poll() is None:
            try:
                worker.stop()
            except AssertionError as exc:
                problems.append(str(exc))
        if not worker.complained:
            problems += [f"{worker.log_path}: {line}" for line in worker.complaints()]
    assert not problems, "\n".join(problems)


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A place in Redis where the tasks of one test meet it."""
    return f"{request.node.name}:{next(FOLDERS)}"


@pytest.fixture
def within(kind: PoolKind, pytestconfig: pytest.Config) -> Callable[..., Any]:
    """`with within("name", 2.0):` fails when the block takes longer; every duration goes into the table at the end."""

    @contextlib.contextmanager
    def step(name: str, limit_s: float) -> Iterator[None]:
        limit_s *= pytestconfig.getoption("--patience")
        start = time.monotonic()
        yield
        took = time.monotonic() - start
        STEPS[name][kind.name] = (took, limit_s)
        assert took <= limit_s, f"{name} over the {kind.name} pool took {took:.2f} s, limit {limit_s} s"

    return step


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not STEPS:
        return
    terminalreporter.section("seconds per step (limit)")
    for name, row in STEPS.items():
        cells = "".join(f"  {pool} {took:6.2f} ({limit:g})" for pool, (took, limit) in row.items())
        terminalreporter.line(f"{name:42}{cells}")
