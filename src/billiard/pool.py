"""Public module: process pools.

`Pool` is the engine, unless a subclass overrides the hooks of billiard 4's event-loop pool, as Celery's does; the names
that such a subclass and its tests use are here too, looked up when they are first asked for. Two are read from this
module at each use, because others replace them here: `Lock` and `_kill`.
"""

import itertools  # noqa: F401 - tests and programs reach for these modules by way of this one
import os
import signal  # noqa: F401 - as above
import sys  # noqa: F401 - as above
import threading
import time  # noqa: F401 - as above
from importlib import import_module
from threading import TIMEOUT_MAX, Lock

from ._celery.choose import Pool
from ._typing import Any
from .common import TERM_SIGNAL

_kill = os.kill

#: Name of a module: the published names that live there.
_HOMES = {
    "._celery.handlers": (
        "CLOSE RUN SIGKILL TERMINATE PoolThread ResultHandler Supervisor TaskHandler TimeoutHandler WorkersJoined"
    ),
    "._celery.locks": "LaxBoundedSemaphore",
    "._celery.log": "debug error warning",
    "._celery.submitting": "mapstar starmapstar",
    "._celery.results": "LOST_WORKER_TIMEOUT ApplyResult AsyncResult IMapIterator IMapUnorderedIterator MapResult job_counter",
    "._api.pool": "NotClosedError",
    "._api.results": "NotReadyError",
    "._api.validate": "NotWholeError",
    "._celery.wire": "ACK DEATH NACK READY TASK",
    "._celery.worker": (
        "GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT MAXMEM_USED_FMT Worker"
    ),
    "._celery.worker_signals": "SIG_SOFT_TIMEOUT soft_timeout_sighandler",
    ".common": "human_status pickle_loads reset_signals restart_state",
    ".einfo": "ExceptionInfo RemoteTraceback",
    ".exceptions": (
        "CoroStop RestartFreqExceeded SoftTimeLimitExceeded Terminated TimeLimitExceeded TimeoutError WorkerLostError"
    ),
    "._stdlib.thread_pool": "ThreadPool",
    "._wire.exit_status": "EX_FAILURE EX_OK EX_RECYCLE",
    "._wire.unsendable": "MaybeEncodingError",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
_ALIASES = {"AsyncResult": "ApplyResult"}  # multiprocessing.pool has both names

__all__ = ["TERM_SIGNAL", "TIMEOUT_MAX", "Lock", "Pool", "stop_if_not_current", *_HOME_OF]  # noqa: PLE0604,RUF100 - strings all the same


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name], __package__), _ALIASES.get(name, name))
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def stop_if_not_current(thread: threading.Thread, timeout: float | None = None) -> None:
    """Stop a handler, unless it is the one that asks."""
    if thread is not threading.current_thread():
        thread.stop(timeout)  # type: ignore[attr-defined]  # a handler's method, which plain threads lack


def _get_send_offset(connection: Any) -> Any:
    """The raw, partial write of a connection."""
    from ._celery.wire import OffsetSender

    return OffsetSender(connection)
