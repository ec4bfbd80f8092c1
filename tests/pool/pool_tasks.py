"""What the tests of the pool have workers do. Importable, so that spawned workers find it."""

import atexit
import ctypes
import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.util import Finalize
from pathlib import Path


def add(a, b=0):
    return a + b


class Number(int):
    pass


class Name(str):
    __slots__ = ()


def gather(*args):
    return args


def are_one(a, b):
    return a is b


def echo(x):
    return x


def square(x):
    return x * x


def pid(*_):
    return os.getpid()


def nap(seconds, value=None):
    time.sleep(seconds)
    return value


def snooze(seconds):
    """Runs in Python all the while, so that a signal's handler gets its turn."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.001)
    return "slept"


def fail(text="broken"):
    raise ValueError(text)


def nap_or_fail(seconds):
    if seconds < 0:
        raise ValueError("cannot nap for less than nothing")
    time.sleep(seconds)


def kwargs(**kwds):
    return kwds


def die(signum=signal.SIGKILL):
    faulthandler.disable()  # it would fill the tests' output with stacks
    os.kill(os.getpid(), signum)
    time.sleep(60)


def leave(code=3):
    os._exit(code)


def quit_politely(code=4):
    sys.exit(code)


def stop_self():
    os.kill(os.getpid(), signal.SIGSTOP)
    return "continued"


def hold_gil(seconds):
    """A C call that does not release the GIL."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def ignore_term(seconds, log=None):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if log is not None:
        note(log, "deaf")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)


def note(path, text):
    """Append a line: a record that survives the worker."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def noted(path):
    return Path(path).read_text().split("\n")[:-1] if Path(path).exists() else []


def record(path, text):
    note(path, text)
    return text


def at_the_end(path):
    """Have it noted when this worker ends."""
    Finalize(None, note, (path, "finalizer"), exitpriority=1)
    atexit.register(note, path, "atexit")


def record_and_nap(path, text, seconds):
    note(path, text)
    time.sleep(seconds)
    return text


def record_and_wait(path, text, fifo):
    """Note it, and go on when somebody opens the other end of `fifo`."""
    note(path, text)
    Path(fifo).read_text()


def square_or_die(x, victim):
    if x == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def die_once(path):
    """Kills the first worker that runs it."""
    if not noted(path):
        note(path, "died")
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def soft_or_value(seconds):
    from billiard import SoftTimeLimitExceeded

    try:
        snooze(seconds)
    except SoftTimeLimitExceeded:
        return "soft"
    return "hard to say"


def spawn_child(path, seconds=60):
    """Leave a child of one's own running, and say who it is."""
    child = os.fork()
    if child == 0:
        time.sleep(seconds)
        os._exit(0)
    note(path, child)
    return child


def child_and_nap(path, seconds):
    spawn_child(path, seconds)
    time.sleep(seconds)


def child_and_leave(path, status):
    spawn_child(path)
    os._exit(status)


def leave_heir():
    """Returns the pid of a child that goes on by itself, and holds all that the worker held."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.write(write, b"\n")
        time.sleep(60)
        os._exit(0)
    os.read(read, 1)
    return pid


def leave_executor():
    """Returns the pid of a process that waits for this executor's next call."""
    global _executor
    _executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    return _executor.submit(os.getpid).result()


def allocate(megabytes):
    block = bytearray(megabytes << 20)
    for at in range(0, len(block), 4096):
        block[at] = 1
    return os.getpid()


class Block:
    """Like an array: its memory travels beside the pickle, and is used where it arrives."""

    def __init__(self, memory):
        self.memory = memory

    def __reduce_ex__(self, protocol):
        return Block, (pickle.PickleBuffer(self.memory),)


_kept = []


def keep(block):
    _kept.append(block)
    return block


def kept():
    return [set(bytes(block.memory)) for block in _kept]


def fills(block):
    return set(bytes(block.memory))


def scribble(block):
    block.memory[0] = 255
    return block.memory[0]


def threads_here():
    return threading.active_count()


def in_a_pool(n):
    """A pool inside a worker."""
    from billiard import Pool

    with Pool(2) as pool:
        return pool.map(square, range(n))


class TwoArgumentsError(Exception):
    """Pickles, and cannot be rebuilt from its args."""

    def __init__(self, a, b):
        super().__init__(a)
        self.b = b


def raise_two_arguments():
    raise TwoArgumentsError(1, 2)


class LocalError(Exception):
    def __reduce__(self):
        raise RuntimeError("I will not travel")


def raise_unpicklable():
    raise LocalError("here")


class WontPickle:
    def __reduce__(self):
        raise RuntimeError("I will not travel")


class WontUnpickle:
    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise RuntimeError("I will not be rebuilt")


class LeavesReader:
    """Raises in whoever unpickles it what would end a program."""

    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        return _leave, (self.kind,)


class LeavesReaderError(Exception):
    __init__, __reduce__ = LeavesReader.__init__, LeavesReader.__reduce__


def _leave(kind):
    raise kind("from a payload")


def leave_reader(kind):
    """A result that does so, an error that does, or any other value as it is."""
    if not isinstance(kind, tuple):
        return kind
    how, kind = kind
    if how == "result":
        return LeavesReader(kind)
    raise LeavesReaderError(kind)


class IsInterrupted:
    """Ctrl-C comes while it is unpickled, the first time."""

    come = False

    def __reduce__(self):
        return _be_interrupted, ()


def _be_interrupted():
    if not IsInterrupted.come:
        IsInterrupted.come = True
        signal.raise_signal(signal.SIGINT)
    return "read"


class KillsReader:
    """Kills the process that unpickles it, unless that is the one that made it."""

    def __init__(self):
        self.maker = os.getpid()

    def __reduce__(self):
        return kill_unless, (self.maker,)


def kill_unless(maker):
    if os.getpid() != maker:
        os.kill(os.getpid(), signal.SIGKILL)


class KillsWriter:
    """Kills the process that pickles it."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)
        return echo, (0,)


class SlowToPickle:
    def __reduce__(self):
        time.sleep(0.3)
        return echo, ("slow",)


def make(name, *args):
    """An object of this module made in the worker, to be its result."""
    return globals()[name](*args)


def say(end, text):
    """By the end of a pipe or of a socket pair."""
    (end.send if hasattr(end, "poll") else end.sendall)(text)
    end.close()
    return type(end).__name__


def generator():
    return (x for x in range(3))


class Exiting(SystemExit):
    pass


class Unshowable:
    """Neither pickles nor has a repr: both want to leave the process."""

    def __reduce__(self):
        raise KeyboardInterrupt

    def __repr__(self):
        raise SystemExit(3)


class UnshowableError(Exception):
    def __reduce__(self):
        raise SystemExit(4)

    __str__ = __repr__ = Unshowable.__repr__


def unshowable(kind):
    """As a result, as an argument of an error, or as the error itself."""
    if kind == "result":
        return Unshowable()
    raise ValueError(Unshowable()) if kind == "argument" else UnshowableError


def stay_with_an_alarm(delay_s):
    """Leaves a thread that is no daemon, and an alarm whose handler raises when the task is long over."""
    threading.Thread(target=time.sleep, args=(3600,)).start()

    def gave_up(signum, frame):
        raise RuntimeError("this took too long")

    signal.signal(signal.SIGALRM, gave_up)
    signal.setitimer(signal.ITIMER_REAL, delay_s)
    return os.getpid()


def stay(path, seconds):
    """Leaves a thread that is no daemon, and that has it noted when it ends."""
    threading.Thread(target=lambda: (time.sleep(seconds), note(path, "thread"))).start()
    return os.getpid()


def leave_if_negative(x):
    if x < 0:
        os._exit(3)
    return x


def raise_interrupt():
    raise KeyboardInterrupt


def init_fails():
    raise LookupError("no such thing to initialise")


def init_dies():
    os.kill(os.getpid(), signal.SIGKILL)


def init_notes(path):
    note(path, os.getpid())


STATE = {}


def init_state(value):
    STATE["value"] = value


def state():
    return STATE.get("value")


def exit_notes(path_holder):
    return path_holder


class ExitNote:
    """An on_process_exit that writes what it was told."""

    def __init__(self, path):
        self.path = path

    def __call__(self, pid, exitcode):
        note(self.path, f"{pid} {exitcode}")


def swallow_in_del(seconds):
    """A soft limit that comes while `__del__` runs ends there."""
    from billiard import SoftTimeLimitExceeded

    class Slow:
        def __del__(self):
            snooze(seconds)

    try:
        slow = Slow()
        del slow
        snooze(5)
    except SoftTimeLimitExceeded:
        return "soft"
    return "nothing came"


def reads_stdin():
    return sys.stdin.read()


def warn_and_pid():
    import warnings

    warnings.warn("from a worker", UserWarning, stacklevel=1)
    return os.getpid()
