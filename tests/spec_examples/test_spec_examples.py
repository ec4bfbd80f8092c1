"""The five programs of the API document run as they stand, say what they must, and leave no process behind.

The programs are data: they have no `__main__` guard and pass a lambda, which is part of what they show.
"""

import ast
import contextlib
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).resolve().parent


def run(name, limit_s):
    """Run one program in a session of its own; return its output. Nothing of that session may be left at the end."""
    before = time.monotonic()
    # a terminal, as a user has: a pipe would keep what a worker prints in its buffer when the pool is terminated. Two
    # who print at once may still get between each other's text and line end, so the tests look for texts, not lines.
    terminal, theirs = os.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(HERE / name)],
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(theirs)
    try:
        out = read_until(terminal, process, before + limit_s)
    finally:
        os.close(terminal)
        left = members_of(process.pid)
        for each in left:
            each.kill()
        process.kill()
        process.wait()
    if process.returncode:
        pytest.fail(f"exit status {process.returncode} after {time.monotonic() - before:.1f} s\n{out}", pytrace=False)
    assert "Traceback" not in out
    assert "Warning" not in out
    assert left == [], f"processes left behind; the program said\n{out}"
    return out, time.monotonic() - before


def read_until(terminal, process, deadline):
    """What comes from the terminal until the program has ended."""
    chunks = []
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                chunks.append(os.read(terminal, 65536))
            except OSError:  # how Linux tells that the last process with the other end is gone
                break
        elif process.poll() is not None:
            break
    else:
        chunks.append(b"(still running)")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    return b"".join(chunks).decode().replace("\r\n", "\n")


def members_of(session, grace_s=2.0):
    """Processes of the session other than its leader; those that are only just ending get a moment."""
    deadline = time.monotonic() + grace_s
    while True:
        left = [p for p in psutil.process_iter() if p.pid != session and in_session(p, session)]
        if not left or time.monotonic() > deadline:
            return left
        psutil.wait_procs(left, timeout=0.1)


def in_session(process, session):
    """Workers lead process groups of their own, but stay in the session of the program that made them."""
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False


def test_there_are_five_programs():
    assert [path.name[0] for path in sorted(HERE.glob("[0-9]_*.py"))] == ["1", "2", "3", "4", "5"]


def test_1_a_configured_pool():
    out, seconds = run("1_configured_pool.py", 60)
    assert f"Results: {[x * x for x in range(20)]}" in out.splitlines()
    started = set(re.findall(r"Worker (\d+) started", out))
    initialized = set(re.findall(r"Worker (\d+) initialized", out))
    stopped = set(re.findall(r"Worker (\d+) stopped with exit code -?\d+", out))
    assert len(started) == 4
    assert initialized == started
    assert stopped == started
    # 19 s of sleep over four workers: work-conserving dispatch needs about 6 s
    assert seconds < 12


def test_2_synchronous_calls():
    out, _ = run("2_synchronous.py", 30)
    assert out.splitlines() == ["5 + 3 = 8", "Squares: [1, 4, 9, 16, 25]", "Products: [6, 20, 42]"]


def test_3_asynchronous_calls():
    out, _ = run("3_asynchronous.py", 30)
    lines = out.splitlines()
    assert lines[0] == "Task submitted, doing other work..."
    # in, since the callback's thread may print between another's text and its line end
    assert "Got result: 25" in out
    assert "Task completed with result: 25" in out
    assert "failed" not in out
    assert [line for line in lines if line.startswith("Streaming")] == [
        f"Streaming result {i}: {i * i}" for i in range(5)
    ]


def test_4_result_objects():
    out, _ = run("4_results.py", 30)
    lines = out.splitlines()
    for i in range(8):
        mine = [line for line in lines if line.startswith(f"Task {i} ")]
        if i == 5:
            assert mine[-1] == "Task 5 failed: Five is not allowed!"
        else:
            assert mine[-1] in (f"Task {i} result: {i * 2}", f"Task {i} completed: {i * 2}")


def test_5_management():
    out, seconds = run("5_management.py", 60)
    assert out.splitlines() == ["Growing pool...", "Shrinking pool..."]
    # 8 tasks of 10 s: four at once, two more workers after 1 s; the last begins by 11 s and ends by 22 s
    assert 10 < seconds < 30


@pytest.mark.parametrize("path", sorted(HERE.glob("[0-9]_*.py")), ids=lambda path: path.stem)
def test_they_use_the_public_api_only(path):
    modules = [node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert modules == ["billiard"]
