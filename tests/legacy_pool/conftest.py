"""Fixtures of the legacy pool's tests.

The pool itself lies in a module of its own: a spawned worker imports its class by name, and `conftest` is the name of
several modules here.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.resource_tracker import _resource_tracker
from pathlib import Path
from typing import Any

import pytest
from legacy_loop import LoopPool


def children() -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(entry.name))
    return found - {_resource_tracker._pid}  # multiprocessing's, started by spawn, stays on purpose


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = children(), set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while children() - before[0] and time.monotonic() < deadline:
        time.sleep(0.01)  # an orphaned grandchild sends no event
    assert children() - before[0] == set()
    assert set(threading.enumerate()) - before[1] == set()


@pytest.fixture
def make_pool() -> Iterator[Callable[..., LoopPool]]:
    made: list[LoopPool] = []

    def make(processes: int = 2, cls: type[LoopPool] = LoopPool, **options: Any) -> LoopPool:
        pool = cls(processes, **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.terminate()
        for process in pool._pool:
            pool._process_cleanup_queues(process)


@pytest.fixture
def loop_pool_class() -> type[LoopPool]:
    return LoopPool
