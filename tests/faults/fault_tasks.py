"""What goes wrong in a worker, and where. Importable, so that spawned workers find it."""

import ctypes
import faulthandler
import os
import resource
import signal
import threading
import time
from pathlib import Path

import billiard

HANG_S = 60


def note(path, text):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def noted(path):
    return Path(path).read_text().split() if Path(path).exists() else []


def _grandchild():
    if os.fork() == 0:
        time.sleep(HANG_S)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def _ignore_term():
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.monotonic() + HANG_S
    while time.monotonic() < end:
        time.sleep(0.05)


def _memory():
    raise MemoryError("no room")


def _unpicklable():
    raise Untravelled("here")


class Untravelled(Exception):  # noqa: N818 - a name that says it
    def __reduce__(self):
        raise RuntimeError("I will not travel")


FAULTS = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda: (faulthandler.disable(), os.kill(os.getpid(), signal.SIGSEGV)),
    "SIGSTOP": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "os._exit": lambda: os._exit(7),
    "MemoryError": _memory,
    "unpicklable": _unpicklable,
    "GIL held": lambda: ctypes.PyDLL(None).sleep(HANG_S),
    "SIGTERM ignored": _ignore_term,
    "surviving grandchild": _grandchild,
}


def strike(fault):
    FAULTS[fault]()


def strike_later(fault, after_s):
    def run():
        time.sleep(after_s)
        strike(fault)

    threading.Thread(target=run, daemon=True).start()


class Item:
    """An argument that may strike as it is rebuilt."""

    def __init__(self, log, index, point=None, fault=None):
        self.log, self.index, self.point, self.fault = log, index, point, fault

    def __reduce__(self):
        return rebuild, (self.log, self.index, self.point, self.fault)


def rebuild(log, index, point, fault):
    if point == "before start":
        strike(fault)
    return Item(log, index, point, fault)


class StrikesAsPickled:
    def __init__(self, fault):
        self.fault = fault

    def __reduce__(self):
        strike(self.fault)
        return int, ()


def run(item):
    """The task of a cell: note that it ran, and strike if this is the guilty one."""
    note(item.log, item.index)
    if item.point == "in the task":
        strike(item.fault)
    elif item.point == "before the result":
        return StrikesAsPickled(item.fault)
    elif item.point == "mid-result":
        strike_later(item.fault, 0.01)
        return bytearray(1 << 26)
    elif item.point == "after the result":
        strike_later(item.fault, 0.05)
    return item.index


def initializer(point, fault, log):
    if point == "in the initializer" and not noted(log + ".struck"):
        note(log + ".struck", os.getpid())
        strike(fault)


class AtExit:
    """An on_process_exit that strikes, in the first worker to leave."""

    def __init__(self, fault, log):
        self.fault, self.log = fault, log

    def __call__(self, pid, exitcode):
        if not noted(self.log + ".struck"):
            note(self.log + ".struck", pid)
            strike(self.fault)


def identify(_=None):
    return os.getpid()


def take_all_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))


def nap(seconds, value=None):
    time.sleep(seconds)
    return value


def echo(x):
    return x


def add(a, b=0):
    return a + b


def fail(value):
    raise ValueError(value)


def say_what_two_calls_end_in(pool):
    """In a program of its own: one call kills its worker, one runs for too long."""
    for call in (pool.apply_async(strike, ("SIGKILL",)), pool.apply_async(nap, (30,), timeout=0.2)):
        try:
            call.get(20)
        except billiard.WorkerLostError:
            print("lost")
        except billiard.TimeLimitExceeded:
            print("limited")
