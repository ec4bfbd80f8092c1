"""What the long runs read off: memory, descriptors, threads, processes, shared memory, processor time.

Only reads. The package is found from a bare checkout too, so that the commands beside this
module (`soak`, `scale`, `leaks`) need no installation.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # where spawned workers find fault_tasks
if not any((Path(entry) / "billiard" / "_core").is_dir() for entry in sys.path if entry):
    sys.path.insert(0, str(HERE.parents[1] / "src"))

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def rss_mb(pid: int | str = "self") -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6


def exact_malloc() -> None:
    """Large blocks go back to the system when they are freed. For a program's start, before its threads.

    Else glibc learns from the first large free to keep blocks of up to 32 MB in its arenas, and a thread's arena keeps up
    to 64 MB of free memory at its top, which no `malloc_trim` touches: that would hide a leak of the pool, and look like one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD; once set, it is no longer learnt


def give_back() -> None:
    """Collect, and let the C library give its free pages to the system: what is judged is what the pool holds."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1  # the listing's own


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, ppid, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def parent_of(pid: int) -> int:
    return int(_stat(pid)[1])


def family() -> set[int]:
    """Every process that descends from this one, zombies too."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = parent_of(int(entry.name))
            except OSError:  # it ended as we looked
                continue
    found, me = set(), os.getpid()
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != me:
            ancestor = parents[ancestor]
        if ancestor == me and pid != me:
            found.add(pid)
    return found


def cpu_s(pid: int) -> float:
    """Processor time of a process and of those of its children that it has reaped."""
    reaped = sum(map(int, _stat(pid)[13:15])) * TICK_S
    try:
        # in nanoseconds: in ticks of 10 ms a worker that has only just started has cost nothing
        threads = Path(f"/proc/{pid}/task").iterdir()
        return reaped + sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except FileNotFoundError:  # the kernel keeps no such statistics
        return reaped + sum(map(int, _stat(pid)[11:13])) * TICK_S


def family_cpu_s() -> float:
    """Processor time of this process and all that descend from it. (What is between two readings is worth something;
    a child that ends between the reading of its parent and its own is missed for once.)"""
    spent = time.process_time()
    times = os.times()
    spent += times.children_user + times.children_system
    for pid in family():
        try:
            spent += cpu_s(pid)
        except OSError:
            continue
    return spent


def shared_memory() -> int:
    """Mappings of shared memory, with a name in /dev/shm or without one. (What lies in /dev/shm may be anybody's.)"""
    return sum("/memfd:" in line or "/dev/shm/" in line for line in Path("/proc/self/maps").read_text().splitlines())


class Held(NamedTuple):
    """What a process holds at one moment."""

    descriptors: int
    threads: int
    processes: int
    shared: int

    def __str__(self) -> str:
        return f"fds {self.descriptors}, threads {self.threads}, processes {self.processes}, shared mappings {self.shared}"


def held() -> Held:
    return Held(descriptors(), threading.active_count(), len(family()), shared_memory())


def settled(expected: Callable[[Held], bool], within_s: float = 20.0) -> Held:
    """What is held once it is as expected; else what is held after all that time. Nothing tells of an orphan's end."""
    deadline = time.monotonic() + within_s
    while True:
        now = held()
        if expected(now) or time.monotonic() > deadline:
            return now
        gc.collect()
        time.sleep(0.01)


def whole(pool: Any, within_s: float = 60.0) -> bool:
    """Whether the pool has all its workers, each up, and none on its way out: only then is what it holds worth counting."""
    deadline, looks = time.monotonic() + within_s, 0
    while looks < 3:  # one look may fall into the middle of a turn
        workers = list(pool._engine.core.worker_set.workers.values())
        up = len(workers) == pool._processes and all(worker.phase == 1 and worker.pid for worker in workers)
        looks = looks + 1 if up else 0
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def lasting_helpers() -> None:
    """The resource tracker and the fork server live as long as the interpreter: there before anything is counted."""
    import multiprocessing.forkserver
    import multiprocessing.resource_tracker

    multiprocessing.resource_tracker.ensure_running()
    method = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.forkserver.ensure_running()
    multiprocessing.set_start_method(method, force=True)
    multiprocessing.util.get_temp_dir()


class Tally:
    """An append-only file without a name, in which each task writes its number once it runs.

    An append is one step for the kernel, so two workers running the same task at the same moment show as two records;
    bytes in shared memory that each increments would show one.
    """

    RECORD = 8

    def __init__(self) -> None:
        import fcntl

        self.fd = os.memfd_create("billiard-tally")
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)
        os.set_inheritable(self.fd, True)
        self._read = 0

    def note(self, number: int) -> None:
        os.write(self.fd, number.to_bytes(self.RECORD, "little"))

    def news(self) -> Iterator[int]:
        """The numbers noted since the last time."""
        while data := os.pread(self.fd, 1 << 16, self._read):
            self._read += len(data)
            for at in range(0, len(data), self.RECORD):
                yield int.from_bytes(data[at : at + self.RECORD], "little")

    def close(self) -> None:
        os.close(self.fd)


class Every:
    """True once per period: when a line of progress is due."""

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self.next = time.monotonic() + period_s

    def __call__(self) -> bool:
        if time.monotonic() < self.next:
            return False
        self.next = time.monotonic() + self.period_s
        return True


class Verdict:
    """Bars, each printed with its figure; false when one was missed."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def bar(self, what: str, kept: bool, figures: str) -> None:
        print(f"{'ok  ' if kept else 'MISS'} {what}: {figures}", flush=True)
        if not kept:
            self.missed.append(f"{what}: {figures}")

    def close(self) -> int:
        print("every bar was kept" if not self.missed else f"{len(self.missed)} bars were missed", flush=True)
        return 1 if self.missed else 0
