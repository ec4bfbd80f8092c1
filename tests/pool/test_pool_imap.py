"""Lazy maps: how far they read ahead, in which order, and what errors of input and items do."""

import itertools
import time

import pool_tasks as t
import pytest

from billiard import TimeoutError, WorkerLostError

BOTH = pytest.mark.parametrize("how", ["imap", "imap_unordered"])


class Counted:
    """An endless input that says how far it was read."""

    def __init__(self):
        self.given = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.given += 1
        return self.given - 1


@BOTH
@pytest.mark.parametrize("chunksize", [1, 10])
def test_reads_a_bounded_number_ahead(pool, how, chunksize):
    items = Counted()
    results = getattr(pool, how)(t.square, items, chunksize)
    assert items.given <= 4 * 2 * chunksize
    first = list(itertools.islice(results, 100))
    assert len(set(first)) == 100
    assert items.given <= 100 + 512 * 2 * chunksize


@BOTH
def test_the_input_is_read_in_the_callers_thread(pool, how):
    import threading

    seen = set()

    def items():
        for i in range(50):
            seen.add(threading.get_ident())
            yield i

    assert sorted(getattr(pool, how)(t.echo, items())) == list(range(50))
    assert seen == {threading.get_ident()}


@BOTH
@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_error_of_the_input_comes_after_its_items(pool, how, chunksize):
    def items():
        yield from range(6)
        raise LookupError("no more")

    results, got = getattr(pool, how)(t.echo, items(), chunksize), []
    with pytest.raises(LookupError, match="no more"):
        while True:
            got.append(next(results))
    assert sorted(got) == list(range(6))
    with pytest.raises(StopIteration):
        next(results)


def test_the_iteration_goes_on_behind_a_failed_item(pool):
    results = pool.imap(odd_only, range(4))
    got = []
    while True:
        try:
            got.append(next(results))
        except StopIteration:
            break
        except ValueError as exc:
            got.append(str(exc))
    assert got == ["0 is even", 1, "2 is even", 3]


def odd_only(x):
    if x % 2 == 0:
        raise ValueError(f"{x} is even")
    return x


@BOTH
def test_a_death_fails_one_item(pool, how):
    results, got, lost = getattr(pool, how)(die_at_5, range(20)), [], 0
    while True:
        try:
            got.append(next(results))
        except StopIteration:
            break
        except WorkerLostError:
            lost += 1
    assert sorted(got) == [x for x in range(20) if x != 5]
    assert lost == 1


def die_at_5(x):
    if x == 5:
        t.die()
    return x


def test_a_death_in_a_chunk_names_the_item(pool):
    with pytest.raises(WorkerLostError, match="item 5"):
        pool.map(die_at_5, range(20), chunksize=4)


def test_next_with_a_timeout(pool):
    results = pool.imap(t.nap, [0.3, 0])
    with pytest.raises(TimeoutError):
        results.next(timeout=0.01)
    assert results.next(timeout=10) is None
    assert results.next(10) is None
    with pytest.raises(StopIteration):
        results.next()


def test_unordered_gives_what_is_ready(pool):
    began = time.monotonic()
    results = pool.imap_unordered(nap_for, [1.0, 0.01, 0.02])
    assert next(results) == 0.01
    assert time.monotonic() - began < 0.8
    assert sorted(results) == [0.02, 1.0]


def nap_for(seconds):
    time.sleep(seconds)
    return seconds


def test_limits_hold_for_every_item(make_pool):
    from billiard import TimeLimitExceeded

    pool = make_pool(2, timeout=0.4)
    assert len(pool.map(t.nap, [0.15] * 6, chunksize=6)) == 6  # each item on its own is in time
    with pytest.raises(TimeLimitExceeded, match="item 2"):
        pool.map(t.nap, [0.01, 0.01, 30, 0.01], chunksize=4)
    assert list(pool.imap(t.nap, [0.1] * 3)) == [None] * 3


def test_soft_limits_hold_for_every_item(make_pool):
    pool = make_pool(1, soft_timeout=0.2)
    assert pool.map(soft_or_done, [5, 0.01, 5], chunksize=3) == ["soft", "done", "soft"]


def soft_or_done(seconds):
    return "soft" if t.soft_or_value(seconds) == "soft" else "done"


@BOTH
def test_of_nothing(pool, how):
    assert list(getattr(pool, how)(t.echo, [])) == []


def test_two_at_once(pool):
    first, second = pool.imap(t.square, range(50)), pool.imap_unordered(t.square, range(50))
    pairs = list(zip(first, sorted(second), strict=True))
    assert all(a == b for a, b in pairs)


def test_an_abandoned_iterator_costs_nothing(pool):
    for _ in range(5):
        next(pool.imap(t.echo, itertools.count()))
    assert pool.apply(t.add, (1, 2)) == 3
