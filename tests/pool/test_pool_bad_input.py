"""Every refusal comes at the call, and names its argument; what only a worker can find wrong names the call and the cause."""

import pickle
from math import inf

import pool_tasks as t
import pytest

from billiard import SoftTimeLimitExceeded, TimeLimitExceeded, TimeoutError
from billiard.exceptions import PayloadError, TaskError
from billiard.pool import ApplyResult, AsyncResult, MaybeEncodingError, NotWholeError, Pool
from pool_helpers import wait_until

CONSTRUCTOR = [
    ("processes", -1, ValueError),
    ("processes", 0, ValueError),
    ("processes", 1.5, TypeError),
    ("processes", "2", TypeError),
    ("processes", True, TypeError),
    ("initializer", 5, TypeError),
    ("initargs", 5, TypeError),
    ("maxtasksperchild", 0, ValueError),
    ("maxtasksperchild", 1.5, TypeError),
    ("maxtasksperchild", "3", TypeError),
    ("timeout", -1, ValueError),
    ("timeout", "1", TypeError),
    ("timeout", float("nan"), ValueError),
    ("soft_timeout", -0.5, ValueError),
    ("soft_timeout", [], TypeError),
    ("lost_worker_timeout", -1, ValueError),
    ("lost_worker_timeout", "x", TypeError),
    ("max_restarts", -1, ValueError),
    ("max_restarts", 1.5, TypeError),
    ("max_restart_freq", 0, ValueError),
    ("max_restart_freq", -1, ValueError),
    ("max_restart_freq", "1", TypeError),
    ("on_process_up", 1, TypeError),
    ("on_process_down", 1, TypeError),
    ("on_timeout_set", 1, TypeError),
    ("on_timeout_cancel", 1, TypeError),
    ("on_process_exit", 1, TypeError),
    ("semaphore", 3, TypeError),
    ("context", "fork", TypeError),
    ("max_memory_per_child", 0, ValueError),
    ("max_memory_per_child", -5, ValueError),
    ("max_memory_per_child", "1G", TypeError),
    ("max_memory_per_child", float("nan"), ValueError),
    pytest.param("max_memory_per_child", 10**400, ValueError, id="max_memory_per_child-beyond a float"),
    ("max_restart_freq", float("nan"), ValueError),
    pytest.param("max_restart_freq", 10**400, ValueError, id="max_restart_freq-beyond a float"),
    ("lost_worker_timeout", float("nan"), ValueError),
    pytest.param("timeout", 10**400, ValueError, id="timeout-beyond a float"),
    # more digits than repr() will do, here and in the test's name
    pytest.param("timeout", 10**5000, ValueError, id="timeout-too many digits"),
    pytest.param("timeout", -(10**5000), ValueError, id="timeout-too many digits below zero"),
    pytest.param("soft_timeout", 10**400, ValueError, id="soft_timeout-beyond a float"),
    ("soft_timeout", float("nan"), ValueError),
]


@pytest.mark.parametrize(("name", "value", "error"), CONSTRUCTOR)
def test_constructor(name, value, error):
    with pytest.raises(error, match=name):
        Pool(**{"processes": 1, name: value})


def test_constructor_typo():
    with pytest.raises(TypeError, match="maxtaskperchild"):
        Pool(1, maxtaskperchild=3)


@pytest.mark.parametrize(("soft", "hard"), [(2, 2), (3, 2)])
def test_soft_limit_not_before_the_hard_one(soft, hard):
    with pytest.raises(ValueError, match=r"soft_timeout.*timeout"):
        Pool(1, soft_timeout=soft, timeout=hard)


@pytest.mark.parametrize("given", [{"timeout": inf}, {"soft_timeout": inf}, {"soft_timeout": inf, "timeout": inf}])
def test_infinity_lifts_the_pools_limit_for_one_call(make_pool, given):
    limits = {"timeout": 0.2} if "timeout" in given else {"soft_timeout": 0.2}
    pool = make_pool(1, **limits)
    assert pool.apply_async(t.nap, (0.5, "slept"), **given).get(10) == "slept"
    error = TimeLimitExceeded if "timeout" in given else SoftTimeLimitExceeded
    with pytest.raises(error):
        pool.apply_async(t.nap, (30,)).get(10)


def test_a_call_may_have_the_hard_limit_alone(make_pool):
    pool = make_pool(1, soft_timeout=0.1)
    assert pool.apply_async(t.nap, (0.4, "slept"), soft_timeout=inf, timeout=10).get(10) == "slept"


def test_zero_leaves_a_call_the_pools_limit(make_pool):
    pool = make_pool(1, timeout=0.2)
    with pytest.raises(TimeLimitExceeded):
        pool.apply_async(t.nap, (30,), timeout=0).get(10)


def test_no_bound_on_memory(make_pool):
    assert make_pool(1, max_memory_per_child=inf).apply(t.add, (1, 1)) == 2


def test_a_fraction_for_a_whole_number_is_an_error_that_can_be_imported():
    with pytest.raises(NotWholeError) as caught:
        Pool(1.5)
    assert type(caught.value).__module__ == "billiard.pool"
    assert isinstance(caught.value, ValueError)


def test_celerys_limits_are_independent(make_pool):
    assert make_pool(1, timeout=5, soft_timeout=5, proc_alive_timeout=4.0).apply(t.add, (1, 1)) == 2


@pytest.fixture(scope="module")
def standing(lasting_helpers):
    with Pool(1) as pool:
        pool.apply_async(t.pid, callback=int).get(10)
        yield pool


CALL = [
    ({"func": 5}, TypeError, "func"),
    ({"func": None}, TypeError, "func"),
    ({"func": "len"}, TypeError, "func"),
    ({"args": 5}, TypeError, "args"),
    ({"kwds": 5}, TypeError, "kwds"),
    ({"kwds": [1, 2]}, TypeError, "kwds"),
    ({"callback": 5}, TypeError, "callback"),
    ({"error_callback": 5}, TypeError, "error_callback"),
    ({"accept_callback": 5}, TypeError, "accept_callback"),
    ({"timeout_callback": 5}, TypeError, "timeout_callback"),
    ({"timeout": -1}, ValueError, "timeout"),
    ({"timeout": "1"}, TypeError, "timeout"),
    ({"soft_timeout": -1}, ValueError, "soft_timeout"),
    ({"soft_timeout": "1"}, TypeError, "soft_timeout"),
    ({"soft_timeout": 2, "timeout": 1}, ValueError, "soft_timeout"),
    ({"soft_timeout": 1, "timeout": 1}, ValueError, "soft_timeout"),
    ({"soft_timeout": 1e9, "timeout": 1}, ValueError, "soft_timeout"),
    ({"timeout": float("nan")}, ValueError, "timeout"),
    ({"timeout": 10**400}, ValueError, "timeout"),
    ({"soft_timeout": float("nan")}, ValueError, "soft_timeout"),
    ({"soft_timeout": 10**400}, ValueError, "soft_timeout"),
    ({"lost_worker_timeout": -1}, ValueError, "lost_worker_timeout"),
    ({"callbacks_propagate": 5}, TypeError, "callbacks_propagate"),
    ({"timeot": 1}, TypeError, "timeot"),
]


@pytest.mark.parametrize(("given", "error", "name"), CALL)
def test_apply_async(standing, given, error, name):
    with pytest.raises(error, match=name):
        standing.apply_async(**{"func": t.echo, "args": (1,), **given})
    assert standing.apply(t.add, (1, 2)) == 3


MAPS = ["map", "starmap", "map_async", "starmap_async", "imap", "imap_unordered"]


@pytest.mark.parametrize("how", MAPS)
@pytest.mark.parametrize(
    ("given", "error", "name"),
    [
        ({"func": 5}, TypeError, "func"),
        ({"chunksize": 0}, ValueError, "chunksize"),
        ({"chunksize": -1}, ValueError, "chunksize"),
        ({"chunksize": 1.5}, TypeError, "chunksize"),
        ({"iterable": 5}, TypeError, "iterable"),
        ({"chunk_size": 5}, TypeError, "chunk_size"),
    ],
)
def test_maps(standing, how, given, error, name):
    with pytest.raises(error, match=f"(?i){name}"):
        getattr(standing, how)(**{"func": t.echo, "iterable": [(1,)], **given})
    assert standing.apply(t.add, (1, 2)) == 3


@pytest.mark.parametrize("how", ["map_async", "starmap_async"])
@pytest.mark.parametrize("name", ["callback", "error_callback"])
def test_map_callbacks(standing, how, name):
    with pytest.raises(TypeError, match=name):
        getattr(standing, how)(t.echo, [(1,)], **{name: 5})


@pytest.mark.parametrize("chunksize", [1, 2])
def test_an_item_that_does_not_pickle(standing, chunksize):
    with pytest.raises(RuntimeError, match="not travel"):
        standing.map(t.echo, [1, 2, t.WontPickle()], chunksize)
    assert standing.map(t.echo, [1, 2]) == [1, 2]


def test_unpicklable_argument_says_which_call(standing):
    with pytest.raises(RuntimeError) as caught:
        standing.apply_async(t.echo, (t.WontPickle(),))
    assert "echo" in caught.value.__notes__[0]


@pytest.mark.parametrize("how", ["apply", "keyword", "map", "map one by one", "callback"])
def test_an_argument_that_cannot_be_rebuilt_says_whose_it_is_and_why(standing, how):
    bad, told = t.WontUnpickle(), []
    calls = {
        "apply": lambda: standing.apply_async(t.gather, (1, bad)),
        "keyword": lambda: standing.apply_async(t.gather, (1,), {"x": bad}),
        "map": lambda: standing.map_async(t.gather, [1, bad], 2),
        "map one by one": lambda: standing.map_async(t.gather, [1, bad], 1),
        "callback": lambda: standing.apply_async(t.gather, (bad,), error_callback=told.append),
    }
    result = calls[how]()
    with pytest.raises(PayloadError, match=rf"gather, job {result._job}: .*I will not be rebuilt") as caught:
        result.get(10)
    error = caught.value
    assert (error.function, error.job) == ("pool_tasks.gather", result._job)
    assert repr(error.__cause__) == "RuntimeError('I will not be rebuilt')"
    assert "in _refuse" in str(error.__cause__.__cause__)  # the traceback in the worker
    if how == "callback":
        wait_until(lambda: told)
        assert told[0].exception is error


def test_a_cause_that_does_not_travel_is_stood_in_for(standing):
    with pytest.raises(PayloadError) as caught:
        standing.apply(t.gather, (RaisesInWorker(),))
    assert type(caught.value.__cause__) is TaskError
    assert caught.value.__cause__.type_name == "TwoArgumentsError"


class RaisesInWorker:
    def __reduce__(self):
        return t.raise_two_arguments, ()


def test_the_payload_error_of_a_pool_inside_a_task_keeps_its_own_call(standing):
    with pytest.raises(PayloadError) as caught:
        standing.apply(send_bad_argument_on)
    assert caught.value.function == "pool_tasks.pid"


def send_bad_argument_on():
    with Pool(1) as pool:
        pool.apply(t.pid, (t.WontUnpickle(),))


@pytest.mark.parametrize(
    "call",
    [
        lambda pool: pool.apply(t.make, ("WontPickle",)),
        lambda pool: pool.map(t.make, ["WontPickle"] * 3, 1),
        lambda pool: pool.map(t.make, ["WontPickle"] * 3, 3),
        lambda pool: next(pool.imap(t.make, ["WontPickle"])),
    ],
    ids=["apply", "map", "chunk", "imap"],
)
def test_the_error_of_a_result_that_does_not_pickle_names_the_call(standing, call):
    with pytest.raises(MaybeEncodingError) as caught:
        call(standing)
    error = caught.value
    assert type(error).__module__ == "billiard.pool"
    assert (error.function, type(error.job)) == ("pool_tasks.make", int)
    assert error.args == (error.exc, error.value)
    assert str(error).startswith(f"Error sending result: '{error.value!r}'. Reason: '{error.exc!r}'.")
    assert str(error).endswith(f" The call: pool_tasks.make, job {error.job}.")
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), vars(copied)) == (str(error), vars(error))


def test_the_encoding_error_of_a_pool_inside_a_task_keeps_its_own_call(standing):
    with pytest.raises(MaybeEncodingError) as caught:
        standing.apply(send_bad_result_on)
    assert caught.value.function == "pool_tasks.make"


def send_bad_result_on():
    with Pool(1) as pool:
        pool.apply(t.make, ("WontPickle",))


@pytest.mark.parametrize("name", ["apply", "apply_async", "map", "starmap_async", "imap", "send_ack", "grow"])
def test_an_unknown_argument_is_an_error_of_the_pool_s_method(standing, name):
    with pytest.raises(TypeError, match=rf"^Pool\.{name}\(\) got an unexpected keyword argument 'nonsense'"):
        getattr(standing, name)(nonsense=1)
    assert pickle.loads(pickle.dumps(getattr(Pool, name))) is getattr(Pool, name)


def test_the_handle_has_both_names(standing):
    assert isinstance(standing.apply_async(t.pid), AsyncResult)
    assert AsyncResult is ApplyResult


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("1", TypeError)])
def test_grow_and_shrink(standing, n, error):
    for change in (standing.grow, standing.shrink):
        with pytest.raises(error, match="n must be"):
            change(n)
    assert standing._processes == 1


def test_shrink_keeps_one(standing):
    with pytest.raises(ValueError, match="shrink"):
        standing.shrink(1)


def test_join_before_close(standing):
    with pytest.raises(ValueError, match="close"):
        standing.join()
    with pytest.raises(AssertionError):  # as billiard always had it
        standing.join()


def test_restart_needs_leave(standing):
    with pytest.raises(ValueError, match="allow_restart"):
        standing.restart()


def test_terminate_job_of_a_stranger(standing):
    standing.terminate_job(1)
    assert standing.apply(t.add, (1, 2)) == 3


@pytest.mark.parametrize("value", ["1", object()])
def test_get_with_a_bad_timeout(standing, value):
    result = standing.apply_async(t.nap, (0.1,))
    with pytest.raises(TypeError):
        result.get(value)
    assert result.get(10) is None


def test_a_negative_wait_is_no_wait(standing):
    result = standing.apply_async(t.nap, (0.2,))
    with pytest.raises(TimeoutError):
        result.get(-1)
    result.get(10)


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_closed_pool_refuses(end, make_pool):
    pool = make_pool(1)
    getattr(pool, end)()
    for submit in (
        lambda: pool.apply(t.pid),
        lambda: pool.apply_async(t.pid),
        lambda: pool.map(t.square, [1]),
        lambda: pool.starmap(t.add, [(1, 2)]),
        lambda: pool.map_async(t.square, [1]),
        lambda: pool.starmap_async(t.add, [(1, 2)]),
        lambda: pool.imap(t.square, [1]),
        lambda: pool.imap_unordered(t.square, [1]),
        pool.grow,
        pool.shrink,
        pool.restart,
        pool.__enter__,
    ):
        with pytest.raises(ValueError, match="not running"):
            submit()
    pool.join()


def test_waiting_for_no_number_of_seconds(standing):
    for wait in (standing.apply_async(t.nap, (0.2,)).get, standing.apply_async(t.nap, (0.2,)).wait,
                 standing.map_async(t.nap, [0.2]).get, standing.imap(t.nap, [0.2]).next):  # fmt: skip
        with pytest.raises(TypeError, match=r"timeout.*'5'"):
            wait("5")
