"""Pools for the tests, and the ways to wait on them."""

import asyncio
import os
import select
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pool_tasks
import pytest

import billiard
from billiard.pool import Pool
from pool_helpers import WITHIN_S, wait_until


def by_supervisor(pool, results):
    """Nobody drives but the pool's own thread."""
    wait_until(lambda: all(result.ready() for result in results))


def by_caller(pool, results):
    """The caller drives, in `wait`."""
    for result in results:
        result.wait(WITHIN_S)


def by_asyncio(pool, results):
    """An asyncio loop drives."""

    async def until_ready():
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        timer = None

        def turn():
            nonlocal timer
            if timer is not None:
                timer.cancel()
                timer = None
            pool.turn()
            if all(result.ready() for result in results):
                if not done.done():
                    done.set_result(None)
                return
            deadline = pool.next_deadline()
            if deadline is not None:
                timer = loop.call_at(deadline, turn)  # asyncio's clock is the monotonic one

        loop.add_reader(pool.fileno(), turn)
        loop.call_soon(turn)
        try:
            await asyncio.wait_for(done, WITHIN_S)
        finally:
            loop.remove_reader(pool.fileno())
            if timer is not None:
                timer.cancel()

    asyncio.run(until_ready())


def by_poll(pool, results):
    """A plain poll loop drives, with the two methods that billiard has always had."""
    poller = select.poll()
    poller.register(pool.fileno(), select.POLLIN)
    end = time.monotonic() + WITHIN_S
    while not all(result.ready() for result in results):
        assert time.monotonic() < end
        deadline = pool.next_deadline()
        rest = end if deadline is None else min(end, deadline)
        poller.poll(max(0.0, rest - time.monotonic()) * 1000 + 1)
        pool.handle_result_event()
        pool.maintain_pool()


DRIVERS = {
    "supervisor": (True, by_supervisor),
    "caller": (True, by_caller),
    "caller alone": (False, by_caller),
    "asyncio": (False, by_asyncio),
    "poll": (False, by_poll),
}
METHODS = ("fork", "forkserver", "spawn")


class Driven:
    """A pool and who drives it."""

    def __init__(self, pool, wait):
        self.pool = pool
        self._wait = wait

    def values(self, *results):
        self._wait(self.pool, results)
        assert all(result.ready() for result in results)
        return [result.get(0) for result in results]

    def value(self, result):
        return self.values(result)[0]

    def error(self, result):
        self._wait(self.pool, [result])
        with pytest.raises(Exception) as caught:
            result.get(0)
        assert not isinstance(caught.value, billiard.TimeoutError), "it never ended"
        return caught.value


@pytest.fixture(scope="module")
def shared_pools(lasting_helpers):
    """A pool for each start method and way to drive, made when first asked for."""
    pools = {}

    def shared(method, threads):
        if (method, threads) not in pools:
            pool = Pool(2, context=billiard.get_context(method), threads=threads)
            # the callback thread comes with the first callback: let it be there before a test counts threads
            pool.apply_async(pool_tasks.pid, callback=int).get(WITHIN_S)
            pools[method, threads] = pool
        # before a test counts processes, all of them are there: they start, and are replaced, while we go on
        wait_until(lambda: all(handle.pid is not None for handle in pools[method, threads]._pool))
        return pools[method, threads]

    yield shared
    for pool in pools.values():
        pool.terminate()
        pool.join()


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture(params=DRIVERS)
def standing(request, method, shared_pools):
    """The shared pool for a start method and a driver, and that driver."""
    threads, wait = DRIVERS[request.param]
    return shared_pools(method, threads), wait


@pytest.fixture
def driven(standing):
    """A pool of two workers, with each start method and each driver."""
    pool, wait = standing
    yield Driven(pool, wait)
    # two workers again, both at rest, whatever the test did to them
    by_caller(pool, [pool.apply_async(pool_tasks.pid) for _ in range(2)])
    wait_until(lambda: [bool(handle.pid) for handle in pool._pool] == [True, True], turn=lambda: pool.apply(pool_tasks.pid))


@pytest.fixture
def pool(make_pool):
    return make_pool(2)


@pytest.fixture
def script(tmp_path):
    """Start a Python program; it is killed if it does not end by itself."""
    started = []

    def start(text, name="program.py", warnings="error::DeprecationWarning", stdout=subprocess.PIPE, **popen):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(billiard.__file__).parents[1]), *sys.path])}
        process = subprocess.Popen(
            [sys.executable, "-W", warnings, str(path)], stdout=stdout, stderr=subprocess.STDOUT,
            text=True, env=env, **popen,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
