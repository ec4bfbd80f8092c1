"""What holds for all tests: after each of them no process, no thread and no descriptor is left.

A directory whose tests need something else overrides the fixture `nothing_left`.
"""

import contextlib
import gc
import os
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from pool_helpers import descriptors

# These need Celery and a redis-server beside the package: `python downstream/run.py celery-live` sets both up.
collect_ignore = ["celery"]

LEFT_WITHIN_S = 5.0
_CHECKED = {"pool", "task_pool", "wire", "worker", "faults"}  # the other directories have fixtures of their own


def pytest_report_header():
    return "not here: tests/celery (python downstream/run.py celery-live)"


def descendants() -> dict[int, str]:
    """All processes that came from this one: children's children too, zombies too, and orphans that inherited our mark."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    marked = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            head, _, rest = (entry / "stat").read_text().rpartition(")")
            fields = rest.split()
            pid = int(entry.name)
            parents[pid] = int(fields[1])
            names[pid] = f"{head.partition('(')[2]} {fields[0]}"
            if (entry / "fd" / str(_mark)).readlink() == _mark_link:
                marked.add(pid)
    me = os.getpid()
    found = {}
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != me:
            ancestor = parents[ancestor]
        if pid != me and (ancestor == me or pid in marked):
            found[pid] = names[pid]
    return found


# A descriptor that all forked children inherit, and that those keep who lost their parent.
_mark = os.memfd_create(f"billiard-tests-{os.getpid()}", 0) if hasattr(os, "memfd_create") else -1
_mark_link = Path(f"/proc/self/fd/{_mark}").readlink() if _mark >= 0 else None


def _counts() -> tuple[int, Counter, Counter]:
    threads = Counter(re.sub(r"^Thread-\d+", "Thread-N", thread.name) for thread in threading.enumerate())
    return len(descendants()), threads, descriptors()


def _too_much(before: tuple, now: tuple) -> str:
    said = []
    if now[0] > before[0]:
        said.append(f"{now[0] - before[0]} processes more: {descendants()}")
    for what, old, new in (("threads", before[1], now[1]), ("descriptors", before[2], now[2])):
        if new - old:
            said.append(f"{what} more: {dict(new - old)}")
    return "; ".join(said)


@pytest.fixture(scope="session")
def lasting_helpers():
    """The resource tracker and the fork server live as long as the interpreter: started before anything is counted."""
    import multiprocessing.forkserver
    import multiprocessing.resource_tracker

    multiprocessing.resource_tracker.ensure_running()
    settled = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.forkserver.ensure_running()
    multiprocessing.set_start_method(settled, force=True)
    multiprocessing.util.get_temp_dir()


@pytest.fixture(autouse=True)
def nothing_left(request):
    """Whatever a test starts has ended soon after it."""
    if not sys.platform.startswith("linux") or request.path.parent.name not in _CHECKED:
        yield
        return
    request.getfixturevalue("lasting_helpers")
    if "standing" in request.fixturenames:  # what a module's tests share is there before and after
        request.getfixturevalue("standing")
    before = _counts()
    yield
    deadline = time.monotonic() + LEFT_WITHIN_S
    while left := _too_much(before, _counts()):
        gc.collect()
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {left}")
        time.sleep(0.01)  # nothing tells of a thread's or an orphan's end


@pytest.fixture
def make_pool():
    """`Pool`, with the end taken care of."""
    from billiard.pool import Pool  # here: many of these tests need none

    with contextlib.ExitStack() as stack:

        def make(*args, **kwargs):
            pool = Pool(*args, **kwargs)
            stack.callback(pool.join)
            stack.callback(pool.terminate)
            return pool

        yield make
