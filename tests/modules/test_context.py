"""Contexts: one for each start method, and a default that can be set."""

import multiprocessing
import warnings

import pytest

import billiard
from billiard import context

words = str.split


@pytest.fixture
def default():
    default = context._default_context
    kept = default._actual_context
    default._actual_context = None
    yield default
    default._actual_context = kept


def test_set_once(default):
    assert billiard.get_start_method(allow_none=True) is None
    billiard.set_start_method("spawn")
    with pytest.raises(RuntimeError, match="already been set"):
        billiard.set_start_method("fork")
    billiard.set_start_method("forkserver", force=True)
    assert billiard.get_start_method() == "forkserver"
    assert billiard.get_context().Process is context.ForkServerProcess
    billiard.set_start_method(None, force=True)
    assert billiard.get_start_method() == "fork"
    with pytest.raises(ValueError, match="nonsense"):
        billiard.set_start_method("nonsense", force=True)
    with pytest.raises(ValueError, match="nonsense"):
        billiard.get_context("nonsense")


def test_what_freezes_a_program_replaces_freeze_support(monkeypatch):
    """PyInstaller does, in multiprocessing; else a frozen program's spawned child on Linux runs the program once more."""
    billiard.freeze_support()
    called = []
    monkeypatch.setattr(multiprocessing, "freeze_support", lambda: called.append(True))
    billiard.freeze_support()
    billiard.get_context("spawn").freeze_support()
    assert called == [True, True]


def test_independent_of_multiprocessing(default):
    before = multiprocessing.get_start_method(allow_none=True)
    billiard.set_start_method("spawn")
    assert multiprocessing.get_start_method(allow_none=True) == before
    assert billiard.get_context("fork") is not multiprocessing.get_context("fork")


def test_a_concrete_context_is_fixed(ctx):
    method = ctx.get_start_method()
    assert ctx._name == method
    assert ctx.get_context() is ctx
    assert ctx.get_context(method) is billiard.get_context(method) is context._concrete_contexts[method]
    with pytest.raises(ValueError, match="concrete"):
        ctx.set_start_method("fork")
    assert isinstance(ctx, context.BaseContext)
    assert isinstance(ctx, multiprocessing.context.BaseContext)
    assert ctx.Process._start_method == method


def test_forking(default):
    assert billiard.forking_is_enabled() is True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert billiard.forking_enable(True) is None
    with pytest.warns(RuntimeWarning, match="set_start_method") as caught:
        billiard.forking_enable(False)
    assert caught[0].filename == __file__
    assert billiard.forking_is_enabled() is True
    billiard.set_start_method("spawn", force=True)
    assert billiard.forking_is_enabled() is False
    billiard.forking_enable(True)
    assert billiard.get_start_method() == "spawn"


def test_errors_and_functions_of_a_context(ctx):
    for name in ("ProcessError", "TimeoutError", "WorkerLostError", "TimeLimitExceeded", "SoftTimeLimitExceeded"):
        assert getattr(ctx, name) is getattr(billiard.exceptions, name)
    assert ctx.cpu_count() >= 1
    assert ctx.current_process() is billiard.current_process()
    assert ctx.reducer is multiprocessing.reduction


def test_cpu_count_unknown(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: None)
    with pytest.raises(NotImplementedError):
        billiard.cpu_count()


def test_a_contexts_pool_gets_every_argument(monkeypatch):
    import inspect
    import sys
    import types

    made = []
    fake = types.ModuleType("billiard.pool")
    fake.Pool = lambda *args: made.append(args)
    monkeypatch.setitem(sys.modules, "billiard.pool", fake)
    names = list(inspect.signature(billiard.Pool).parameters)
    assert names == words(
        """
        processes initializer initargs maxtasksperchild timeout soft_timeout lost_worker_timeout max_restarts
        max_restart_freq on_process_up on_process_down on_timeout_set on_timeout_cancel threads semaphore putlocks
        allow_restart synack on_process_exit context max_memory_per_child enable_timeouts
        """
    )
    billiard.Pool(**{name: name for name in names})
    assert made.pop() == tuple(names)
    spawn = billiard.get_context("spawn")
    spawn.Pool(2)
    assert made.pop()[names.index("context")] is spawn


def test_the_published_names_of_the_process_classes():
    for name, method in [("ForkProcess", "fork"), ("SpawnProcess", "spawn"), ("ForkServerProcess", "forkserver")]:
        cls = getattr(context, name)
        assert cls._start_method == method
        assert issubclass(cls, billiard.process.BaseProcess)
        assert issubclass(cls, getattr(multiprocessing.context, name))
        assert cls(daemon=True).name.startswith(f"{name}-")
    assert billiard.Process is context.Process
    assert context.Process._start_method is None
