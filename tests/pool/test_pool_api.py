"""Signature for signature what the document publishes, positionally and by keyword."""

import contextlib
import inspect
import os
import pickle
import select
import signal
import socket
import time
from multiprocessing import resource_sharer

import pool_tasks as t
import pytest

import billiard
import billiard.pool
from billiard import TimeLimitExceeded, WorkerLostError
from billiard.exceptions import Terminated
from billiard.pool import Pool
from pool_helpers import WITHIN_S, descriptors, wait_until

PARAMETERS = {
    "__init__": (
        "processes initializer initargs maxtasksperchild timeout soft_timeout lost_worker_timeout max_restarts "
        "max_restart_freq on_process_up on_process_down on_timeout_set on_timeout_cancel threads semaphore "
        "putlocks allow_restart synack "
        "on_process_exit context max_memory_per_child enable_timeouts"
    ),
    "apply": "func args kwds",
    "map": "func iterable chunksize",
    "starmap": "func iterable chunksize",
    "apply_async": (
        "func args kwds callback error_callback accept_callback timeout_callback waitforslot soft_timeout timeout "
        "lost_worker_timeout callbacks_propagate correlation_id"
    ),
    "map_async": "func iterable chunksize callback error_callback",
    "starmap_async": "func iterable chunksize callback error_callback",
    "imap": "func iterable chunksize lost_worker_timeout",
    "imap_unordered": "func iterable chunksize lost_worker_timeout",
    "close": "",
    "terminate": "",
    "join": "",
    "restart": "",
    "grow": "n",
    "shrink": "n",
    "terminate_job": "pid sig",
    "maintain_pool": "",
    "send_ack": "response job i fd",
    "did_start_ok": "",
    "on_job_ready": "job i obj inqW_fd",
    "cpu_count": "",
}
DEFAULTS = {
    "__init__": {
        "initargs": (), "max_restart_freq": 1, "threads": True, "putlocks": False, "allow_restart": False, "synack": False,
        "enable_timeouts": False,
    },
    "apply": {"args": (), "kwds": {}},
    "apply_async": {"args": (), "kwds": {}},
    "imap": {"chunksize": 1},
    "imap_unordered": {"chunksize": 1},
    "grow": {"n": 1},
    "shrink": {"n": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_signature(name):
    parameters = list(inspect.signature(getattr(Pool, name)).parameters.values())[1:]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == PARAMETERS[name].split()
    required = {"func", "iterable", "pid", "response", "job", "i", "fd", "obj", "inqW_fd"}
    for parameter in parameters:
        if parameter.name in required:
            assert parameter.default is inspect.Parameter.empty
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            assert parameter.default == DEFAULTS.get(name, {}).get(parameter.name)


def test_every_door_gives_the_same_pool(make_pool):
    assert str(inspect.signature(billiard.Pool)).startswith("(processes")
    direct = billiard.Pool(1)
    assert isinstance(direct, Pool)
    direct.terminate()
    direct.join()
    from_context = billiard.get_context("fork").Pool(1, synack=False, max_memory_per_child=1 << 20, enable_timeouts=True)
    assert isinstance(from_context, Pool)
    from_context.terminate()
    from_context.join()
    made = make_pool(
        1, None, (), 5, 10, 5, 1, 3, 1, None, None, None, None, True, None, False, True, False, None, None, None, True
    )  # fmt: skip
    assert made.apply(t.add, (1, 2)) == 3


def test_a_context_keeps_its_start_method(lasting_helpers):
    with billiard.get_context("spawn").Pool(1) as pool:
        assert pool.apply(os.getppid) == os.getpid()


def test_a_pool_has_processes_of_its_context_and_its_soft_limits_error(make_pool):
    pool = make_pool(1, context=billiard.get_context("fork"))
    process = pool.Process(target=os._exit, args=(3,))
    assert type(process) is billiard.context.ForkProcess
    process.start()
    process.join()
    assert process.exitcode == 3
    assert pool.apply(t.pid) != process.pid
    process.close()
    assert pool.SoftTimeLimitExceeded is billiard.SoftTimeLimitExceeded


def test_apply(pool):
    assert pool.apply(t.add, (1,), {"b": 2}) == 3
    assert pool.apply(t.add, [1, 2]) == 3
    assert pool.apply(func=t.kwargs, args=(), kwds={"x": 1}) == {"x": 1}
    assert pool.apply(t.pid) != os.getpid()


def test_a_lambda_and_a_closure_work(pool):
    base = 10
    assert pool.apply(lambda x: x + base, (1,)) == 11
    assert pool.map(lambda x: x * 2, range(5)) == [0, 2, 4, 6, 8]
    assert list(pool.imap(lambda x: x + base, range(3))) == [10, 11, 12]
    captured = [1]
    first = pool.apply(lambda: list(captured))
    captured.append(2)
    assert (first, pool.apply(lambda: list(captured))) == ([1], [1, 2])


def test_a_bound_method_works(pool):
    assert pool.apply("abc".upper) == "ABC"
    assert pool.map([3, 4, 5].index, [4, 5]) == [1, 2]


@pytest.fixture
def sharer():
    """What the standard library keeps running for descriptors that are on their way."""
    yield
    resource_sharer.stop(timeout=20)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_connections_and_sockets_travel(start, sharer, make_pool, lasting_helpers):
    pool = make_pool(1, context=billiard.get_context(start))
    for ours, theirs, text in (*_pairs(), *_pairs()):  # the second time the function is known by its number
        with ours, theirs:
            assert pool.apply(t.say, (theirs, text)) == type(theirs).__name__
            assert (ours.recv() if hasattr(ours, "poll") else ours.recv(100)) == text


def _pairs():
    return [(*billiard.Pipe(), b"by pipe"), (*socket.socketpair(), b"by socket")]


@pytest.mark.parametrize("kind", [billiard.Lock, billiard.Queue, billiard.Event])
def test_what_only_a_fork_hands_down_is_refused_at_the_call(pool, kind):
    shared = kind()
    with pytest.raises(RuntimeError, match="inheritance"):
        pool.apply(t.echo, (shared,))
    assert pool.apply(t.echo, (1,)) == 1


@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_map_and_starmap(pool, chunksize):
    assert pool.map(t.square, range(10), chunksize) == [x * x for x in range(10)]
    assert pool.map(t.square, iter(range(10)), chunksize=chunksize) == [x * x for x in range(10)]
    assert pool.starmap(t.add, [(i, 1) for i in range(10)], chunksize) == list(range(1, 11))
    assert pool.map_async(t.square, [], chunksize).get(5) == []
    assert pool.starmap_async(t.add, iter([(1, 2)]), chunksize).get(5) == [3]


def test_map_raises_the_first_error_in_input_order(pool):
    with pytest.raises(ValueError, match=r"^0$"):
        pool.map(t.fail, ["0", "1", "2"], chunksize=1)


def test_a_map_of_chunks_waits_on_after_its_time_was_up(pool):
    result = pool.starmap_async(t.nap, [(0.0, 0), (0.0, 1), (0.5, 2), (0.0, 3)], chunksize=2)
    with pytest.raises(billiard.TimeoutError):
        result.get(0.1)
    assert not result.ready()
    assert result.get(10) == result.get() == [0, 1, 2, 3]


def test_a_map_of_chunks_ends_before_it_raises(pool):
    began = time.monotonic()
    result = pool.map_async(t.nap_or_fail, [-1.0, 0.0, 0.4, 0.0], chunksize=2)
    with pytest.raises(ValueError, match="cannot"):
        result.get()
    assert time.monotonic() - began >= 0.4
    assert result.ready()


def test_result_object(pool):
    result = pool.apply_async(t.nap, (0.3, "x"), correlation_id="mine")
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(AssertionError):  # as billiard always had it
        result.successful()
    with pytest.raises(billiard.TimeoutError):
        result.get(0.01)
    with pytest.raises(billiard.TimeoutError):
        result.get(timeout=0)
    result.wait(0.01)
    assert not result.ready()
    result.wait()
    assert result.ready()
    assert result.successful()
    assert result.get() == result.get(timeout=0) == "x"
    assert result.correlation_id == "mine"
    failed = pool.apply_async(t.fail)
    failed.wait(10)
    assert failed.ready()
    assert not failed.successful()
    assert "ready:True" in repr(failed)


def test_the_same_error_object_each_time(pool):
    failed = pool.apply_async(t.fail)
    caught = []
    for _ in range(2):
        with pytest.raises(ValueError, match="broken") as info:
            failed.get(10)
        caught.append(info.value)
    assert caught[0] is caught[1]


def test_map_result_is_an_apply_results_kin(pool):
    result = pool.map_async(t.nap, [0.05, 0.05])
    result.wait(10)
    assert result.ready()
    assert result.successful()
    assert result.get() == [None, None]


@pytest.mark.parametrize("accept_callback", [None, lambda pid, accepted_at: None])
def test_accepted_and_worker_pids(pool, accept_callback):
    result = pool.apply_async(t.nap, (0.5,), accept_callback=accept_callback)
    while not result.accepted():
        result.wait(0.005)
    assert result.worker_pids()[0] in {int(handle) for handle in pool._pool}
    result.get(10)
    assert result.accepted()
    assert result.worker_pids() == []


def test_cpu_count(pool):
    assert pool.cpu_count() == len(os.sched_getaffinity(0))
    with Pool() as default:
        assert len(default._pool) <= default.cpu_count() == default._processes


def test_a_pool_does_not_pickle(pool):
    with pytest.raises(NotImplementedError):
        pickle.dumps(pool)


def test_repr_tells_the_state(pool):
    assert "RUN" in repr(pool)
    assert "pool_size=2" in repr(pool)
    pool.close()
    assert "CLOSE" in repr(pool)
    pool.join()


def test_process_sentinels(pool):
    pool.map(t.pid, range(4))
    sentinels = pool.process_sentinels
    assert len(sentinels) == 2
    assert billiard.connection.wait(sentinels, 0) == []
    pool.close()
    pool.join()
    assert pool.process_sentinels == []


def test_a_sentinel_tells_of_a_death_that_was_seen_to(pool):
    """Whoever waits may look later than the pool, which has replaced the worker by then."""
    pool.map(t.pid, range(4))
    sentinels = pool.process_sentinels
    victim = pool._pool[1]
    sentinel = victim.sentinel
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(pool._pool) == 2 and victim.pid not in pool._pool)
    assert pool.map(t.pid, range(4))
    assert billiard.connection.wait(sentinels, 10) == [sentinel]
    renewed = pool.process_sentinels
    assert len(renewed) == 2
    assert billiard.connection.wait(renewed, 0) == []


def pidfds():
    return sum(count for kind, count in descriptors().items() if "pidfd" in kind)


def test_sentinels_leave_no_descriptor_behind(make_pool):
    before = pidfds()
    pool = make_pool(2)
    pool.map(t.pid, range(4))
    assert len(pool.process_sentinels) == 2
    for _ in range(3):
        victim = pool._pool[0].pid
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(pool._pool) == 2 and victim not in pool._pool)  # noqa: B023 - called in this turn
        wait_until(lambda: len(pool.process_sentinels) == 2)
    assert pidfds() == before + 2
    pool.terminate()
    pool.join()
    assert pidfds() == before


def test_did_start_ok(make_pool):
    good = make_pool(1)
    good.apply(t.pid)
    assert good.did_start_ok()
    bad = make_pool(1)
    bad.apply_async(t.die).wait(10)
    assert not bad.did_start_ok()


def test_fileno_and_next_deadline(make_pool):
    pool = make_pool(1, threads=False)
    assert pool.fileno() >= 0
    pool.apply(t.pid)
    assert pool.next_deadline() is None
    pool.apply_async(t.nap, (0.2,), timeout=5)
    assert pool.next_deadline() is not None
    pool.terminate()
    pool.join()
    assert pool.next_deadline() is None
    with pytest.raises(ValueError, match="the pool has ended"):
        pool.fileno()


@pytest.mark.parametrize("celery", [{}, {"proc_alive_timeout": 4.0}], ids=["anybody's", "Celery's"])
def test_who_is_told_of_what_a_terminated_pool_has_not_run(make_pool, celery):
    """Celery would store a failure, and acknowledge a message that its broker can give to another worker."""
    pool, told = make_pool(1, **celery), []
    running = pool.apply_async(t.nap, (30,), error_callback=told.append)
    queued = pool.apply_async(t.nap, (0,), error_callback=told.append)
    wait_until(running.worker_pids)
    pool.terminate()
    pool.join()
    for result in (running, queued):
        with pytest.raises(WorkerLostError, match="the pool was terminated"):
            result.get(0)
    assert len(told) == (0 if celery else 2)


def test_who_asks_for_the_deadline_is_told_of_an_earlier_one(make_pool):
    pool = make_pool(1, threads=False)
    pool.apply(t.pid)
    while select.select([pool], [], [], 0)[0]:
        pool.turn()
    assert pool.next_deadline() is None
    running = pool.apply_async(t.nap, (30,), timeout=0.3)
    assert select.select([pool], [], [], 10)[0]
    pool.turn()
    while not running.ready():
        deadline = pool.next_deadline()
        select.select([pool], [], [], None if deadline is None else max(0, deadline - time.monotonic()))
        pool.turn()
    with pytest.raises(TimeLimitExceeded):
        running.get(0)


def test_numbers_may_be_those_of_other_libraries(make_pool):
    class Number:
        """As numpy's integers: no int."""

        def __init__(self, value):
            self.value = value

        def __index__(self):
            return self.value

    pool = make_pool(Number(1), maxtasksperchild=Number(5))
    pool.grow(Number(1))
    assert pool.map(t.square, [1, 2, 3], Number(2)) == list(pool.imap(t.square, [1, 2, 3], Number(1))) == [1, 4, 9]
    assert pool.apply_async(t.square, (2,), timeout=Number(9)).get(10**400) == 4
    with pytest.raises(ValueError, match="n must be at least 1"):
        pool.grow(Number(0))
    with pytest.raises(TypeError, match="timeout must be a number"):
        pool.turn("soon")


def test_on_job_ready_and_send_ack_are_there(pool):
    assert pool.on_job_ready(0, None, (True, 1), None) is None
    finished = pool.apply_async(t.pid)
    finished.get(10)
    pool.send_ack(0, finished, None, None)  # nothing waits for it: no harm


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_initializer_and_names(start, lasting_helpers):
    with Pool(1, t.init_state, ("given",), context=billiard.get_context(start)) as pool:
        assert pool.apply(t.state) == "given"
        [handle] = pool._pool
        assert "PoolWorker-" in handle.name
        assert pool.apply(process_name) == handle.name


def process_name():
    return billiard.current_process().name


def test_synack_does_not_wait_for_another_call_s_callback(make_pool):
    """Nobody wants to hear of the start of these calls: their workers are answered at once."""
    pool = make_pool(2, synack=True)
    values = []
    first = pool.apply_async(t.add, (1, 2), callback=lambda value: values.append(pool.apply(t.add, (value, 4))))
    assert first.get(WITHIN_S) == 3
    wait_until(lambda: values == [7])


def test_accepted_says_whether_it_had_begun_however_it_ended(make_pool):
    pool = make_pool(1)
    ends = [
        pool.apply_async(t.fail), pool.apply_async(bytes, (10**6,)), pool.apply_async(t.die),
        pool.apply_async(t.nap, (60,), timeout=0.05),
    ]  # fmt: skip
    for call in ends:
        call.wait(10)
        assert call.accepted()
        with contextlib.suppress(Exception):
            call.get()
        assert call.accepted()
        assert "ack:True" in repr(call)
    running, queued = pool.apply_async(t.nap, (0.3,)), pool.apply_async(t.nap, (60,))
    waiting = pool.map_async(t.nap, [60] * 3, 1)
    queued.terminate(signal.SIGTERM)
    waiting.terminate(signal.SIGTERM)
    for call in (queued, waiting):
        call.wait(10)
        assert not call.accepted()
        with pytest.raises(Terminated):
            call.get()
        assert not call.accepted()
    running.wait(10)
    assert pool.map_async(t.square, range(3), 1).get(10) == [0, 1, 4]


class Tenfold(list):
    def __iter__(self):
        return (10 * x for x in super().__iter__())


def test_of_a_kind_of_list_the_items_are_what_iterating_it_gives(pool):
    items = Tenfold([1, 2, 3])
    for chunksize in (1, 2, 3):
        assert pool.map(t.echo, items, chunksize) == list(pool.imap(t.echo, items, chunksize)) == [10, 20, 30]


def test_what_cannot_go_to_a_spawned_worker_is_named():
    with pytest.raises(TypeError, match="initializer, initargs and on_process_exit must be picklable with start method"):
        Pool(1, context=billiard.get_context("spawn"), initializer=lambda: None)


def test_a_slow_end_of_an_argument_is_part_of_its_own_call(make_pool):
    """Behind its result it would hold up whatever this idle worker is given next, beyond any limit."""
    pool = make_pool(2)
    for _ in range(2):
        pool.map(t.echo, range(200), 1)
    slow = pool.apply_async(t.fills, (SlowToEnd(),))
    behind = [pool.apply_async(t.echo, (i,), timeout=0.5) for i in range(4)]
    assert [call.get(WITHIN_S) for call in behind] == list(range(4))
    assert not slow.ready()
    slow.wait(WITHIN_S)


class SlowToEnd:
    parent = os.getpid()

    def __len__(self):
        return 0

    def __del__(self):
        if os.getpid() != SlowToEnd.parent:
            time.sleep(1)
