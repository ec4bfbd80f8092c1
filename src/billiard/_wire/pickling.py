"""Pickling of what crosses a channel: by reference where that is right, by value where it must be.

Plain `pickle` is fast and knows only references: ``__main__.f`` means whatever the *other* process finds
under that name. That is right as long as both sides found the same object there when they parted. So each
pool remembers `__main__` as it was when its workers' interpreter image was taken (`MainSnapshot`), and:

- an object that is still what the snapshot has under its name travels by reference, so classes keep their identity;
- what is new or redefined since (a notebook's next cell), a lambda or a closure travels by value, with cloudpickle;
- what the standard library's ForkingPickler knows to send (connections, sockets) travels as it says.

The C pickler without a Python hook is twice as fast as one with a hook, so the first attempt has none, and the
pickle is searched for the rare words that call for the second attempt.

A few numbers or short strings, what most tiny calls take and return, are marshalled: a third of the time, on each side. The
first byte tells which it is (`read`): a pickle begins with PICKLED, and no marshalled value of these types does. Their format
has not changed since Python 2.5, so the interpreters on both sides need not be the same.
"""

from __future__ import annotations

import copyreg
import functools
import io
import marshal
import pickle
import sys
import threading
import types
from collections import ChainMap
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler

from .._typing import Any, Final

PROTOCOL: Final = 5  # of pickle: the first with buffers beside the pickle
_OUT_OF_BAND_FROM: Final = 1 << 14  # smaller buffers are cheaper copied into the pickle
BIG_BYTES_FROM: Final = 1 << 18  # ... and bytes, which have to be copied at their end anyway, up to here
_ARRAY_INSIDE_TO: Final = 1 << 17  # ... and an array that is known to need no search for names, up to here
_SHORTEST_NAMED: Final = 28  # a pickle of `__main__.f` has 29 bytes; no shorter one can name a module that matters

#: Types whose pickles refer to nothing, so that the plainest pickling is right for them, and those of them that may be long.
PLAIN: Final = frozenset((int, float, bool, type(None)))
SIZED: Final = frozenset((str, bytes))

MARSHAL: Final = 2  # the version of its format that looks for no references, which takes longer than all else
SHORT: Final = 1 << 12  # a longer string is pickled, so that two references to it stay what they are
PICKLED: Final = 0x80  # the first byte of a pickle

_HARMLESS: Final = (b"billiard.einfo", b"billiard.exceptions")  # in every error that a task raises

_NUMBERS: Final = "?bhilqBHILQefdgFDG"  # numpy's codes of the types that are nothing but numbers

_Cached: Final = functools._lru_cache_wrapper  # a function that is pickled by its name alone, like a plain one

_dumps = pickle.dumps
_reducers: dict[type, Callable[..., Any]] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]  # has no public name
_looked_at = 0  # how many of them `_application_has_reducers` has seen
_foreign = False

#: What rebuilding a payload may raise, and then is its own error: it must not be able to end who reads it. Of anything else,
#: KeyboardInterrupt above all, this is less certain: see `own_error` in billiard._api.outcome.
UNREADABLE: Final = (Exception, SystemExit, GeneratorExit)

Pickled = tuple[bytes, list[memoryview] | None]


class MainSnapshot:
    """`__main__`'s functions and classes as they were when the workers' image of it was taken."""

    def __init__(self, importable: bool = True) -> None:
        """`importable` False: the workers have no `__main__` of ours (spawned from a REPL, or from a package that is run):
        nothing goes by reference."""
        self._names: dict[str, Any] = {}
        if importable:
            self.take()

    def take(self) -> None:
        """Take it anew: workers are about to be made that know today's `__main__`."""
        self._names = {name: value for name, value in self._main().items() if _is_definition(value)}

    @staticmethod
    def _main() -> dict[str, Any]:
        main = sys.modules.get("__main__")
        return dict(vars(main)) if main is not None else {}

    def has(self, obj: Any) -> bool:
        """Whether `obj` (whose module is `__main__`) is what the workers have under its name, and what this process has there:
        pickle asks for the latter."""
        first, *rest = getattr(obj, "__qualname__", "<locals>").split(".")
        found = self._names.get(first)
        if found is not getattr(sys.modules.get("__main__"), first, None):
            return False
        for name in rest:
            found = getattr(found, name, None)
        return found is obj

    def unchanged(self) -> bool:
        """Whether all of `__main__`'s own definitions are those the workers have."""
        names = self._names
        return all(names.get(name) is value for name, value in self._main().items() if _is_definition(value))


def _is_definition(value: Any) -> bool:
    # not `isinstance`, which asks the object itself: a lazy one would be made, here and now, and before the fork
    return issubclass(type(value), type | types.FunctionType | _Cached) and value.__module__ == "__main__"


def travels_by_name(func: Callable[..., Any], snapshot: MainSnapshot) -> bool:
    """Whether this very object is what the other side finds under its name.

    Only for plain functions, builtins and classes: anything else may carry state that changes between two calls.
    """
    kind = type(func)
    if kind is types.BuiltinFunctionType:
        if not isinstance(func.__self__, types.ModuleType | None):  # type: ignore[attr-defined]  # a builtin has it
            return False
    elif not (kind is types.FunctionType or isinstance(func, type)):
        return False
    if func.__module__ == "__main__":
        return snapshot.has(func)
    try:
        _dumps(func, PROTOCOL)
    except Exception as exc:
        confirm_error(exc, _dumps, func, PROTOCOL)
        return False
    return True


def confirm_error(exc: BaseException, again: Callable[..., Any], *args: Any) -> Any:
    """Do `again(*args)` once more. If it fails in the same way the payload is to blame: returns that error. Else a signal's
    handler had raised `exc` in its midst, and it is raised on.

    A signal's handler can raise in the middle: the soft limit of a task that has a pool of its own, an alarm. Taken for
    the payload's error it never reaches the code it was meant for, and the task runs on for ever. But it does not happen
    again.
    """
    try:
        again(*args)
    except (*UNREADABLE, type(exc)) as own:
        if type(own) is type(exc):
            return own.with_traceback(own.__traceback__ and own.__traceback__.tb_next)  # this frame would pin the arguments
    try:
        raise exc
    finally:
        del exc, args


def _out_of_band(kept: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    try:
        raw = buffer.raw()
    except BufferError:  # not contiguous: pickle copies it
        return True
    if raw.nbytes < _OUT_OF_BAND_FROM:
        return True
    kept.append(raw)
    return False


class _BigBytes:
    """Bytes that travel beside the pickle and arrive as bytes: pickle itself would copy them, twice on each side."""

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytes, (pickle.PickleBuffer(self.value),)


class _Array:
    """A numpy array of plain numbers, by its shape, type and memory.

    It arrives as it would by numpy's own reduction, which looks up modules and takes the type apart for each array: a quarter
    of the time of 64 KB there and back.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> Any:
        array = self.value
        return type(array), (array.shape, array.dtype.str, pickle.PickleBuffer(array))


_LIGHT: Final = frozenset((_BigBytes, _Array))
_PURE: Final = PLAIN | SIZED | _LIGHT


def lighten(obj: Any) -> Any:
    """`obj`, or what to pickle instead when it is a lot of bytes, or of numbers in an array."""
    kind = type(obj)
    if kind is bytes:
        return _BigBytes(obj) if len(obj) >= BIG_BYTES_FROM else obj
    if kind.__name__ == "ndarray" and kind.__module__ == "numpy":
        dtype = obj.dtype
        if (
            dtype.char in _NUMBERS and dtype.metadata is None and obj.flags.c_contiguous
            and kind not in copyreg.dispatch_table and not _application_has_reducers()
        ):  # fmt: skip
            return _Array(obj)
    return obj


def lighten_all(args: tuple[Any, ...]) -> tuple[tuple[Any, ...], bool]:
    """The arguments of a call, lightened, and whether they are fit for `dumps_pure`."""
    light = tuple(map(lighten, args))
    kinds = {*map(type, light)}
    pure = kinds <= _PURE and not kinds.isdisjoint(_LIGHT)
    if len(args) > 1 and _Array in kinds:
        arrays = [arg.value for arg in light if type(arg) is _Array]
        if not pure or len({*map(id, arrays)}) < len(arrays):
            # the same array twice, perhaps inside another argument: it must arrive as one, which is what pickle sees to
            return tuple(arg.value if type(arg) is _Array else arg for arg in light), False
    return light, pure


def dumps_pure(obj: Any) -> Pickled:
    """`dumps` for what was lightened and names nothing that could mean something else in the other process."""
    kept: list[pickle.PickleBuffer] = []
    pickled = _dumps(obj, PROTOCOL, buffer_callback=functools.partial(_out_of_band_if_big, kept))
    return pickled, [buffer.raw() for buffer in kept] or None


def _out_of_band_if_big(kept: list[pickle.PickleBuffer], buffer: pickle.PickleBuffer) -> bool:
    if buffer.raw().nbytes <= _ARRAY_INSIDE_TO:
        return True
    kept.append(buffer)
    return False


def dumps(obj: Any, snapshot: MainSnapshot) -> Pickled:
    """Pickle `obj`; large buffers come beside the pickle. Raises whatever pickling raises."""
    if type(obj) in _LIGHT:
        return dumps_pure(obj)
    kept: list[memoryview] = []
    return _dumps_with_care(obj, snapshot, kept), kept or None


def dumps_whole(obj: Any, snapshot: MainSnapshot) -> bytes:
    """`dumps`, with everything inside the pickle."""
    return _dumps_with_care(obj, snapshot, None)


def _dumps_with_care(obj: Any, snapshot: MainSnapshot, kept: list[memoryview] | None) -> bytes:
    """The pickle of `obj`; large buffers go to `kept`, if there is such a list."""
    if not _application_has_reducers():
        try:
            pickled = _dumps(obj, PROTOCOL, buffer_callback=_keeping(kept))
        except (pickle.PicklingError, TypeError, AttributeError):
            return _dumps_by_value(obj, snapshot, kept)  # a lambda, a socket: the slow way knows, or raises the better error
        except Exception as exc:
            confirm_error(exc, _dumps, obj, PROTOCOL)
            return _dumps_by_value(obj, snapshot, kept)
        if len(pickled) < _SHORTEST_NAMED or type(obj) is str or not _needs_care(pickled, snapshot):
            return pickled
    return _dumps_by_value(obj, snapshot, kept)


def _keeping(kept: list[memoryview] | None) -> Callable[[pickle.PickleBuffer], bool] | None:
    if kept is None:
        return None
    kept.clear()  # of an attempt that led to nothing
    return functools.partial(_out_of_band, kept)


def _application_has_reducers() -> bool:
    """Whether an application has taught ForkingPickler its types: plain pickle would not ask it.

    What the standard library and this package taught it, some of it only when a manager or a pipe is first used, is found by
    `_needs_care`, or is refused by plain pickle.
    """
    global _looked_at, _foreign
    if len(_reducers) != _looked_at:
        taught_by = [str(getattr(reducer, "__module__", "")).partition(".")[0] for reducer in _reducers.values()]
        _foreign = not {"multiprocessing", "billiard"}.issuperset(taught_by)
        _looked_at = len(_reducers)
    return _foreign


def _needs_care(pickled: bytes, snapshot: MainSnapshot) -> bool:
    if b"\x93" not in pickled:  # STACK_GLOBAL: without it the pickle names nothing, and looking for one byte is fast
        return False
    if b"__main__" in pickled and not snapshot.unchanged():
        return True
    # a Connection or a lock pickles its bare handle number without complaint; ForkingPickler knows better
    if b"multiprocessing" in pickled or b"socket" in pickled:
        return True
    return pickled.count(b"billiard") > sum(map(pickled.count, _HARMLESS))


#: Held while cloudpickle is imported, and while a process is forked that may need it.
import_lock: Final = threading.RLock()


def _import_cloudpickle() -> Any:
    with import_lock:
        import cloudpickle  # costs 20 ms: only who needs it pays

    return cloudpickle


def after_fork() -> None:
    """In a process that was forked by one of several threads: nobody here will release what another one held."""
    loaded = sys.modules.get("cloudpickle.cloudpickle")
    if hasattr(loaded, "_DYNAMIC_CLASS_TRACKER_LOCK"):
        loaded._DYNAMIC_CLASS_TRACKER_LOCK = threading.Lock()  # type: ignore[union-attr]  # it has, see above


def _dumps_by_value(obj: Any, snapshot: MainSnapshot, kept: list[memoryview] | None) -> bytes:
    cloudpickle = _import_cloudpickle()
    out, beside = io.BytesIO(), _keeping(kept)
    if hasattr(cloudpickle, "Pickler"):
        pickler = _by_value_pickler()(out, snapshot, beside)
    else:
        # a signal's handler submits, and what it interrupted is just importing cloudpickle: by name is what is left
        pickler = ForkingPickler(out, PROTOCOL, True, beside)
    pickler.dump(obj)
    return out.getvalue()


@functools.cache
def _by_value_pickler() -> Any:
    base = _import_cloudpickle().Pickler

    class ByValuePickler(base):  # type: ignore[misc, valid-type]  # built on an untyped C base
        def __init__(self, out: io.BytesIO, snapshot: MainSnapshot, buffer_callback: Any) -> None:
            # before the base's, which reads it once: set later it is an attribute that nobody looks at
            self.dispatch_table = ChainMap(
                _reducers,
                base.dispatch_table,
                copyreg.dispatch_table,
            )
            super().__init__(out, protocol=PROTOCOL, buffer_callback=buffer_callback)
            self._snapshot = snapshot

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type | types.FunctionType | _Cached) and obj.__module__ == "__main__":
                if self._snapshot.has(obj):
                    return obj.__qualname__  # by reference: the class keeps its identity
                if isinstance(obj, _Cached):
                    return _cached, (obj.__wrapped__, obj.cache_parameters())  # with a cache of its own
            return super().reducer_override(obj)

    return ByValuePickler


def _cached(func: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(func)


def read(body: Any) -> Any:
    """The value of a body that has no buffers beside it. Raises whatever rebuilding it raises."""
    return pickle.loads(body) if body[0] == PICKLED else marshal.loads(body)


def loads(pickled: Any, buffers: list[memoryview] | None = None) -> Any:
    """Rebuild what `dumps` pickled. Raises whatever unpickling raises."""
    return pickle.loads(pickled, buffers=buffers)
