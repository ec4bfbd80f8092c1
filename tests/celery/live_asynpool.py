"""Celery's own AsynPool on its own event loop, in this process: the parts of its contract that no log shows."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

import psutil
import pytest
from celery.concurrency import asynpool
from kombu.asynchronous import Hub, set_event_loop

Maker = Callable[..., "Looped"]


class Looped:
    """A pool and the loop that turns it."""

    def __init__(self, processes: int, **options: Any) -> None:
        self.hub = Hub()
        set_event_loop(self.hub)
        self.pool = asynpool.AsynPool(processes, threads=False, **options)
        self.pool.register_with_event_loop(self.hub)

    def until(self, condition: Callable[[], Any], limit_s: float = 20.0) -> None:
        deadline = time.monotonic() + limit_s
        self.hub.call_repeatedly(0.05, lambda: None)  # a loop with nothing to do would sleep on
        while not condition():
            assert time.monotonic() < deadline, f"still not so after {limit_s} s: {self.pool}"
            self.hub.run_once()

    def run(self, func: Callable[..., Any], *args: Any) -> Any:
        result = self.pool.apply_async(func, args)
        self.until(result.ready)
        return result.get(0)

    def close(self) -> None:
        self.pool.terminate()
        self.hub.close()
        set_event_loop(None)


@pytest.fixture
def make() -> Iterator[Maker]:
    made: list[Looped] = []

    def maker(processes: int, **options: Any) -> Looped:
        made.append(Looped(processes, **options))
        return made[-1]

    yield maker
    for looped in made:
        looped.close()


def test_flushing_a_dead_worker_s_pipe_waits_for_nothing(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for more within 10 ms until it meets a None, during which the event loop stands still."""
    looped = make(1)
    pid = looped.run(os.getpid)
    (worker,) = looped.pool._pool
    found: list[bool] = []
    select = asynpool._select

    def watched(*args: Any, **kwargs: Any) -> Any:
        answer = select(*args, **kwargs)
        found.append(bool(answer[0]))
        return answer

    os.kill(pid, signal.SIGKILL)
    assert wait([worker._popen.sentinel], 10)
    with monkeypatch.context() as patch:
        patch.setattr(asynpool, "_select", watched)
        looped.pool.maintain_pool()
    assert worker not in looped.pool._pool
    assert found
    assert all(found)
    assert looped.run(os.getpid) != pid


def test_a_worker_that_leaves_has_a_successor_at_once(make: Maker) -> None:
    gate = os.pipe()
    looped = make(2, maxtasksperchild=1, on_process_exit=lambda pid, exitcode: os.read(gate[0], 1))
    results = [looped.pool.apply_async(os.getpid) for _ in range(4)]
    looped.until(lambda: all(result.ready() for result in results))
    assert len({result.get(0) for result in results}) == 4
    assert len(looped.pool._pool) == len(looped.pool._queues) == 4, "none has left yet"
    os.write(gate[1], bytes(4))
    looped.until(lambda: len(looped.pool._pool) == 2)
    os.write(gate[1], bytes(100))
    assert len({looped.run(os.getpid) for _ in range(20)}) == 20
    assert len(looped.pool._queues) == 4, "pipes are used again"
    for fd in gate:
        os.close(fd)


def test_a_worker_that_dies_while_another_is_buried_keeps_its_result(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe of a dead worker was closed before it was read, when the worker died between the two halves of a reaping."""
    gate = os.pipe()
    looped = make(2, maxtasksperchild=1)
    result = looped.pool.apply_async(os.read, (gate[0], 4))
    looped.until(lambda: result._accepted)
    other, owner = sorted(looped.pool._pool, key=lambda worker: worker.pid == result._worker_pid)
    settle = looped.pool._settle_jobs

    def settle_late(reaped: dict[int, Any]) -> None:
        if other.pid in reaped:
            os.write(gate[1], b"done")
            assert wait([owner._popen.sentinel], 10)
        settle(reaped)

    with monkeypatch.context() as patch:
        patch.setattr(looped.pool, "_settle_jobs", settle_late)
        os.kill(other.pid, signal.SIGKILL)
        looped.until(result.ready)
    assert result.get(0) == b"done"
    for fd in gate:
        os.close(fd)


def test_descriptors_do_not_grow_with_the_lives(make: Maker) -> None:
    looped = make(2, maxtasksperchild=1)
    for _ in range(10):
        looped.run(os.getpid)
    before = psutil.Process().num_fds()
    for _ in range(100):
        looped.run(os.getpid)
    # Those of workers on their way out come and go.
    assert psutil.Process().num_fds() < before + 20
