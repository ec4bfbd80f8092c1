"""The same promises with every start method and every driver."""

import math
import signal
import time

import pool_tasks as t
import pytest

from billiard import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from billiard.exceptions import PayloadError, TaskError, Terminated
from pool_helpers import wait_until


def test_values_arrive(driven):
    results = [driven.pool.apply_async(t.add, (i,), {"b": 1}) for i in range(50)]
    assert driven.values(*results) == list(range(1, 51))


PLAIN = [
    None, True, False, 0, -1, 2**31, -(2**31) - 1, 2**64, -(3**500), 0.0, -0.0, 0.1, 5e-324, math.inf, -math.inf, math.nan,
    "", "x", "é\0\U0001f600", "\ud800", "x" * (1 << 12), "x" * ((1 << 12) + 1), b"", b"\x80\x04",
    b"\0" * (1 << 12), b"b" * 5000,
]  # fmt: skip


def test_plain_values_arrive_as_what_they_are(driven):
    """What is marshalled, what is pickled, and either side of where one becomes the other."""
    results = [driven.pool.apply_async(t.echo, (value,)) for value in PLAIN]
    in_tuples = driven.pool.apply_async(t.echo, (tuple(PLAIN),))
    mapped = driven.pool.map_async(t.echo, PLAIN, 1)
    for got in (driven.values(*results), list(driven.value(in_tuples)), driven.value(mapped)):
        assert [(type(value), repr(value)) for value in got] == [(type(value), repr(value)) for value in PLAIN]


def test_many_plain_arguments(driven):
    args = (1, "two", 3.0, b"four", None)
    assert driven.value(driven.pool.apply_async(t.gather, args)) == args


def test_subclasses_of_plain_types_stay_what_they_are(driven):
    got = driven.values(driven.pool.apply_async(t.echo, (t.Number(7),)), driven.pool.apply_async(t.echo, (t.Name("n"),)))
    assert [(type(value), value) for value in got] == [(t.Number, 7), (t.Name, "n")]


def test_a_long_string_passed_twice_arrives_once(driven):
    text = "x" * 5000
    assert driven.value(driven.pool.apply_async(t.are_one, (text, text))) is True


def test_map_keeps_the_order(driven):
    assert driven.value(driven.pool.map_async(t.square, range(100))) == [x * x for x in range(100)]


def test_an_error_is_the_tasks_own(driven):
    error = driven.error(driven.pool.apply_async(t.fail, ("really",)))
    assert type(error) is ValueError
    assert error.args == ("really",)
    assert "pool_tasks.py" in str(error.__cause__)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_death_fails_its_own_task_only(driven, signum):
    results = [driven.pool.apply_async(t.add, (i,)) for i in range(10)]
    victim = driven.pool.apply_async(t.die, (signum,))
    results += [driven.pool.apply_async(t.add, (i,)) for i in range(10, 20)]
    began = time.monotonic()
    error = driven.error(victim)
    assert isinstance(error, WorkerLostError)
    assert error.signal_name == signum.name
    assert error.started is True
    assert time.monotonic() - began < 10
    assert driven.values(*results) == list(range(20))


def test_a_task_that_leaves_is_lost(driven):
    error = driven.error(driven.pool.apply_async(t.leave, (7,)))
    assert isinstance(error, WorkerLostError)
    assert error.exitcode == 7


def test_sys_exit_is_only_an_exception(driven):
    victim = driven.pool.apply_async(t.quit_politely)
    driven._wait(driven.pool, [victim])
    with pytest.raises(SystemExit):
        victim.get(0)


def test_hard_limit(driven):
    began = time.monotonic()
    error = driven.error(driven.pool.apply_async(t.nap, (30,), timeout=0.3))
    assert isinstance(error, TimeLimitExceeded)
    assert time.monotonic() - began < 10
    assert error.args[0] == 0.3


def test_soft_limit(driven):
    assert driven.value(driven.pool.apply_async(t.soft_or_value, (10,), soft_timeout=0.2)) == "soft"
    assert isinstance(driven.error(driven.pool.apply_async(t.snooze, (10,), soft_timeout=0.2)), SoftTimeLimitExceeded)


def test_terminate_ends_one_task(driven):
    running = driven.pool.apply_async(t.nap, (30,))
    driven._wait(driven.pool, [driven.pool.apply_async(t.pid)])
    running.terminate(signal.SIGTERM)
    assert isinstance(driven.error(running), Terminated)
    assert driven.value(driven.pool.apply_async(t.add, (1, 2))) == 3


def test_payloads_harm_their_own_task_only(driven):
    pool = driven.pool
    with pytest.raises(RuntimeError, match="not travel"):
        pool.apply_async(t.echo, (t.WontPickle(),))
    unread = pool.apply_async(t.echo, (t.WontUnpickle(),))
    unsent = pool.apply_async(t.make, ("WontPickle",))
    unbuilt = pool.apply_async(t.make, ("WontUnpickle",))
    stand_in = pool.apply_async(t.raise_two_arguments)
    good = pool.apply_async(t.add, (1, 2))
    assert isinstance(driven.error(unread), PayloadError)
    assert type(driven.error(unsent)).__name__ == "MaybeEncodingError"
    assert isinstance(driven.error(unbuilt), PayloadError)
    assert isinstance(driven.error(stand_in), TaskError)
    assert driven.value(good) == 3


def test_callbacks_run(driven):
    told = []
    good = driven.pool.apply_async(t.add, (1, 2), callback=told.append, accept_callback=lambda pid, at: told.append(pid))
    bad = driven.pool.apply_async(t.fail, error_callback=lambda einfo: told.append(type(einfo.exception)))
    driven._wait(driven.pool, [good, bad])
    wait_until(lambda: len(told) >= 3 or (not driven.pool.threads and driven.pool.turn()))
    assert 3 in told
    assert ValueError in told
    assert len(told) == 3


def test_imap(driven):
    assert list(driven.pool.imap(t.square, range(30))) == [x * x for x in range(30)]
    assert sorted(driven.pool.imap_unordered(t.square, range(30), chunksize=7)) == [x * x for x in range(30)]


def test_large_values_travel(driven):
    block = bytearray(range(256)) * (1 << 13)
    assert driven.value(driven.pool.apply_async(t.echo, (block,))) == block
