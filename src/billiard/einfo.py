"""An exception that travels: type, exception and traceback in a form that pickles.

A leaf: standard library only, and ``traceback`` is imported when the first error is formatted.

``ExceptionInfo.exception`` is an :class:`ExceptionWithTraceback` around the real exception as long as it stays in the
process that made it; once pickled and unpickled it *is* the real exception, with the remote traceback as its cause.
Clients rely on that asymmetry (it decides which ``except`` clause matches), so do not "clean it up".

The traceback stand-ins claim, through ``__class__``, to be the interpreter's own types, which is what ``inspect`` and
``logging`` ask for.  ``type(x)`` still tells the truth.  The lie breaks the default pickling of objects, hence the
``__reduce__`` of each.
"""

import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, TracebackType

from ._typing import Any

__all__ = ["ExceptionInfo", "Traceback"]

#: Frames kept of one traceback. Bounds what one error from runaway recursion costs on the wire.
DEFAULT_MAX_FRAMES = sys.getrecursionlimit() // 8

_Position = tuple[int | None, int | None, int | None, int | None]
_CO_OPTIMIZED = 0x1  # a function's code; `inspect` has the name, and costs too much to import for it
_NOWHERE: tuple[_Position, ...] = ((None, None, None, None),)


def _blank() -> None:
    """Lends its code object to `_Code.co_positions`."""


class RemoteTraceback(Exception):  # noqa: N818 - the published name
    """Shown as the cause of an exception from another process: its traceback, as text."""

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return self.tb


class ExceptionWithTraceback(Exception):  # noqa: N818 - the published name
    """An exception and the text of its traceback; unpickles as the exception itself."""

    def __init__(self, exc: BaseException | None, tb: str) -> None:
        super().__init__()  # no arguments: its repr stays short in the logs that show it
        self.exc = exc
        self.tb = f'\n"""\n{tb}"""'

    def __str__(self) -> str:
        return self.tb

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return rebuild_exc, (self.exc, self.tb)


def rebuild_exc(exc: BaseException, tb: str) -> BaseException:
    """The exception as the receiver sees it."""
    exc.__cause__ = RemoteTraceback(tb)
    return exc


def _revive(cls: type, state: dict[str, Any]) -> Any:
    obj: Any = object.__new__(cls)
    obj.__dict__.update(state)
    return obj


def _revive_chain(links: list[tuple[type, dict[str, Any]]]) -> Any:
    following = None
    for cls, state in reversed(links):
        following = _revive(cls, {**state, "tb_next": following})
    return following


class _Object:
    """A bag of attributes that can stand where a code object is asked for its positions."""

    def __init__(self, **attributes: Any) -> None:
        self._positions = _NOWHERE
        for name, value in attributes.items():
            setattr(self, name, value)

    @property
    def co_positions(self) -> Callable[[], Iterator[_Position]]:
        return lambda: iter(self._positions)

    @co_positions.setter
    def co_positions(self, positions: tuple[_Position, ...]) -> None:
        self._positions = positions


class _Code:
    """A code object's outside: what tracebacks, ``inspect`` and loggers read, without the code."""

    @property  # type: ignore[misc]  # a property for `__class__` is how a stand-in claims a type
    def __class__(self) -> type:
        return CodeType

    def __init__(self, code: Any) -> None:
        if type(code) is _Code:
            self.__dict__.update(code.__dict__)
            return
        self.co_filename: str = code.co_filename
        self.co_name: str = code.co_name
        self.co_qualname: str = code.co_qualname
        self.co_argcount: int = code.co_argcount
        self.co_posonlyargcount: int = code.co_posonlyargcount
        self.co_kwonlyargcount: int = code.co_kwonlyargcount
        self.co_firstlineno: int = code.co_firstlineno
        self.co_flags: int = code.co_flags
        self.co_names: tuple[str, ...] = code.co_names
        self.co_nlocals: int = code.co_nlocals
        self.co_stacksize: int = code.co_stacksize
        self.co_code = b""
        self.co_lnotab = b""
        self.co_consts: tuple[Any, ...] = ()
        self.co_varnames: tuple[str, ...] = ()
        self.co_cellvars: tuple[str, ...] = ()
        self.co_freevars: tuple[str, ...] = ()
        # The interpreter's own compressed table: a byte or two for each instruction instead of a tuple of four numbers.
        self._linetable: bytes = code.co_linetable
        self._instructions: int = len(code.co_code) // 2

    def co_positions(self) -> Iterator[_Position]:
        """As on a real code object: the interpreter decodes its own table, through code that does nothing."""
        from opcode import opmap

        code = _blank.__code__.replace(
            co_code=bytes([opmap["NOP"], 0]) * self._instructions,
            co_linetable=self._linetable,
            co_firstlineno=self.co_firstlineno,
        )
        return iter(code.co_positions())

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _revive, (_Code, self.__dict__)


def _may_hide(frame: Any) -> bool:
    """Whether a look for ``__traceback_hide__`` is worth it: in a function, ``f_locals`` copies everything there is."""
    code = frame.f_code
    if type(frame) is _Frame or not code.co_flags & _CO_OPTIMIZED:
        return True
    return "__traceback_hide__" in code.co_varnames or "__traceback_hide__" in code.co_cellvars


class _Frame:
    """A frame's outside. Of its globals only what finds the source, of its locals only the hide-me mark."""

    @property  # type: ignore[misc]  # a property for `__class__` is how a stand-in claims a type
    def __class__(self) -> type:
        return FrameType

    def __init__(self, frame: Any) -> None:
        self.f_code = _Code(frame.f_code)
        self.f_globals: dict[str, Any] = {
            "__file__": frame.f_globals.get("__file__", "__main__"),
            "__name__": frame.f_globals.get("__name__"),
            "__loader__": None,
        }
        self.f_locals: dict[str, Any] = {}
        if _may_hide(frame):
            try:
                self.f_locals["__traceback_hide__"] = frame.f_locals["__traceback_hide__"]
            except KeyError:
                pass
        self.f_builtins: dict[str, Any] = {}
        self.f_back = None
        self.f_trace = None
        self.f_lineno: int = frame.f_lineno
        self.f_lasti: int = frame.f_lasti

    def clear(self) -> None:
        """Nothing is held, so there is nothing to let go (``traceback.clear_frames`` calls this)."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _revive, (_Frame, self.__dict__)


class Traceback:
    """A traceback that pickles. Usable wherever the standard library reads one."""

    @property  # type: ignore[misc]  # a property for `__class__` is how a stand-in claims a type
    def __class__(self) -> type:
        return TracebackType

    tb_frame: Any
    tb_lineno: int
    tb_lasti: int
    tb_next: Any

    def __init__(self, tb: Any, max_frames: int = DEFAULT_MAX_FRAMES, depth: int = 0) -> None:
        link: Any = self
        link._copy(tb)
        # A loop, not recursion: the error may be a RecursionError, with little stack left to describe it.
        while (tb := tb.tb_next) is not None:
            depth += 1
            if depth > max_frames:
                link.tb_next = _Truncated()
                return
            following = object.__new__(Traceback)
            following._copy(tb)
            link.tb_next = following
            link = following

    def _copy(self, tb: Any) -> None:
        self.tb_frame = _Frame(tb.tb_frame)
        self.tb_lineno = tb.tb_lineno
        self.tb_lasti = tb.tb_lasti
        self.tb_next = None

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Flat: pickling a chain link by link would need several stack frames for each.
        links: list[tuple[type, dict[str, Any]]] = []
        link: Any = self
        while link is not None:
            links.append((type(link), {name: value for name, value in link.__dict__.items() if name != "tb_next"}))
            link = link.tb_next
        return _revive_chain, (links,)


class _NoCode(_Object):
    """Claims to be code. Of the frame that stands for all those cut off."""

    @property  # type: ignore[misc]  # a property for `__class__` is how a stand-in claims a type
    def __class__(self) -> type:
        return CodeType

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _revive, (_NoCode, self.__dict__)


class _NoFrame(_Object):
    """Claims to be a frame: the one that stands for all those cut off."""

    @property  # type: ignore[misc]  # a property for `__class__` is how a stand-in claims a type
    def __class__(self) -> type:
        return FrameType

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _revive, (_NoFrame, self.__dict__)


class _Truncated(Traceback):
    """The last link of a traceback that was too long."""

    def __init__(self) -> None:
        self.tb_lineno = -1
        self.tb_lasti = 0
        self.tb_next = None
        code = _NoCode(
            co_filename="",
            co_name="[rest of traceback truncated]",
            co_qualname="[rest of traceback truncated]",
            co_firstlineno=-1,
            co_flags=0,
        )
        self.tb_frame = _NoFrame(
            f_code=code,
            f_globals={"__file__": "", "__name__": "", "__loader__": None},
            f_locals={},
            f_builtins={},
            f_back=None,
            f_trace=None,
            f_lineno=-1,
            f_lasti=0,
            clear=_blank,
        )

    def co_positions(self) -> Iterator[_Position]:
        positions: Iterator[_Position] = self.tb_frame.co_positions()
        return positions


class ExceptionInfo:
    """What ``sys.exc_info()`` knows, kept. Pass a triple to use that one instead of the error being handled."""

    # On the class too, as in billiard 4: ``Mock(spec=ExceptionInfo)`` knows no attribute that only instances have.
    #: The exception's class.
    type: Any = None
    #: The traceback, as a :class:`Traceback`; ``None`` where there was none.
    tb: Any = None
    #: The traceback, as text.
    traceback: str = ""
    #: True when the pool itself, and no task, is to blame.
    internal = False
    #: The exception: wrapped here, bare after a trip through pickle.
    exception: Any = None

    def __init__(self, exc_info: tuple[Any, Any, Any] | None = None, internal: bool = False) -> None:
        from traceback import format_exception

        kind, exc, tb = exc_info or sys.exc_info()
        self.type = kind
        self.tb = None if tb is None else Traceback(tb)
        self.traceback = "".join(format_exception(kind, exc, tb))
        self.internal = internal
        self.exception = ExceptionWithTraceback(exc, self.traceback)

    @property
    def exc_info(self) -> tuple[Any, Any, Any]:
        return self.type, self.exception, self.tb

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.exception!r}>"
