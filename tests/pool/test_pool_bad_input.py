"""Every refusal comes at the call, and names its argument."""

import pool_tasks as t
import pytest

from billiard import TimeoutError
from billiard.pool import Pool

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
