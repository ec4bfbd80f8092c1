"""Waiting, looking, killing: for the tests of every directory."""

import contextlib
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

WITHIN_S = 20.0


def wait_until(true, within_s=WITHIN_S, what="it", turn=lambda: time.sleep(0.002)):
    """For what no event tells: ask again and again, until a deadline. `turn`: what to do in between."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come about within {within_s} s"
        turn()


def is_running(pid):
    """Whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descriptors() -> Counter:
    """Open descriptors by what they are. The number of an inode says nothing, and changes when a worker is replaced."""
    kinds: Counter = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(entry.readlink())
            if not target.startswith("/proc/") and "/pym-" not in target:
                kinds[re.sub(r"\d+", "N", target)] += 1
    return kinds


def kill(pid, signum=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid), signum)
