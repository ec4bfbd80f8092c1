"""The functions that workers run. Cheap to import, and importable by name, since most peers pickle by name only."""

from __future__ import annotations

import os
import time
from pathlib import Path


def tiny(x):
    return x


def echo(x):
    return x


def spin(seconds):
    """Burn CPU time, not wall time: a pool gains nothing here by letting workers wait for each other."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def nap(seconds):
    time.sleep(seconds)


def nap_and_return(seconds, x):
    time.sleep(seconds)
    return x


def pid_after(seconds):
    time.sleep(seconds)
    return os.getpid()


def announce_then_nap(path, seconds):
    """Tells through a file that it runs, as no library but billiard's two has a message for it."""
    part = Path(f"{path}.part")
    part.write_text(str(os.getpid()))
    part.rename(path)  # at once: a reader never sees an empty file
    time.sleep(seconds)
    return os.getpid()


def now():
    return time.monotonic()
