"""An exception on its way from a worker to the caller.

The body of an ERROR frame is a pickle of plain strings and one inner pickle. The inner one holds the
`ExceptionInfo`; when the caller cannot rebuild it (the class needs two arguments, its module is
missing), the strings are enough for a stand-in that says what it was.
"""

from __future__ import annotations

import contextlib
import pickle
import reprlib
from collections.abc import Callable

from .._typing import Any, Final
from ..einfo import ExceptionInfo
from ..exceptions import TaskError
from .pickling import PROTOCOL, MainSnapshot, confirm_error, dumps_whole, loads

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 1000
_repr.maxtuple = 20
_LONGEST_CHAIN: Final = 100  # of causes: somebody may have made a circle of them


def safe_repr(obj: Any) -> str:
    """A bounded repr that never raises: user code runs in it."""
    try:
        return _repr.repr(obj)
    except Exception as exc:
        return f"<{type(obj).__name__} object whose repr raised {type(exc).__name__}>"


def prepare() -> None:
    """Import what `encode` needs, in good time: the first error may be that no descriptor or no memory is left."""
    import tokenize  # noqa: F401 - from Python 3.13 on `traceback` imports it only when it needs it
    import traceback  # noqa: F401


def encode(exc: BaseException, snapshot: MainSnapshot) -> bytes:
    """The body for an exception that was raised in this process. Raises nothing for what the exception is, but
    what is no Exception itself: a repr that wants to leave the process."""
    _free_memory(exc)
    try:
        import traceback  # a tenth of what the package's import takes; a worker has it from `prepare`

        text = "".join(traceback.format_exception(exc))
    except Exception:
        text = f"{type(exc).__name__}: (its traceback could not be formatted)\n"
    blob = b""
    try:
        info = ExceptionInfo((type(exc), exc, exc.__traceback__))
        blob = dumps_whole(info, snapshot)
    except Exception:
        blob = b""
    return pickle.dumps((blob, type(exc).__name__, safe_repr(exc.args), text), PROTOCOL)


def _free_memory(exc: BaseException | None) -> None:
    """Empty the frames of a MemoryError, or of one that it comes from. They mostly hold what has taken all the memory: there is
    none then to tell of the error, and its worker would be lost. By hand, as an import (of `traceback`) takes some itself."""
    for _ in range(_LONGEST_CHAIN):
        if exc is None:
            return
        if isinstance(exc, MemoryError):
            clear_frames(exc)
        exc = exc.__cause__ if exc.__cause__ is not None else exc.__context__


def clear_frames(exc: BaseException) -> None:
    """Let go of what the calls that led to `exc` held. As `traceback` has it, which may be more than can be imported by now."""
    tb = exc.__traceback__
    while tb is not None:
        with contextlib.suppress(RuntimeError):  # it still runs
            tb.tb_frame.clear()
        tb = tb.tb_next


def decode(body: bytes, own_error: Callable[..., BaseException] = confirm_error) -> ExceptionInfo:
    """Rebuild the `ExceptionInfo`, or one about a `TaskError` that stands in for what could not be rebuilt, which `own_error`
    confirms."""
    blob, type_name, args_repr, text = loads(body)
    reason: BaseException | None = None
    if blob:
        try:
            info = loads(blob)
            if isinstance(info, ExceptionInfo) and isinstance(info.exception, BaseException):
                return info
        except BaseException as exc:
            reason = own_error(exc, loads, blob)
    return parent_made(TaskError(type_name, args_repr, text), cause=reason, text=text)


def parent_made(exc: BaseException, cause: BaseException | None = None, text: str | None = None) -> ExceptionInfo:
    """An `ExceptionInfo` about an error that this process makes; its `exception` is the bare exception."""
    try:
        raise exc from cause
    except BaseException as raised:
        info = ExceptionInfo((type(raised), raised, raised.__traceback__))
        raised.__traceback__ = None  # it would pin this frame, and the frame the body
    info.exception = exc
    if text is not None:
        info.traceback = text
    return info
