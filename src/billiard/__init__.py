"""billiard: a process pool that survives its workers, and the rest of ``multiprocessing`` with Celery's additions.

Importing this package imports nothing of it: names are looked up at first use (PEP 562).  The functions are the bound
methods of one default context, so ``billiard.set_start_method`` rules all of them, as in ``multiprocessing``.
"""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs more than all the rest of this import
    from typing import Any

    # What `__getattr__` finds, for those who read without running. At run time Pool is a method that makes one.
    from ._stdlib.context import DefaultContext
    from .context import Process
    from .exceptions import (
        AuthenticationError,
        BufferTooShort,
        ProcessError,
        SoftTimeLimitExceeded,
        TimeLimitExceeded,
        TimeoutError,
        WorkerLostError,
    )
    from .pool import Pool
    from .process import active_children

    _default = DefaultContext.__new__(DefaultContext)
    Array = _default.Array
    Barrier = _default.Barrier
    BoundedSemaphore = _default.BoundedSemaphore
    Condition = _default.Condition
    Event = _default.Event
    JoinableQueue = _default.JoinableQueue
    Lock = _default.Lock
    Manager = _default.Manager
    Pipe = _default.Pipe
    Queue = _default.Queue
    RLock = _default.RLock
    RawArray = _default.RawArray
    RawValue = _default.RawValue
    Semaphore = _default.Semaphore
    SimpleQueue = _default.SimpleQueue
    Value = _default.Value
    allow_connection_pickling = _default.allow_connection_pickling
    cpu_count = _default.cpu_count
    current_process = _default.current_process
    forking_enable = _default.forking_enable
    forking_is_enabled = _default.forking_is_enabled
    freeze_support = _default.freeze_support
    get_all_start_methods = _default.get_all_start_methods
    get_context = _default.get_context
    get_logger = _default.get_logger
    get_start_method = _default.get_start_method
    log_to_stderr = _default.log_to_stderr
    parent_process = _default.parent_process
    set_executable = _default.set_executable
    set_forkserver_preload = _default.set_forkserver_preload
    set_start_method = _default.set_start_method

VERSION = (5, 0, 0, "")
__version__ = "5.0.0"
__author__ = "The billiard authors"
__contact__ = "https://github.com/celery/billiard/issues"
__homepage__ = "https://github.com/celery/billiard"
__maintainer__ = __author__
__docformat__ = "restructuredtext"

#: Log levels of :mod:`billiard.util`.
SUBDEBUG = 5
SUBWARNING = 25

__all__ = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "SoftTimeLimitExceeded",
    "TimeLimitExceeded",
    "TimeoutError",
    "Value",
    "WorkerLostError",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "forking_enable",
    "forking_is_enabled",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]

#: In ``multiprocessing`` but never in billiard: here too, though not taken by ``from billiard import *``.
_BEYOND = frozenset({"parent_process", "reducer"})

_MODULES = frozenset(
    {
        "common",
        "compat",
        "connection",
        "context",
        "dummy",
        "einfo",
        "exceptions",
        "forkserver",
        "heap",
        "managers",
        "pool",
        "popen_fork",
        "popen_forkserver",
        "popen_spawn_posix",
        "popen_spawn_win32",
        "process",
        "queues",
        "reduction",
        "resource_sharer",
        "resource_tracker",
        "semaphore_tracker",
        "shared_memory",
        "sharedctypes",
        "spawn",
        "synchronize",
        "util",
    }
)

# Objects pickled under the name of a spawned child's main module must be found in the parent, whose main module has
# another name (multiprocessing does the same).
# Only if the name is free: a spawned child is just running its main module under it when that module imports us.
if "__main__" in sys.modules:
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(import_module(".context", __name__)._default_context, name)
        if name != "reducer":  # a property: it can be assigned on the context
            globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, *_MODULES})


_PUBLIC = frozenset(__all__) | _BEYOND


def ensure_multiprocessing() -> None:
    """Raise :exc:`NotImplementedError` where the platform has no process-shared semaphores."""
    try:
        import _multiprocessing  # type: ignore[import-not-found]  # C, without published types  # noqa: F401 - present or not is the question
    except ImportError:
        raise NotImplementedError("multiprocessing not supported") from None
