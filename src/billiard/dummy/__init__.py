"""Public module: the API of this package over threads. ``multiprocessing``'s own, and a pool that can be joined."""

import sys
from collections.abc import Callable, Iterable
from multiprocessing.dummy import (
    Array,
    Barrier,
    BoundedSemaphore,
    Condition,
    DummyProcess,
    Event,
    JoinableQueue,
    Lock,
    Namespace,
    Pipe,
    Process,
    Queue,
    RLock,
    Semaphore,
    Value,
    active_children,
    current_process,
    freeze_support,
    shutdown,
)

from .._stdlib.mirror import mirror
from .._typing import Any

__all__ = [
    "Array",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "DummyProcess",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Namespace",
    "Pipe",
    "Pool",
    "Process",
    "Queue",
    "RLock",
    "Semaphore",
    "Value",
    "active_children",
    "current_process",
    "freeze_support",
    "shutdown",
]

__getattr__, __dir__ = mirror("dummy")


def Manager() -> Any:  # noqa: N802 - the published name
    """This very module: threads share what it makes, with no server between them."""
    return sys.modules[__name__]


def Pool(processes: int | None = None, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()) -> Any:  # noqa: N802 - the published name
    """A pool of threads, with the methods of :class:`multiprocessing.pool.Pool`."""
    from .._stdlib.thread_pool import ThreadPool

    return ThreadPool(processes, initializer, initargs)
