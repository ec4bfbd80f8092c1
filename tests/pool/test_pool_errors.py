"""An error is what it says it is, and carries the story."""

import dataclasses
import pickle
import re
import signal
import traceback
from concurrent.futures import ThreadPoolExecutor

import pool_tasks as t
import pytest

from billiard import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from billiard.exceptions import PayloadError, TaskError, Terminated
from billiard.pool import MaybeEncodingError
from pool_helpers import WITHIN_S, is_running, wait_until


def caught(result):
    with pytest.raises(Exception) as info:
        result.get(20)
    return info.value


@pytest.mark.parametrize(
    ("func", "args", "exitcode", "name"),
    [(t.die, (signal.SIGKILL,), -9, "SIGKILL"), (t.die, (signal.SIGSEGV,), -11, "SIGSEGV"), (t.leave, (3,), 3, None),
     (t.leave, (0,), 0, None)],
)  # fmt: skip
def test_worker_lost(pool, func, args, exitcode, name):
    result = pool.apply_async(func, args)
    wait_until(lambda: result.worker_pids() or result.ready())
    error = caught(result)
    assert type(error) is WorkerLostError
    assert (error.exitcode, error.signal_name, error.started, error.job) == (exitcode, name, True, result._job)
    assert error.function == f"pool_tasks.{func.__name__}"
    assert isinstance(error.pid, int)
    assert 0 <= error.runtime_s < 10
    for word in (func.__name__, str(error.pid), name or f"exitcode {exitcode}"):
        assert word in str(error)


def test_time_limit_exceeded(pool):
    error = caught(pool.apply_async(t.nap, (30,), timeout=0.25))
    assert type(error) is TimeLimitExceeded
    assert error.args == (0.25,)
    assert 0.25 <= error.runtime_s < 1
    assert error.signal_name == "SIGKILL"
    assert "pool_tasks.nap" in error.__notes__[0]


def test_terminated(pool):
    result = pool.apply_async(t.nap, (30,))
    wait_until(result.worker_pids)
    result.terminate(signal.SIGTERM)
    error = caught(result)
    assert type(error) is Terminated
    assert error.args[0] == 15
    assert error.function == "pool_tasks.nap"


def test_the_story_travels(pool):
    error = pickle.loads(pickle.dumps(caught(pool.apply_async(t.die))))
    assert (error.signal_name, error.function) == ("SIGKILL", "pool_tasks.die")


def test_the_remote_traceback_is_shown(pool):
    text = "".join(traceback.format_exception(caught(pool.apply_async(t.fail))))
    assert "in fail" in text
    assert "pool_tasks.py" in text


@pytest.mark.parametrize(
    "submit",
    [
        lambda pool: pool.apply_async(t.fail, ("first",)),
        lambda pool: pool.apply_async(t.fail, (), {"text": "keyword"}),
        lambda pool: pool.map_async(t.fail, ["chunked"] * 4, chunksize=2),
        lambda pool: pool.starmap_async(t.fail, [("starred",)] * 4, chunksize=2),
    ],
    ids=["apply", "keywords", "map", "starmap"],
)
def test_the_remote_traceback_begins_with_the_task(pool, submit):
    story = str(caught(submit(pool)).__cause__)
    assert "in fail" in story
    assert "loop.py" not in story


def test_an_exception_that_cannot_be_rebuilt(pool):
    error = caught(pool.apply_async(t.raise_two_arguments))
    assert type(error) is TaskError
    assert (error.type_name, error.args_repr) == ("TwoArgumentsError", "(1,)")
    assert "raise_two_arguments" in error.traceback


def test_an_exception_that_does_not_pickle(pool):
    error = caught(pool.apply_async(t.raise_unpicklable))
    assert type(error) is TaskError
    assert (error.type_name, error.args_repr) == ("LocalError", "('here',)")


def test_payloads(pool):
    unread = caught(pool.apply_async(t.echo, (t.WontUnpickle(),)))
    assert type(unread) is PayloadError
    assert "not be rebuilt" in str(unread)
    assert "I will not be rebuilt" in str(unread)
    unbuilt = caught(pool.apply_async(t.make, ("WontUnpickle",)))
    assert type(unbuilt) is PayloadError
    assert (unbuilt.function, type(unbuilt.__cause__)) == ("pool_tasks.make", RuntimeError)
    unsent = caught(pool.apply_async(t.generator))
    assert "generator" in str(unsent)
    assert pool.apply(t.add, (1, 2)) == 3


def test_a_map_names_the_item_that_did_not_rebuild(pool):
    assert type(caught(pool.map_async(t.make, ["WontUnpickle"], 1))) is PayloadError


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(("how", "becomes"), [("result", PayloadError), ("error", TaskError)])
def test_what_a_payload_raises_as_it_is_rebuilt_is_its_own_error(pool, kind, how, becomes):
    """In the main thread a KeyboardInterrupt may be a Ctrl-C, and is told as one, once."""
    in_a_thread = ThreadPoolExecutor(1).submit(caught, pool.apply_async(t.leave_reader, ((how, kind),))).result(WITHIN_S)
    single, several = pool.apply_async(t.leave_reader, ((how, kind),)), pool.map_async(t.leave_reader, [1, (how, kind)], 1)
    if kind is KeyboardInterrupt:
        for result in (single, several):
            with pytest.raises(KeyboardInterrupt, match="from a payload"):
                result.get(WITHIN_S)
    for error in (in_a_thread, caught(single), caught(several)):
        assert type(error) is becomes
        assert type(error.__cause__) is kind


@pytest.mark.parametrize("how", [t.raise_interrupt, t.quit_politely])
def test_exceptions_beyond_exception(pool, how):
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        pool.apply_async(how).get(10)
    assert pool.apply(t.add, (1, 2)) == 3


def test_a_payload_that_kills_whoever_reads_it(make_pool):
    pool = make_pool(2)
    good = [pool.apply_async(t.add, (i,)) for i in range(20)]
    error = caught(pool.apply_async(t.echo, (t.KillsReader(),)))
    good += [pool.apply_async(t.add, (i,)) for i in range(20)]
    assert type(error) is WorkerLostError
    assert [result.get(10) for result in good] == [*range(20), *range(20)]


def test_a_result_that_kills_the_worker_as_it_is_pickled(pool):
    error = caught(pool.apply_async(t.make, ("KillsWriter",)))
    assert type(error) is WorkerLostError
    assert pool.apply(t.add, (1, 2)) == 3


def test_soft_limit_while_unpickling_is_a_soft_limit(pool):
    error = caught(pool.apply_async(t.echo, (SlowToRebuild(),), soft_timeout=0.1))
    assert type(error) is SoftTimeLimitExceeded


class SlowToRebuild:
    def __reduce__(self):
        return t.snooze, (5,)


def test_swallowed_soft_limit_is_sent_again(pool):
    assert pool.apply_async(t.swallow_in_del, (0.5,), soft_timeout=0.2).get(10) == "soft"


def test_group_and_notes_survive(pool):
    with pytest.raises(ExceptionGroup) as info:
        pool.apply(raise_group)
    assert [type(exc) for exc in info.value.exceptions] == [ValueError, KeyError]


def raise_group():
    raise ExceptionGroup("two", [ValueError(1), KeyError(2)])


BAD = t.WontPickle()
TAIL = [BAD, *range(42)]


@pytest.mark.parametrize(
    ("call", "which"),
    [
        (lambda pool: pool.apply(t.gather, (BAD, {"a": 1})), "argument args[0]"),
        (lambda pool: pool.apply(t.gather, (1, BAD, {"a": 1})), "argument args[1]"),
        (lambda pool: pool.apply(t.gather, ([1], {"a": BAD})), "argument args[1]"),
        (lambda pool: pool.apply(t.kwargs, (), {"x": 1, "y": BAD}), "argument y"),
        (lambda pool: pool.apply(lambda *args: 0, (1, BAD, {"a": 1})), "argument args[1]"),
        (lambda pool: pool.apply(lambda **kwds: 0, (), {"x": BAD}), "argument x"),
        (lambda pool: pool.apply(lambda: BAD), "the function"),
        (lambda pool: pool.map(lambda x: BAD, [1]), "the function"),
        (lambda pool: pool.map(t.echo, [*range(57), *TAIL]), "item 57 of the iterable"),
        (lambda pool: pool.map(t.echo, [*range(57), *TAIL], 1), "item 57 of the iterable"),
        (lambda pool: pool.map(t.echo, (1, [BAD], {"a": 1}), 3), "item 1 of the iterable"),
        (lambda pool: pool.starmap(t.add, [(0, 0), (1, BAD)], 1), "item 1 of the iterable"),
        (lambda pool: pool.starmap(t.add, [(0, 0), (1, BAD)], 2), "item 1 of the iterable"),
        (lambda pool: list(pool.imap(t.echo, [*range(57), *TAIL])), "item 57 of the iterable"),
        (lambda pool: list(pool.imap(t.echo, iter([*range(57), *TAIL]), 10)), "item 57 of the iterable"),
        (lambda pool: list(pool.imap_unordered(t.echo, [*range(57), *TAIL], 7)), "item 57 of the iterable"),
    ],
)
def test_what_does_not_pickle_is_named(pool, call, which):
    with pytest.raises(RuntimeError, match="I will not travel") as info:
        call(pool)
    (note,) = info.value.__notes__
    assert note.startswith(f"while pickling {which} for a call of ")


@pytest.mark.parametrize(
    ("kind", "error"), [("result", MaybeEncodingError), ("argument", TaskError), ("error", TaskError)]
)
def test_what_wants_to_leave_while_it_is_shown_fails_its_call_only(make_pool, kind, error):
    pool = make_pool(1)
    pid = pool.apply(t.pid)
    assert type(caught(pool.apply_async(t.unshowable, (kind,)))) is error
    assert pool.apply(t.pid) == pid


def test_a_worker_that_serves_no_more_is_replaced_though_a_thread_keeps_its_process(make_pool):
    pool = make_pool(1)
    stays = pool.apply(t.stay_with_an_alarm, (0.05,))
    # not by calls: the alarm would be the error of the one that it strikes
    wait_until(lambda: len(pool._pool) == 1 and pool._pool[0].pid != stays)
    assert pool.apply(t.pid) != stays
    wait_until(lambda: not is_running(stays))


def test_an_alarm_while_something_is_pickled_is_no_ones_fault(pool):
    """The note says what was going on, and blames no argument."""

    class AlarmError(Exception):
        pass

    def alarmed(signum, frame):
        raise AlarmError

    class Interrupted:
        def __reduce__(self):
            if not seen:
                seen.append(self)
                signal.raise_signal(signal.SIGALRM)
            return int, ()

    seen = []
    before = signal.signal(signal.SIGALRM, alarmed)
    try:
        with pytest.raises(AlarmError) as info:
            pool.apply(t.echo, (Interrupted(),))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert info.value.__notes__ == ["while pickling a call of pool_tasks.echo"]
    assert pool.apply(t.echo, (Interrupted(),)) == 0


@pytest.mark.parametrize("how", ["starmap", "starmap_async"])
@pytest.mark.parametrize(("items", "said"), [([1, 2], "item 0 .*: 1$"), ([(1,), [2], (3,), 4], "item 3 .*: 4$")])
@pytest.mark.parametrize("chunksize", [None, 1, 2])
def test_an_item_that_is_no_sequence_of_arguments(pool, how, items, said, chunksize):
    with pytest.raises(TypeError, match="is not a sequence of arguments") as info:
        getattr(pool, how)(t.gather, items, chunksize)
    assert re.match(said, str(info.value))
    assert pool.starmap(t.gather, [(1,), [2, 3], "ab", {"k": 1}], chunksize) == [(1,), (2, 3), ("a", "b"), ("k",)]


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int = 0


def raise_frozen():
    raise FrozenError(3)


class RaisesFrozen:
    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        if self.where == "parent":
            raise FrozenError(4)
        return raise_frozen, ()


def test_an_error_that_takes_no_attribute_is_the_users_all_the_same(pool):
    """Its traceback is shortened, and notes are added, where it allows that."""
    pid = pool.apply(t.pid)
    with pytest.raises((FrozenError, TaskError), match="3"):
        pool.apply(raise_frozen)
    with pytest.raises(PayloadError, match="FrozenError"):
        pool.apply(t.echo, (RaisesFrozen("worker"),))
    with pytest.raises(FrozenError):
        pool.apply(t.echo, (RaisesFrozen("parent"),))
    assert pid in {pool.apply(t.pid) for _ in range(300)}
