"""Public module: logging, finalizers, after-fork hooks, the parent-death signal.

Finalizers and hooks are ``multiprocessing``'s objects themselves: a library that registers with either package is
served by both.  The log functions are silent until :func:`get_logger` has run.
"""

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from multiprocessing import util as _mp_util
from multiprocessing.util import (  # type: ignore[attr-defined]  # some exist, but are not published
    Finalize,
    ForkAwareLocal,
    ForkAwareThreadLock,
    _afterfork_counter,
    _afterfork_registry,
    _args_from_interpreter_flags,
    _exit_function,
    _finalizer_counter,
    _finalizer_registry,
    _run_after_forkers,
    _run_finalizers,
    get_temp_dir,
    is_exiting,
    register_after_fork,
    spawnv_passfds,
)

from ._stdlib.mirror import mirror
from ._typing import Any

__all__ = [
    "DEBUG",
    "ERROR",
    "INFO",
    "NOTSET",
    "SUBDEBUG",
    "SUBWARNING",
    "WARNING",
    "Finalize",
    "ForkAwareLocal",
    "ForkAwareThreadLock",
    "_afterfork_counter",
    "_afterfork_registry",
    "_args_from_interpreter_flags",
    "_exit_function",
    "_finalizer_counter",
    "_finalizer_registry",
    "_run_after_forkers",
    "_run_finalizers",
    "debug",
    "error",
    "get_logger",
    "get_pdeathsig",
    "get_temp_dir",
    "info",
    "is_exiting",
    "log_to_stderr",
    "register_after_fork",
    "set_pdeathsig",
    "spawnv_passfds",
    "sub_debug",
    "sub_warning",
    "warning",
]

__getattr__, __dir__ = mirror("util")

NOTSET = 0
SUBDEBUG = 5
DEBUG = 10
INFO = 20
SUBWARNING = 25
WARNING = 30
ERROR = 40

LOGGER_NAME = "multiprocessing"
DEFAULT_LOGGING_FORMAT = "[%(levelname)s/%(processName)s] %(message)s"

#: The logger, once :func:`get_logger` has run. Embedders put ``None`` here to have it set up anew.
_logger: Any = None

#: prctl(2)
PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2


def get_logger() -> Any:
    """The package's logger, named ``multiprocessing``; it does not pass records on to the root logger."""
    global _logger
    if not _logger:
        # The standard library's half moves its exit function, so that clean-up can still log, and makes its own
        # messages about processes appear in the same log.
        _logger = _mp_util.get_logger()
        _logger.propagate = 0
        _logging_names()
    return _logger


def _logging_names() -> None:
    import logging

    logging.addLevelName(SUBDEBUG, "SUBDEBUG")
    logging.addLevelName(SUBWARNING, "SUBWARNING")


def log_to_stderr(level: int | str | None = None) -> Any:
    """Let the logger write to stderr, here and in spawned children."""
    get_logger()
    return _mp_util.log_to_stderr(level)


def _log(level: int, msg: object, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
    if _logger:
        # stacklevel: the record names the caller, not this module.
        _logger.log(level, msg, *args, **{"stacklevel": 3, **kwargs})


def sub_debug(msg: object, *args: object, **kwargs: Any) -> None:
    """Log below DEBUG."""
    _log(SUBDEBUG, msg, args, kwargs)


def debug(msg: object, *args: object, **kwargs: Any) -> None:
    """Log at DEBUG."""
    _log(DEBUG, msg, args, kwargs)


def info(msg: object, *args: object, **kwargs: Any) -> None:
    """Log at INFO."""
    _log(INFO, msg, args, kwargs)


def sub_warning(msg: object, *args: object, **kwargs: Any) -> None:
    """Log between INFO and WARNING."""
    _log(SUBWARNING, msg, args, kwargs)


def warning(msg: object, *args: object, **kwargs: Any) -> None:
    """Log at WARNING."""
    _log(WARNING, msg, args, kwargs)


def error(msg: object, *args: object, **kwargs: Any) -> None:
    """Log at ERROR."""
    _log(ERROR, msg, args, kwargs)


def _prctl() -> Any:
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, "the parent-death signal exists on Linux only")
    return ctypes.CDLL(None, use_errno=True).prctl


def set_pdeathsig(sig: int) -> None:
    """Have the kernel send ``sig`` to this process when the thread that started it ends; 0 for no signal."""
    if _prctl()(PR_SET_PDEATHSIG, ctypes.c_ulong(int(sig)), 0, 0, 0) != 0:
        raise _errno_error()


def get_pdeathsig() -> int:
    """The parent-death signal set for this process, or 0."""
    sig = ctypes.c_int(0)
    if _prctl()(PR_GET_PDEATHSIG, ctypes.byref(sig), 0, 0, 0) != 0:
        raise _errno_error()
    return sig.value


def _errno_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


def _eintr_retry(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Historic decorator: the interpreter has retried interrupted system calls itself since 3.5."""
    return fun
