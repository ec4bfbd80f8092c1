"""Which class gets the legacy pool, and what holds of it as a class."""

from __future__ import annotations

import subprocess
import sys
from unittest import mock

import pytest

import billiard.pool
from billiard._celery.choose import HOOKS, Engine, legacy_pool
from billiard._celery.pool import LegacyPoolBody

Pool = billiard.pool.Pool
LegacyPool = legacy_pool()


def test_a_class_that_overrides_a_hook_is_a_guest():
    class Mine(Pool):
        def get_process_queues(self):
            return None

    assert issubclass(Mine, LegacyPool)
    assert issubclass(Mine, Pool)


def test_a_plain_subclass_is_not():
    class Mine(Pool):
        def on_job_ready(self, *args):
            return None

    assert not issubclass(Mine, LegacyPool)
    assert issubclass(Mine, Engine)


def test_a_hook_in_a_mixin_or_below_a_plain_subclass_counts():
    class Mixin:
        def process_flush_queues(self, worker):
            return None

    class Mixed(Mixin, Pool):
        pass

    class Plain(Pool):
        pass

    class Later(Plain):
        class Worker(billiard.pool.Worker):
            pass

    for cls in (Mixed, Later):
        assert issubclass(cls, LegacyPool)
        assert cls.apply_async is LegacyPoolBody.apply_async
    assert issubclass(Later, Plain)
    assert Mixed.process_flush_queues is Mixin.process_flush_queues


def test_no_attribute_of_the_engine_shows_in_a_guest(loop_pool_class):
    inherited = [c for c in loop_pool_class.__mro__ if issubclass(Engine, c) and c not in LegacyPoolBody.__mro__]
    assert inherited == []


def test_every_hook_has_a_body():
    assert [name for name in HOOKS if not hasattr(LegacyPoolBody, name)] == []


def test_a_patch_of_pool_reaches_guests(loop_pool_class):
    with mock.patch("billiard.pool.Pool._create_worker_process") as create:
        pool = loop_pool_class(1)
        create.assert_called_once_with(0)
        pool.terminate()
    assert "_create_worker_process" not in vars(Pool)
    assert Pool._create_worker_process is LegacyPoolBody._create_worker_process


def test_super_reaches_the_default_bodies():
    class Mine(Pool):
        def _process_cleanup_queues(self, worker):
            return super()._process_cleanup_queues(worker)

    assert Mine.__new__(Mine)._process_cleanup_queues(None) is None


def test_threads_are_refused(loop_pool_class):
    class Threaded(Pool):
        def _setup_queues(self):
            raise AssertionError("refused before anything is made")

    with pytest.raises(ValueError, match="threads=False"):
        Threaded(1, threads=True)


def test_unknown_keywords_are_refused_and_celerys_are_known():
    class Mine(Pool):
        def _create_worker_process(self, i):
            return None

    with pytest.raises(TypeError, match="no_such_option"):
        Mine(1, threads=False, no_such_option=1)
    Mine(1, threads=False, proc_alive_timeout=4.0, sched_strategy=None).terminate()


@pytest.mark.parametrize("name", ["processes", "maxtasksperchild", "timeout", "soft_timeout", "max_restarts"])
def test_a_bool_is_not_a_number(loop_pool_class, name):
    with pytest.raises(TypeError, match="bool"):
        loop_pool_class(**{name: True})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"processes": -1}, "at least 0"),
        ({"maxtasksperchild": 0}, "maxtasksperchild"),
        ({"maxtasksperchild": 1.5}, "maxtasksperchild"),
    ],
)
def test_numbers_out_of_range(loop_pool_class, options, error):
    with pytest.raises(ValueError, match=error):
        loop_pool_class(**options)


def test_the_order_of_construction():
    seen = []

    class Recording(Pool):
        class ResultHandler(billiard.pool.ResultHandler):
            def __init__(self, *args, **kwargs):
                seen.append("ResultHandler")
                super().__init__(*args, **kwargs)

        def _setup_queues(self):
            seen.append("_setup_queues")
            self._quick_put = self._inqueue = self._outqueue = self._quick_get = self._poll_result = None

        def _create_worker_process(self, i):
            assert self._cache == {}
            assert self._pool == []
            seen.append(f"_create_worker_process {i}")

        def _start_timeout_handler(self):
            seen.append("_start_timeout_handler")

        def create_result_handler(self):
            assert self.check_timeouts is not None
            seen.append("create_result_handler")
            return super().create_result_handler()

        def _help_stuff_finish_args(self):
            seen.append("_help_stuff_finish_args")
            return ()

    Recording(2, threads=False).terminate()
    assert seen == [
        "_setup_queues",
        "_create_worker_process 0",
        "_create_worker_process 1",
        "_start_timeout_handler",
        "create_result_handler",
        "ResultHandler",
        "_help_stuff_finish_args",
    ]


def test_the_engine_alone_imports_no_guest():
    code = "import sys, billiard.pool; billiard.pool.Pool; print(sorted(m for m in sys.modules if '_celery' in m))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['billiard._celery', 'billiard._celery.choose']"


def test_every_published_name_is_there():
    for name in billiard.pool.__all__:
        assert getattr(billiard.pool, name) is not None, name


def test_results_of_the_engine_are_results():
    with Pool(1) as pool:
        assert isinstance(pool.apply_async(len, ((),)), billiard.pool.ApplyResult)
        assert isinstance(pool.map_async(len, ((),)), billiard.pool.MapResult)
        assert isinstance(pool.imap(len, ((),)), billiard.pool.IMapIterator)
