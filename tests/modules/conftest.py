"""After each test of the public modules nothing is left: no child, no thread, no descriptor."""

import gc
import multiprocessing
import threading
import time
from pathlib import Path

import pytest

import billiard

METHODS = ["fork", "spawn", "forkserver"]


def _start_helpers():
    # The tracker and the fork server live as long as the interpreter: start them before anything is counted.
    from billiard import forkserver, resource_tracker

    resource_tracker.ensure_running()
    settled = multiprocessing.get_start_method(allow_none=True)
    forkserver.ensure_running()  # settles multiprocessing's default start method, which tests look at
    multiprocessing.set_start_method(settled, force=True)
    billiard.util.get_temp_dir()


def _fds():
    names = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
            if "/pym-" not in target:  # the shared heap keeps its arenas for the next block
                names[int(entry.name)] = target
        except OSError:
            pass  # the listing's own
    return names


@pytest.fixture(autouse=True)
def nothing_left():
    _start_helpers()
    threads = set(threading.enumerate())
    fds = _fds()
    yield
    deadline = time.monotonic() + 5
    while True:
        gc.collect()
        left = [
            *billiard.active_children(),
            *(set(threading.enumerate()) - threads),
            *(set(_fds().items()) - set(fds.items())),
        ]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.01)  # a queue's feeder thread is on its way out
    assert left == []


@pytest.fixture(params=METHODS)
def ctx(request):
    """One context for each start method."""
    return billiard.get_context(request.param)
