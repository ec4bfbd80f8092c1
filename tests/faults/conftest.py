"""How the fault tests look at processes."""

from pathlib import Path

import pytest


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
