"""Public module: contexts and their processes, one for each start method."""

from multiprocessing.context import (  # type: ignore[attr-defined]  # _tls is not published
    _tls,
    assert_spawning,
    get_spawning_popen,
    set_spawning_popen,
)

from ._stdlib.context import (
    BaseContext,
    DefaultContext,
    ForkContext,
    ForkProcess,
    ForkServerContext,
    ForkServerProcess,
    Process,
    SpawnContext,
    SpawnProcess,
    _concrete_contexts,
    _default_context,
    _force_start_method,
)
from .exceptions import (
    AuthenticationError,
    BufferTooShort,
    ProcessError,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    TimeoutError,
    WorkerLostError,
)

#: Historic: environment switch against spawning.
W_NO_EXECV = "force_execv is not supported: use set_start_method('spawn')"

__all__ = [
    "W_NO_EXECV",
    "AuthenticationError",
    "BaseContext",
    "BufferTooShort",
    "DefaultContext",
    "ForkContext",
    "ForkProcess",
    "ForkServerContext",
    "ForkServerProcess",
    "Process",
    "ProcessError",
    "SoftTimeLimitExceeded",
    "SpawnContext",
    "SpawnProcess",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "_concrete_contexts",
    "_default_context",
    "_force_start_method",
    "_tls",
    "assert_spawning",
    "get_spawning_popen",
    "set_spawning_popen",
]
