"""Door: process pools.

`Pool` is the engine, unless a subclass overrides the hooks of billiard 4's event-loop pool, as Celery's does; the names
that such a subclass and its tests use are here too. Some are read from this module at each use, because others replace
them here: `Lock` and `_kill`.
"""

import itertools  # noqa: F401 - tests and programs reach for these modules by way of this one
import os
import signal  # noqa: F401
import sys  # noqa: F401
import threading
import time  # noqa: F401
from multiprocessing.pool import ThreadPool
from threading import TIMEOUT_MAX as THREAD_TIMEOUT_MAX
from threading import Lock

from ._celery.choose import Pool
from ._celery.handlers import (
    CLOSE,
    RUN,
    SIGKILL,
    TERMINATE,
    PoolThread,
    ResultHandler,
    Supervisor,
    TaskHandler,
    TimeoutHandler,
    WorkersJoined,
)
from ._celery.locks import LaxBoundedSemaphore
from ._celery.log import debug, error, warning
from ._celery.pool import mapstar, starmapstar
from ._celery.results import (
    LOST_WORKER_TIMEOUT,
    ApplyResult,
    IMapIterator,
    IMapUnorderedIterator,
    MapResult,
    job_counter,
)
from ._celery.wire import ACK, DEATH, NACK, READY, TASK, MaybeEncodingError, OffsetSender
from ._celery.worker import (
    GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL,
    GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT,
    MAXMEM_USED_FMT,
    SIG_SOFT_TIMEOUT,
    Worker,
    soft_timeout_sighandler,
)
from ._core.fates import EX_FAILURE, EX_OK, EX_RECYCLE
from .common import TERM_SIGNAL, human_status, pickle_loads, reset_signals, restart_state
from .einfo import ExceptionInfo
from .exceptions import (
    CoroStop,
    RestartFreqExceeded,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    TimeoutError,  # noqa: A004 - multiprocessing's, as published
    WorkerLostError,
)

TIMEOUT_MAX = THREAD_TIMEOUT_MAX

_kill = os.kill


def stop_if_not_current(thread: threading.Thread, timeout: float | None = None) -> None:
    """Stop a handler, unless it is the one that asks."""
    if thread is not threading.current_thread():
        thread.stop(timeout)  # type: ignore[attr-defined]  # a handler's method, which plain threads lack


def _get_send_offset(connection: object) -> OffsetSender:
    return OffsetSender(connection)


__all__ = [
    "ACK",
    "CLOSE",
    "DEATH",
    "EX_FAILURE",
    "EX_OK",
    "EX_RECYCLE",
    "GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL",
    "GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT",
    "LOST_WORKER_TIMEOUT",
    "MAXMEM_USED_FMT",
    "NACK",
    "READY",
    "RUN",
    "SIGKILL",
    "SIG_SOFT_TIMEOUT",
    "TASK",
    "TERMINATE",
    "TERM_SIGNAL",
    "TIMEOUT_MAX",
    "ApplyResult",
    "CoroStop",
    "ExceptionInfo",
    "IMapIterator",
    "IMapUnorderedIterator",
    "LaxBoundedSemaphore",
    "Lock",
    "MapResult",
    "MaybeEncodingError",
    "Pool",
    "PoolThread",
    "RestartFreqExceeded",
    "ResultHandler",
    "SoftTimeLimitExceeded",
    "Supervisor",
    "TaskHandler",
    "Terminated",
    "ThreadPool",
    "TimeLimitExceeded",
    "TimeoutError",
    "TimeoutHandler",
    "Worker",
    "WorkerLostError",
    "WorkersJoined",
    "debug",
    "error",
    "human_status",
    "job_counter",
    "mapstar",
    "pickle_loads",
    "reset_signals",
    "restart_state",
    "soft_timeout_sighandler",
    "starmapstar",
    "stop_if_not_current",
    "warning",
]
