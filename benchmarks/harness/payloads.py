"""Ordinary things users hand to a pool that most pools do not survive. Importable by name, like harness.tasks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


class TwoArgumentsError(Exception):
    """Pickles, but does not unpickle: BaseException rebuilds it from `args`, which holds one."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class FailsToLoadInParent:
    def __init__(self, parent):
        self.parent = parent

    def __reduce__(self):
        return _load_unless_in, (self.parent, True)


class FailsToLoadInWorker:
    def __init__(self):
        self.parent = os.getpid()

    def __reduce__(self):
        return _load_unless_in, (self.parent, False)


def _load_unless_in(parent, refuse_in_parent):
    if (os.getpid() == parent) is refuse_in_parent:
        raise RuntimeError("this object does not load here")
    return "loaded"


def kill_me(*_):
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def raise_two_arguments():
    raise TwoArgumentsError("one", "two")


def return_unpicklable():
    return lambda: None


def return_poison(parent):
    return FailsToLoadInParent(parent)


def take(x):
    return x


def leave():
    sys.exit(3)


def generate():
    return (x for x in range(3))


def boom():
    raise RuntimeError("the initializer fails")


def long_c_call(seconds):
    """One call into C that holds the GIL: no Python signal handler runs before it returns."""
    started = time.perf_counter()
    sum(range(2_000_000))
    per_item = (time.perf_counter() - started) / 2_000_000
    sum(range(int(seconds / per_item)))


def python_loop(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def child_then_nap(path, seconds):
    """A task with a child process of its own; tells its pid through a file."""
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
    part = Path(f"{path}.part")
    part.write_text(str(child.pid))
    part.rename(path)
    time.sleep(seconds)
