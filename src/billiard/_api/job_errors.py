"""The error that tells a job's fate: which function, which job, which worker, how it ended, after how long."""

from __future__ import annotations

from .._core.restarts import RestartIntensity
from .._core.state import Cause, Fate
from .._typing import Any
from .._wire import errors
from ..common import SIGMAP, human_status
from ..einfo import ExceptionInfo
from ..exceptions import RestartFreqExceeded, Terminated, TimeLimitExceeded, WorkerLostError


def name_of(func: Any) -> str:
    """A function's name for people."""
    module = getattr(func, "__module__", None)
    name = getattr(func, "__qualname__", None) or getattr(func, "__name__", None)
    if name is None:
        return errors.safe_repr(func)
    return f"{module}.{name}" if module else str(name)


def _signal_name(status: int | None) -> str | None:
    """The name of the signal behind a negative status."""
    if status is None or status >= 0:
        return None
    return SIGMAP.get(-status, f"signal {-status}")


def _how_it_ended(status: int | None) -> str:
    """An exit status in words."""
    return "exit status unknown" if status is None else human_status(status)


def error_info(fate: Fate, func: Any, job: int, item: int | None = None) -> ExceptionInfo:
    """The `ExceptionInfo` of a job that ended without a result of its own.

    `item`: index in the whole input of the item that was running, for a chunk of a map.
    """
    return errors.parent_made(_error(fate, func, job, item), _cause(fate))


def pool_error(fate: Fate) -> Exception:
    """The error of a pool that has given up: it is about no call."""
    broken: Exception = errors.parent_made(_error(fate, None, None, None), _cause(fate)).exception
    return broken


def _cause(fate: Fate) -> OSError | None:
    # why a process could not be made, with its traceback: its text alone does not tell what was not found
    return fate.detail if isinstance(fate.detail, OSError) and fate.detail.__traceback__ else None


def _error(fate: Fate, func: Any, job: int | None, item: int | None) -> Exception:
    function = None if func is None else name_of(func)
    pid = fate.worker.pid if fate.worker is not None else None
    details: dict[str, Any] = {
        "function": function,
        "job": job,
        "pid": pid,
        "exitcode": fate.status,
        "signal_name": _signal_name(fate.status),
        "runtime_s": fate.run_s,
        "started": None if func is None else fate.started,
    }
    which = f"{function}, job {job}" + (f", item {item}" if item is not None else "") if function is not None else "the pool"
    worker = f"worker {pid}"
    after = f" after {fate.run_s:.3f}s" if fate.run_s is not None else ""
    ended = _how_it_ended(fate.status)
    if fate.cause is Cause.TIME_LIMIT:
        over = TimeLimitExceeded(fate.limit_s, **details)  # its only argument is the limit, as billiard's
        over.add_note(f"{which}: over its time limit of {fate.limit_s}s in {worker}")
        return over
    if fate.cause is Cause.TERMINATED:
        # its only argument is the signal's number: Celery makes a number of str() of it
        terminated = Terminated(-(fate.status or 0), **details)
        terminated.add_note(f"{which}: terminated" + (f" in {worker}{after}" if pid else ""))
        return terminated
    if fate.cause is Cause.POOL_TERMINATED:
        return WorkerLostError(f"{which}: the pool was terminated{after}", **details)
    if fate.cause is Cause.RESTARTS:
        end = "takes no more calls" if function is None else "ended with them" if fate.started else "was not run"
        return RestartFreqExceeded(f"{_too_many(fate.detail)} (the last: {worker}, {ended}); {which} {end}", **details)
    if fate.cause is Cause.UNSTARTABLE:
        return WorkerLostError(f"{which}: no worker could be started: {_why(fate)}", **details)
    if fate.started:
        return WorkerLostError(f"Worker exited prematurely: {ended} Job: {job}. {which}: {worker} lost{after}", **details)
    return WorkerLostError(f"{which}: not started; workers died as they received it (the last: {worker}, {ended})", **details)


def _why(fate: Fate) -> str:
    if isinstance(fate.detail, bytes):
        return f"its initializer raised\n\n{errors.decode(fate.detail).traceback}"
    if fate.detail is not None:
        return str(fate.detail)
    # which of the two it was nobody knows, and whether the pool has an initializer is not told here
    return f"{_how_it_ended(fate.status)} before it was ready, while it started or in its initializer"


def _too_many(restarts: RestartIntensity) -> str:
    """The bound that was broken, by the names of the pool's arguments."""
    bounds = f"max_restarts={restarts.max_restarts} within max_restart_freq={restarts.period_s:g} seconds"
    return f"more workers died than {bounds} allow"
