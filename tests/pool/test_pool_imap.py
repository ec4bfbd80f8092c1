"""Lazy maps: how far they read ahead, in which order, and what errors of input and items do."""

import collections
import contextlib
import functools
import gc
import itertools
import mmap
import os
import signal
import sys
import threading
import time
import weakref
from pathlib import Path

import pool_tasks as t
import pytest

from billiard import TimeoutError, WorkerLostError
from billiard._api.imap import AHEAD_MAX, ForgettingGroup, IMapIterator, let_end
from billiard.exceptions import PayloadError, TaskError
from pool_helpers import WITHIN_S, wait_until

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
@pytest.mark.parametrize(
    ("options", "func", "life"),
    [({"maxtasksperchild": 1}, t.square, 1), ({"maxtasksperchild": 7}, t.square, 7), ({"max_memory_per_child": 999}, None, 1)],
    ids=["one call", "seven calls", "memory"],
)
def test_reads_no_further_ahead_than_two_lives_of_a_worker(make_pool, how, options, func, life):
    """What a call costs is then mostly its worker's start: 512 of them for each were half a minute with spawn."""
    pool, items = make_pool(2, **options), Counted()
    results = getattr(pool, how)(func or two_megabytes, items)
    for taken in range(1, 51):
        results.next(WITHIN_S)
        assert items.given - taken <= 2 * max(2 * life, 4)


def two_megabytes(x):
    with mmap.mmap(-1, 2 << 20) as fresh:  # what is allocated may be memory that the worker has from this process, and no gain
        fresh.write(bytes(2 << 20))


@BOTH
def test_the_input_is_read_in_the_callers_thread(pool, how):
    seen = set()

    def items():
        for i in range(50):
            seen.add(threading.get_ident())
            yield i

    assert sorted(getattr(pool, how)(t.echo, items())) == list(range(50))
    assert seen == {threading.get_ident()}


@BOTH
@pytest.mark.parametrize("chunksize", [1, 3, 4])
def test_an_error_of_the_input_comes_after_its_items(pool, how, chunksize):
    def items():
        yield from range(6)  # with 4, the second chunk is cut short: the error stands for it, as in multiprocessing
        raise LookupError("no more")

    results, got = getattr(pool, how)(t.echo, items(), chunksize), []
    with pytest.raises(LookupError, match="no more"):
        while True:
            got.append(next(results))
    assert sorted(got) == list(range(6 // chunksize * chunksize))
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


@BOTH
@pytest.mark.parametrize(("chunksize", "got"), [(1, [0, 2, 3, 4, 5]), (2, [2, 3, 4, 5])])
def test_the_iteration_goes_on_behind_an_item_that_does_not_pickle(pool, how, chunksize, got):
    results = getattr(pool, how)(t.echo, [0, t.WontPickle(), 2, 3, 4, 5], chunksize)
    values, errors = [], []
    with contextlib.suppress(StopIteration):
        while True:
            try:
                values.append(next(results))
            except RuntimeError as exc:
                errors.append(exc)
    assert sorted(values) == got
    assert [str(exc) for exc in errors] == ["I will not travel"]
    assert "item 1 of the iterable" in errors[0].__notes__[0]
    assert errors[0].__traceback__ is not None


@BOTH
@pytest.mark.parametrize("chunksize", [1, 2])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(("of", "becomes"), [("result", PayloadError), ("error", TaskError)])
def test_the_iteration_comes_to_its_end_whatever_rebuilding_raises(pool, how, chunksize, kind, of, becomes):
    items = [0, 1, (of, kind), (of, kind), 4, 5]
    results, got, raised, ended = getattr(pool, how)(t.leave_reader, items, chunksize), [], [], False
    while not ended:
        assert len(raised) <= 4, "one item again and again"
        try:
            got.append(results.next(WITHIN_S))
        except StopIteration:
            ended = True
        except BaseException as exc:
            raised.append(type(exc))
    failed = 2 // chunksize
    assert sorted(got) == [0, 1, 4, 5]
    assert raised.count(becomes) == failed
    assert raised.count(KeyboardInterrupt) == (failed if kind is KeyboardInterrupt else 0)  # each may have been a Ctrl-C
    assert len(raised) <= 2 * failed


@BOTH
@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_ctrl_c_while_a_result_is_rebuilt_loses_nothing(pool, how, chunksize, monkeypatch):
    monkeypatch.setattr(t.IsInterrupted, "come", False)
    results = getattr(pool, how)(t.make, ["IsInterrupted"] * 4, chunksize)
    with pytest.raises(KeyboardInterrupt):
        results.next(WITHIN_S)
    assert [*results] == ["read"] * 4


def test_an_error_goes_when_it_has_been_dealt_with(pool):
    """Not only when a collection comes."""
    gc.collect()
    gc.disable()
    try:
        for items in (raising(), [1]):
            with pytest.raises(RefusedError) as caught:
                next(pool.imap(refuse, items))
            gone = weakref.ref(caught.value)
            del caught
            assert gone() is None
    finally:
        gc.enable()


class RefusedError(Exception):
    pass


def raising():
    raise RefusedError
    yield


def refuse(x):
    raise RefusedError


class AlarmError(Exception):
    """What a signal handler of the user's raises."""


@pytest.fixture
def on_alarm():
    """Sets the handler of SIGALRM, for the test."""
    before = signal.getsignal(signal.SIGALRM)
    yield lambda handler: signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def alarmed(signum, frame):
    raise AlarmError


class Struck:
    """An input that a signal interrupts before its item number `at`, once."""

    def __init__(self, count, at):
        self.items = iter(range(count))
        self.at = at
        self.given = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.given == self.at:
            self.at = None
            signal.raise_signal(signal.SIGALRM)
        item = next(self.items)
        self.given += 1
        return item


@BOTH
@pytest.mark.parametrize("chunksize", [1, 3])
def test_what_a_handler_raises_while_the_input_is_read_is_no_error_of_the_input(pool, on_alarm, how, chunksize):
    on_alarm(alarmed)
    items = Struck(60, 10 * chunksize)  # eight chunks are taken at once, the others as results are fetched
    results, got = getattr(pool, how)(t.echo, items, chunksize), []
    with pytest.raises(AlarmError):
        while True:
            got.append(results.next(WITHIN_S))
    assert len(got) < items.given, "it was told after everything else"
    got += [*results]
    assert sorted(got) == list(range(60))


@BOTH
@pytest.mark.parametrize("chunksize", [1, 7])
@pytest.mark.parametrize("threads", [False, True], ids=["caller alone", "with a supervisor"])
def test_a_storm_of_signals_loses_no_result(make_pool, on_alarm, how, chunksize, threads):
    """Wherever in `next` it strikes; `tests/faults/strikes.py` tries each place."""
    pool, struck, rounds = make_pool(2, threads=threads), 0, 0

    def strike(signum, frame):
        nonlocal struck
        while frame is not None:
            if frame.f_code is IMapIterator.next.__code__:  # elsewhere it would hit the test itself
                struck += 1
                raise AlarmError
            frame = frame.f_back

    on_alarm(strike)
    items = range(400)
    # what is raised in a finalizer is swallowed by the interpreter, as it must be
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        end = time.monotonic() + 3 * WITHIN_S
        while struck < 10 or rounds < 5:
            assert time.monotonic() < end, f"struck {struck} times in {rounds} rounds"
            results, got, ended = getattr(pool, how)(t.echo, items, chunksize), [], False
            # not more often: a turn with all of these results has to be through before it is struck again
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            while not ended:
                try:
                    assert time.monotonic() < end, f"{len(got)} of {len(items)} in a round"
                    got.append(results.next(10))
                except AlarmError:
                    pass
                except StopIteration:
                    ended = True
            signal.setitimer(signal.ITIMER_REAL, 0)
            rounds += 1
            assert (got if how == "imap" else sorted(got)) == list(items)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook


@BOTH
@pytest.mark.parametrize("chunksize", [1, 3])
def test_one_iterator_in_several_threads(pool, how, chunksize):
    results, got, errors = getattr(pool, how)(nap_a_little, range(600), chunksize), [], []

    def fetch():
        try:
            got.extend(results)
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=fetch, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert not errors
    assert not any(thread.is_alive() for thread in threads), "waits for ever"
    assert sorted(got) == list(range(600))


def nap_a_little(x):
    time.sleep(0.0005)
    return x


@BOTH
def test_all_who_wait_are_told_of_the_end(make_pool, how, tmp_path):
    """Three threads wait for the one result: one gets it, the others the end."""
    pool, got = make_pool(1), []
    go = tmp_path / "go"
    results = getattr(pool, how)(wait_for, [str(go)])
    threads = [threading.Thread(target=lambda: got.append([*results]), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(pool._engine.poll_set.waiting_callers) == 2)  # ... and one drives
    go.touch()
    for thread in threads:
        thread.join(WITHIN_S)
    assert sorted(got) == [[], [], ["there"]]


def wait_for(path):
    while not t.Path(path).exists():
        time.sleep(0.001)
    return "there"


@BOTH
def test_an_input_may_ask_for_results_while_there_are_any(pool, how):
    """And so may a signal's handler that interrupted it. What it would have to wait for without end is refused."""
    refused = []

    def items():
        yield from range(8)
        with contextlib.suppress(StopIteration):
            while True:
                try:
                    got.append(next(results))
                except RuntimeError as exc:
                    refused.append(str(exc))
                    break
        yield from range(8, 20)

    got = []
    results = getattr(pool, how)(t.echo, items())
    got += results
    assert sorted(got) == list(range(20))
    (said,) = refused
    assert "took from its input" in said


def test_a_handler_that_fetches_while_next_waits(make_pool, on_alarm):
    """Each result goes to one of the two."""
    pool = make_pool(2)
    results = pool.imap(nap_a_little, range(400))
    got, told = [], []

    def fetch(signum, frame):
        with contextlib.suppress(RuntimeError):  # the pool was interrupted in the middle of its work, and cannot be waited for
            told.extend(itertools.islice(results, 1))

    on_alarm(fetch)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    got += [*results]
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert told
    assert collections.Counter([*got, *told]) == dict.fromkeys(range(400), 1)


@BOTH
@pytest.mark.parametrize("threads", [True, False])
def test_a_closed_pool_goes_on_reading(make_pool, how, threads):
    """`imap`, `close`, take the results as they are needed: the pool does not end between two looks at the input."""
    pool = make_pool(2, threads=threads)
    count = 3 * AHEAD_MAX  # more than is taken at once for two workers, however quick the calls prove
    results = getattr(pool, how)(t.square, range(count))
    pool.close()
    first = [next(results) for _ in range(5)]
    wait_until(lambda: pool._engine.turn() or not pool._engine.core.worker_set._in_flight())
    assert not pool._engine.core.worker_set.over
    assert sorted([*first, *results]) == [i * i for i in range(count)]
    pool.join()


@BOTH
@pytest.mark.parametrize("chunksize", [1, 7])
def test_join_reads_the_input_to_its_end(make_pool, how, chunksize):
    pool = make_pool(2)
    results = getattr(pool, how)(t.square, iter(range(1000)), chunksize)
    pool.close()
    pool.join()
    assert sorted(results) == [i * i for i in range(1000)]


@BOTH
def test_join_reads_on_behind_a_thread_that_is_reading(make_pool, how):
    """It is in the input when `join` comes to it, and takes no more than one result afterwards."""
    pool = make_pool(2)
    entered, go_on = threading.Event(), threading.Event()

    def items():
        for i in range(1000):
            if i == 8:  # so many are taken at once; this one is, when the first result is fetched
                entered.set()
                assert go_on.wait(WITHIN_S)
            yield i

    results = getattr(pool, how)(t.square, items())
    got = []
    reader = threading.Thread(target=lambda: got.extend(itertools.islice(results, 5)))
    reader.start()
    assert entered.wait(WITHIN_S)
    pool.close()
    joined = threading.Thread(target=pool.join)
    joined.start()
    joined.join(0.2)  # long enough to come to the iterator
    go_on.set()
    reader.join(WITHIN_S)
    joined.join(WITHIN_S)
    assert not joined.is_alive()
    assert sorted([*got, *results]) == [i * i for i in range(1000)]


@BOTH
def test_a_forgotten_one_keeps_no_closed_pool(make_pool, how):
    pool = make_pool(1)
    results = getattr(pool, how)(t.square, range(1000))
    next(results)
    pool.close()
    del results
    wait_until(lambda: pool._engine.closed)  # what was under way has to end first
    pool.join()


@BOTH
def test_what_nobody_takes_is_run_all_the_same(make_pool, how, tmp_path):
    """As in multiprocessing, and whenever garbage is collected."""
    pool = make_pool(2)
    getattr(pool, how)(functools.partial(t.note, tmp_path / "log"), range(300))
    gc.collect()
    pool.close()
    pool.join()
    assert sorted(map(int, t.noted(tmp_path / "log"))) == list(range(300))
    assert not pool._untaken


@BOTH
def test_who_lets_go_ends_the_reading(make_pool, how):
    pool = make_pool(2)
    gc.collect()
    gc.disable()  # nothing is left to it
    try:
        for result in getattr(pool, how)(t.echo, itertools.count()):
            if result >= 10:
                break
        pool.close()
        wait_until(lambda: pool._engine.closed)
    finally:
        gc.enable()
    pool.join()


def test_one_that_a_handler_kept_from_being_made_dies_in_silence():
    """It raised as the constructor was entered; what a finalizer raises is an error here, and noise on stderr elsewhere."""
    ForgettingGroup.__new__(ForgettingGroup)


@BOTH
def test_an_exhausted_one_dies_without_a_finalizer_of_ours(pool, how):
    """What a signal's handler raises in one never reaches its caller: of 1,500 in a loop over short maps, 45 did not."""
    results, ran = getattr(pool, how)(t.square, range(3)), []
    assert sorted(results) == [0, 1, 4]
    sys.setprofile(lambda frame, event, arg: ran.append(frame.f_code.co_qualname) if event == "call" else None)
    try:
        del results
    finally:
        sys.setprofile(None)
    assert ran == []


@BOTH
def test_a_closed_pool_ends_though_a_finalizer_was_struck(make_pool, how, monkeypatch):
    pool, struck = make_pool(2), []
    results = getattr(pool, how)(t.square, itertools.count())
    next(results)
    pool.close()
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: struck.append(unraisable.exc_type))

    def strike(frame, event, arg):
        if event == "call" and frame.f_code is let_end.__code__:
            sys.setprofile(None)
            raise AlarmError

    sys.setprofile(strike)
    try:
        del results
    finally:
        sys.setprofile(None)
    assert struck == [AlarmError]
    joined = threading.Thread(target=pool.join)
    joined.start()
    joined.join(WITHIN_S)
    assert not joined.is_alive()


@BOTH
def test_what_an_iteration_is_at(make_pool, how, tmp_path):
    pool, gate = make_pool(1), tmp_path / "gate"
    os.mkfifo(gate)
    results = getattr(pool, how)(Path.read_text, [gate])
    wait_until(results.worker_pids)
    assert results.worker_pids() == [worker.pid for worker in pool._pool]
    assert not results.ready()
    gate.write_text("go on")
    wait_until(results.ready)
    assert results.worker_pids() == []
    assert next(results) == "go on"
    assert results.ready()


@BOTH
def test_a_terminated_pool_reads_no_further(make_pool, how):
    pool = make_pool(2)
    items = Counted()
    results = getattr(pool, how)(t.square, items)
    next(results)
    pool.terminate()
    pool.join()
    given = items.given
    ended = []
    while len(ended) <= given:
        try:
            next(results)
        except StopIteration:
            break
        except (WorkerLostError, ValueError) as exc:
            ended.append(exc)
    assert items.given == given
    assert "Pool not running: it was terminated" in str(ended[-1])
    with pytest.raises(StopIteration):
        next(results)
