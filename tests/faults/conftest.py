"""How the fault tests wait, kill and look at processes."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest


@pytest.fixture
def until():
    """Ask again and again what no event tells, until a deadline."""

    def wait(true, within_s=15.0, turn=None):
        deadline = time.monotonic() + within_s
        while not true():
            assert time.monotonic() < deadline, f"not within {within_s} s"
            if turn is not None:
                turn()
            time.sleep(0.002)

    return wait


@pytest.fixture
def kill():
    def send(pid, signum=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signum)

    return send


@pytest.fixture
def switches():
    """Context switches of processes, and of this process's threads whose name begins so."""
    import threading

    def count(pids, thread_prefix="billiard"):
        files = [Path(f"/proc/{pid}/status") for pid in pids]
        files += [
            Path(f"/proc/self/task/{thread.native_id}/status")
            for thread in threading.enumerate()
            if thread.name.startswith(thread_prefix)
        ]
        lines = [line for file in files for line in file.read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    return count
