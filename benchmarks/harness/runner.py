"""Runs one piece of work in a fresh process, within a time limit, and leaves nothing of it behind.

The runner is a child subreaper: whatever the library leaves behind, in any session or process group, becomes a
child of this process, is found by its parent pid and killed. So a hang costs its limit, never the next measurement.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.adapters import env_of
from harness.envs import python_of, variables_of

PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Outcome:
    """`value` is what the work returned; `state` is ok, hang or crash; `survivors` is how many processes it left."""

    state: str
    value: Any = None
    detail: str = ""
    elapsed_s: float = 0.0
    survivors: int = 0
    stderr: str = field(default="", repr=False)


def become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(root: int) -> list[int]:
    """Every live process below `root`, by the parent pids in /proc (zombies do not count)."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            # the name in parentheses may hold anything, so cut behind the last one
            state, ppid = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[:2]
            if state != "Z":
                parents[int(entry)] = int(ppid)
    found: set[int] = {root}
    while True:
        more = {pid for pid, ppid in parents.items() if ppid in found} - found
        if not more:
            return sorted(found - {root})
        found |= more


def kill_descendants(limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        left = descendants(os.getpid())
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not left:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes that SIGKILL does not end: {left}")
        time.sleep(0.005)


def run(
    work: str,
    library: str,
    params: dict[str, Any],
    limit_s: float,
    *,
    survivors_after_s: float = 0,
    wrapper: Sequence[str] = (),
) -> Outcome:
    """`wrapper` is put before the interpreter: strace or valgrind with their options."""
    become_subreaper()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        out = Path(scratch) / "answer.json"
        env = env_of(library)
        command = [*wrapper, str(python_of(env)), "-m", "harness.child", work, library, json.dumps(params), str(out)]
        with open(f"{scratch}/stderr", "w+") as stderr, open(f"{scratch}/stdout", "w") as stdout:
            started = time.monotonic()
            child = subprocess.Popen(
                command, env=variables_of(env), cwd=scratch, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = child.wait(limit_s)
            except subprocess.TimeoutExpired:
                code = None
            elapsed_s = time.monotonic() - started
            survivors = _count_survivors(survivors_after_s) if survivors_after_s else 0
            with contextlib.suppress(OSError):
                child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5)
            kill_descendants()
            stderr.seek(0)
            said = stderr.read()
        if out.exists():
            return Outcome("ok", json.loads(out.read_text()), "", elapsed_s, survivors, said)
        if code is None:
            return Outcome("hang", None, f"no answer in {limit_s:g} s", elapsed_s, survivors, said)
        last = said.strip().splitlines()[-1] if said.strip() else ""
        return Outcome("crash", None, f"exit {code}: {last}"[:300], elapsed_s, survivors, said)


def _count_survivors(within_s: float) -> int:
    """How many are left after `within_s`; returns at once when none is."""
    deadline = time.monotonic() + within_s
    while (left := len(descendants(os.getpid()))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
