"""An exception that a signal's handler raises while the pool pickles or loads reaches the caller as it is.

It is how a soft limit reaches a task that has a pool of its own. Taken for the payload's error it would be lost, or the
result would be for ever "could not be rebuilt".
"""

import gc
import signal
import weakref

import pool_tasks as t
import pytest

from billiard.exceptions import PayloadError
from billiard.pool import Pool


class Struck(Exception):  # noqa: N818 - a message, like an alarm's
    pass


_strikes = 0  # how many of the next loads or dumps a signal interrupts


@pytest.fixture
def strike():
    """Have the signal come in the middle of the next so many loads or dumps of a `Marked`, in this process."""

    def handle(signum, frame):
        raise Struck

    def arm(times=1):
        global _strikes
        _strikes = times

    before = signal.signal(signal.SIGALRM, handle)
    yield arm
    arm(0)
    signal.signal(signal.SIGALRM, before)


def signal_here():
    global _strikes
    if _strikes:
        _strikes -= 1
        signal.raise_signal(signal.SIGALRM)


def load(mark, *rest):
    signal_here()
    return Marked(mark)


class Marked:
    def __init__(self, mark):
        self.mark = mark

    def __eq__(self, other):
        return type(other) is Marked and other.mark == self.mark

    __hash__ = None

    def __reduce__(self):
        signal_here()
        return load, (self.mark,)


class MarkedError(Exception):
    def __reduce__(self):
        return load_error, self.args


def load_error(*args):
    signal_here()
    return MarkedError(*args)


class Broken:
    def __reduce__(self):
        return fail_to_load, ()


def fail_to_load():
    signal_here()
    raise ValueError("never loads")


def make(mark):
    return Marked(mark)


def make_large(mark):
    return [Marked(mark), b"x" * 100_000, bytearray(100_000)]


def make_broken(_):
    return Broken()


def raise_marked(mark):
    raise MarkedError(mark)


@pytest.mark.parametrize("function", [make, make_large])
def test_while_a_value_is_loaded(pool, strike, function):
    result = pool.apply_async(function, (1,))
    result.wait(10)
    strike()
    with pytest.raises(Struck):
        result.get(10)
    assert result.get(10) == function(1)
    assert result.successful()


def test_while_an_error_is_loaded(pool, strike):
    result = pool.apply_async(raise_marked, (1,))
    result.wait(10)
    strike()
    with pytest.raises(Struck):
        result.get(10)
    with pytest.raises(MarkedError):
        result.get(10)


@pytest.mark.parametrize("chunksize", [1, 3])
def test_while_a_map_is_loaded(pool, strike, chunksize):
    result = pool.map_async(make, range(7), chunksize)
    result.wait(10)
    strike()
    with pytest.raises(Struck):
        result.get(10)
    assert result.get(10) == [Marked(i) for i in range(7)]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_while_a_call_is_pickled(pool, strike, chunksize):
    strike()
    with pytest.raises(Struck):
        pool.map(t.echo, [Marked(i) for i in range(7)], chunksize)
    strike()
    with pytest.raises(Struck):
        pool.apply(t.echo, (Marked(1),))
    assert pool.apply(t.echo, (Marked(1),)) == Marked(1)


@pytest.mark.parametrize("chunksize", [1, 3])
def test_a_value_that_never_loads_is_its_own_error(pool, strike, chunksize):
    """The counterpart: what fails each time is told as ever, and a signal that comes in between is not lost either."""
    result = pool.map_async(make_broken, range(3), chunksize)
    result.wait(10)
    strike()
    with pytest.raises(Struck):
        result.get(10)
    with pytest.raises(PayloadError, match=r"could not be rebuilt.*never loads"):
        result.get(10)


def test_a_struck_get_does_not_keep_its_pool(strike):
    gc.disable()
    try:
        pool = Pool(1)
        result = pool.apply_async(make, (1,))
        result.wait(10)
        strike()
        with pytest.raises(Struck):
            result.get(10)
        pool.terminate()
        pool.join()
        ref = weakref.ref(result)
        del result, pool
        assert ref() is None
    finally:
        gc.enable()
