"""A turn survives an exception at any line of it, and a storm of them."""

import contextlib
import dis
import functools
import gc
import os
import signal
import sys
import time

import fault_tasks as t
import pytest

from billiard import WorkerLostError
from billiard._api.results import Handle

OURS = ("/billiard/_supervisor/", "/billiard/_core/", "/billiard/_wire/channel.py")


@pytest.fixture(autouse=True)
def nothing_left():
    """Not here: an exception between a system call and the store of its result loses that descriptor, in any program."""
    yield
    gc.collect()


class StruckError(Exception):
    """What a signal handler of the user's raises."""


@functools.cache
def checkpoints(code):
    """Offsets before which the interpreter runs signal handlers: behind a call, at a function's start, at a loop's turn.

    Between any other two instructions no handler runs, so an exception there proves nothing (and would skip a lock's
    release that no signal can skip).
    """
    found, before = set(), None
    for instruction in dis.get_instructions(code):
        if before is not None and before.opname in ("RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX"):
            found.add(instruction.offset)
        if instruction.opname == "JUMP_BACKWARD":
            found.add(instruction.argval)
        before = instruction
    return found


class StrikeAt:
    """Raises at the n-th point of our code at which a signal handler could have raised."""

    def __init__(self, n):
        self.left = n
        self.struck = False

    def __enter__(self):
        sys.settrace(self)
        return self

    def __exit__(self, *exc_info):
        sys.settrace(None)

    def __call__(self, frame, event, arg):
        if not any(part in frame.f_code.co_filename for part in OURS):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.struck and frame.f_lasti in checkpoints(frame.f_code):
            self.left -= 1
            if self.left < 0:
                self.struck = True
                raise StruckError
        return self


def fates(results):
    ended = []
    for result in results:
        try:
            ended.append(result.get(10))
        except WorkerLostError:
            ended.append("lost")
    return ended


ALL_POINTS = pytest.mark.skipif(
    "BILLIARD_FAULTS_ALL" not in os.environ,
    reason="minutes long, and not passing yet: run it with BILLIARD_FAULTS_ALL=1 (open: what it finds is to be mended)",
)


@ALL_POINTS
@pytest.mark.parametrize("start", range(8))
def test_an_exception_at_every_point_of_a_turn(make_pool, start):
    """Results arrive, a worker dies and is replaced, while point after point of the turn raises."""
    pool = make_pool(2, threads=False, maxtasksperchild=7)
    n, line = 0, start
    while True:
        results = [pool.apply_async(t.add, (n, i)) for i in range(5)]
        if n % 3 == 0:
            results.append(pool.apply_async(t.strike, ("os._exit",)))
        struck = False
        with StrikeAt(line) as strike:
            try:
                for result in results:
                    result.wait(5)
            except StruckError:
                struck = True
        assert struck or not strike.struck or all(result.ready() for result in results)
        assert fates(results)[:5] == [n, n + 1, n + 2, n + 3, n + 4]
        if len(results) == 6:
            assert fates(results)[5] == "lost"
        n += 1
        line += 8
        if not strike.struck or line > 1200:
            break
    assert n > 10
    assert pool.apply(t.add, (1, 2)) == 3


@ALL_POINTS
@pytest.mark.parametrize("start", range(4))
def test_an_exception_at_every_point_of_submitting(make_pool, start):
    pool, n, line = make_pool(2, threads=False), 0, start
    while True:
        with StrikeAt(line) as strike:
            try:
                pool.apply_async(t.add, (n, n)).wait(5)
            except StruckError:
                pass
        assert [pool.apply_async(t.add, (n, i)).get(10) for i in range(3)] == [n, n + 1, n + 2]
        n, line = n + 1, line + 4
        if not strike.struck or line > 600:
            break
    assert n > 5


def storm(seconds, pool, make_results):
    """Wait for results under SIGALRM at 1 kHz, whose handler raises."""

    struck = done = 0

    def strike(signum, frame):
        nonlocal struck
        while frame is not None:
            if frame.f_code is Handle.wait.__code__:  # elsewhere it would hit the test itself
                struck += 1
                raise StruckError
            frame = frame.f_back

    # a strike inside a finalizer is swallowed by the interpreter, as it must be; reported, it would be struck again
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    before = signal.signal(signal.SIGALRM, strike)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            results = make_results()
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            for result in results:
                while not result.ready():
                    with contextlib.suppress(StruckError):
                        result.wait(10)
            signal.setitimer(signal.ITIMER_REAL, 0)
            yield results
            done += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook
    assert done
    assert struck > 50, f"a storm of {struck} is none"


@pytest.mark.parametrize("threads", [False, True], ids=["caller alone", "with a supervisor"])
def test_a_storm_of_signals_over_waiting_callers(make_pool, threads):
    pool = make_pool(2, threads=threads)
    values = list(range(60))
    for results in storm(3, pool, lambda: [pool.apply_async(t.nap, (0.001, i)) for i in values]):
        assert [result.get(10) for result in results] == values


def test_a_storm_with_deaths_and_limits(make_pool):
    from billiard import TimeLimitExceeded

    pool = make_pool(2, threads=False)

    def some():
        return [
            *(pool.apply_async(t.nap, (0.002, i)) for i in range(10)),
            pool.apply_async(t.strike, ("SIGKILL",)),
            pool.apply_async(t.nap, (30,), timeout=0.05),
        ]

    for results in storm(4, pool, some):
        assert [result.get(10) for result in results[:10]] == list(range(10))
        with pytest.raises(WorkerLostError):
            results[10].get(10)
        with pytest.raises(TimeLimitExceeded):
            results[11].get(10)
    assert pool.apply(t.add, (1, 2)) == 3


def test_a_storm_of_large_arguments(make_pool):
    pool = make_pool(2, threads=False)
    block = bytearray(3 << 20)
    for results in storm(3, pool, lambda: [pool.apply_async(t.echo, (block,)) for _ in range(4)]):
        assert all(len(result.get(10)) == len(block) for result in results)


def test_ctrl_c_in_get_and_again(make_pool):
    pool = make_pool(1, threads=False)
    result = pool.apply_async(t.nap, (0.5, "value"))

    def strike(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            result.get(10)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert result.get(10) == "value"
