"""From the bytes a worker sent to a value or an error: in the thread that asks, at the time it asks, with no lock held."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

from .._core.state import FATE, PENDING, Job
from .._typing import TYPE_CHECKING, Any, Final
from .._wire import errors, frames, pickling
from .._wire.unsendable import MaybeEncodingError
from ..einfo import ExceptionInfo
from ..exceptions import PayloadError
from . import job_errors

if TYPE_CHECKING:
    from .results import Awaited

VALUE: Final = 0x201  # further states of a job: its body is the value, or the ExceptionInfo
FAILURE: Final = 0x202

_read: Final = pickling.read


def resolve(job: Awaited, func: Any, number: int, item: int | None = None) -> bool:
    """Turn `job.body` into the value (True) or the `ExceptionInfo` (False). Once: later calls see the same object."""
    state = job.state
    if state == frames.RESULT:
        body = job.body
        try:
            value, found = _read(body), VALUE
        except BaseException as exc:
            value, found = _unreadable(own_error(job, exc, _read, body), func, number), FAILURE
    elif state >= VALUE:
        return state == VALUE
    else:
        value, found = _rare(job, func, number, item)
    if job.state == state:  # else another thread was faster, and its object is the one
        job.body, job.state = value, found
    return job.state == VALUE


def own_error(job: Awaited, exc: BaseException, again: Callable[..., Any], *args: Any) -> BaseException:
    """`exc` was raised where `again(*args)` read what `job` brought: that error, if it is the payload's; else it is raised on.

    A KeyboardInterrupt may be either, and asking by a second attempt is not enough: who has pressed Ctrl-C during a long one
    presses it again. In the main thread, the only one that it can strike, it is raised on once and nothing is lost; from then
    on, and in any other thread, it is treated like all errors. Else whoever reads on would meet it for ever, and no callback
    would ever be told.
    """
    certain = isinstance(exc, pickling.UNREADABLE) or job.doubted or threading.current_thread() is not threading.main_thread()
    try:
        if not certain:
            job.doubted = True
            raise exc
        return pickling.confirm_error(exc, again, *args)  # type: ignore[no-any-return]
    finally:
        del job, exc, args  # the traceback keeps this frame


def had_begun(job: Job) -> bool:
    """Whether `job` has ended, and a worker had begun it before."""
    if job.state == FATE:
        return bool(job.body.started)
    if job.state == FAILURE:
        return getattr(job.body.exception, "started", None) is not False
    return job.state != PENDING


def _rare(job: Awaited, func: Any, number: int, item: int | None) -> tuple[Any, int]:
    state, body = job.state, job.body
    if state == FATE:
        return job_errors.error_info(body, func, number, item), FAILURE
    if state == frames.ERROR:
        return _failure(job, body, func, number), FAILURE
    if state != frames.RESULT | frames.LARGE:
        return _unreadable(frames.FrameError(f"no result is of kind {state}"), func, number), FAILURE
    try:
        return _load_large(body), VALUE
    except BaseException as exc:
        return _unreadable(own_error(job, exc, _load_large, body), func, number), FAILURE


def _failure(job: Awaited, body: Any, func: Any, number: int) -> ExceptionInfo:
    confirm = functools.partial(own_error, job)
    try:
        info = errors.decode(body, confirm)
    except pickling.UNREADABLE as exc:
        return _unreadable(pickling.confirm_error(exc, errors.decode, body), func, number)
    error = info.exception
    if isinstance(error, PayloadError) and error._sent_cause is not None:
        # of this very call: the worker, which could not read it, does not know whose it is
        error.__cause__ = errors.decode(error._sent_cause, confirm).exception
        del error._sent_cause
        error.function, error.job = job_errors.name_of(func), number
        error.args = (f"{error.function}, job {number}: {error}",)
    elif isinstance(error, MaybeEncodingError) and error.function is None:  # else of a call that a task made, in its own pool
        error.function, error.job = job_errors.name_of(func), number
    return info


def _load_large(body: memoryview) -> Any:
    return pickling.loads(*frames.unpack_large(body))


def _unreadable(exc: BaseException, func: Any, number: int) -> ExceptionInfo:
    function = job_errors.name_of(func)
    return errors.parent_made(
        PayloadError(f"the result of {function}, job {number}, could not be rebuilt: {exc!r}", function=function, job=number),
        cause=exc,
    )
