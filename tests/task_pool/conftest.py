"""A hub with what Celery's pool needs of kombu's, and pools on it."""

import contextlib
import heapq
import itertools
import select
import time

import pytest

from billiard._celery.task_pool import CeleryPool

WITHIN_S = 20.0


class Entry:
    def __init__(self, callback):
        self.callback = callback
        self.canceled = False

    def cancel(self):
        self.canceled = True


class Hub:
    """Readers, timers and `call_soon`; runs only in `until`. What a timer raises does not leave it, as in kombu."""

    def __init__(self):
        self.readers = {}
        self.soon = []
        self.swallowed = []
        self._timers = []
        self._order = itertools.count()
        self._poll = select.epoll()

    def add_reader(self, fd, callback, *args):
        if fd not in self.readers:
            self._poll.register(fd, select.EPOLLIN)
        self.readers[fd] = lambda: callback(*args)

    def remove_reader(self, fd):
        if self.readers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call_at(self, when, callback, *args):
        entry = Entry(lambda: callback(*args))
        heapq.heappush(self._timers, (when, next(self._order), entry))
        return entry

    def call_soon(self, callback, *args):
        self.soon.append(lambda: callback(*args))

    @property
    def alarms(self):
        """What is armed."""
        return [entry for _, _, entry in self._timers if not entry.canceled]

    def reset(self):
        """As Celery does when the connection to the broker is lost, with the timers that came with the connection."""
        for fd in list(self.readers):
            self.remove_reader(fd)
        for entry in self.alarms:
            entry.cancel()

    def close(self):
        self._poll.close()

    def once(self, at_most_s):
        while self.soon:
            self.soon.pop(0)()
        timeout = at_most_s
        while self._timers:
            when, _, entry = self._timers[0]
            rest = when - time.monotonic()
            if rest > 0 and not entry.canceled:
                timeout = min(timeout, rest)
                break
            heapq.heappop(self._timers)
            if not entry.canceled:
                try:
                    entry.callback()
                except Exception as exc:
                    self.swallowed.append(exc)
                timeout = 0.0
        for fd, _ in self._poll.poll(timeout):
            if fd in self.readers:
                self.readers[fd]()

    def until(self, true, within_s=WITHIN_S, what="it"):
        """Run until `true()`. Sleeps until something happens: a deadline that nobody armed makes the test fail."""
        deadline = time.monotonic() + within_s
        while not true():
            rest = deadline - time.monotonic()
            assert rest > 0, f"{what} did not come about within {within_s} s"
            self.once(rest)


class Semaphore:
    """Like kombu's: a waiter is called when its turn comes, in the midst of `release`."""

    def __init__(self, value):
        self.value = self.most = value
        self.waiters = []
        self.released = 0

    def acquire(self, callback, *args):
        if self.value > 0:
            self.value -= 1
            callback(*args)
        else:
            self.waiters.append((callback, args))

    def release(self):
        self.released += 1
        if self.waiters:
            callback, args = self.waiters.pop(0)
            callback(*args)
        else:
            self.value = min(self.value + 1, self.most)

    def clear(self):
        self.waiters.clear()
        self.value = self.most

    def grow(self):
        self.most += 1
        self.release()

    def shrink(self):
        self.most -= 1
        self.value = max(self.value - 1, 0)


class Told:
    """What a request was told, in order."""

    def __init__(self):
        self.events = []

    def callbacks(self, name):
        def tell(what):
            return lambda *args, **kwargs: self.events.append((name, what, args[0] if args else kwargs))

        return {
            "accept_callback": tell("accepted"),
            "callback": tell("success"),
            "error_callback": tell("failure"),
            "timeout_callback": tell("timeout"),
        }

    def of(self, name):
        return [what for of, what, _ in self.events if of == name]

    def value(self, name, what):
        return next(value for of, kind, value in self.events if (of, kind) == (name, what))


def nothing():
    """Celery always passes an initializer."""


@pytest.fixture
def hub():
    hub = Hub()
    with contextlib.closing(hub):
        yield hub


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def make_pool(hub):
    """A pool as `celery.concurrency.prefork.TaskPool` makes it for a broker with an event loop."""
    pools = []

    def make(processes=2, initializer=nothing, register=True, **options):
        options = {
            "on_process_exit": None, "enable_timeouts": True, "synack": False, "proc_alive_timeout": 4.0,
            "maxtasksperchild": None, "max_memory_per_child": None, "timeout": None, "soft_timeout": None,
            "lost_worker_timeout": 10.0, "threads": False, "max_restarts": 100, "allow_restart": False,
            "semaphore": Semaphore(processes), "sched_strategy": "default",
        } | options  # fmt: skip
        pool = CeleryPool(processes=processes, initializer=initializer, **options)
        pools.append(pool)
        if register and not pool.threads:
            pool.register_with_event_loop(hub)
        return pool

    yield make
    for pool in pools:
        pool.terminate()
        pool.join()
