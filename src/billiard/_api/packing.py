"""From arguments to the bytes of a call, and from a function to the number that calls name it by.

May: pickle, in the caller's thread. May not: know a job, or hand anything to the engine but a function's pickle.
"""

from __future__ import annotations

import contextlib
import marshal
import pickle
from collections.abc import Iterable

from .._supervisor.function_table import FunctionTable
from .._typing import Any, Final
from .._wire import frames, pickling
from . import job_errors, validate

_pickled: Final = pickle.dumps
_marshalled: Final = marshal.dumps
_FORMAT: Final = pickling.MARSHAL
_PLAIN: Final = pickling.PLAIN
ITEM: Final = "item {} of the iterable"
UNPACKED: Final = frozenset((tuple, list))
_MOST_FUNCTIONS: Final = 4096  # that are numbered; calls of further ones carry theirs


class Packer:
    """Packs calls for the workers of one pool."""

    def __init__(self, snapshot: pickling.MainSnapshot, functions: FunctionTable) -> None:
        self._snapshot = snapshot
        self._functions = functions

    def pack(self, payload: Any, pure: bool = False) -> tuple[Any, int, int]:
        """The body of a call, its size, and LARGE if buffers lie beside the pickle."""
        pickled, buffers = pickling.dumps_pure(payload) if pure else pickling.dumps(payload, self._snapshot)
        if buffers is None:
            return pickled, len(pickled), 0
        return *frames.pack_large(pickled, buffers), frames.LARGE

    def explain(self, exc: Exception, func: Any, parts: Iterable[tuple[str, Any]]) -> None:
        """Add a note that says which part of a call could not be pickled. `parts`: their names and values."""
        which = next((f"{name} for " for name, value in (*parts, ("the function", func)) if not self._can_travel(value)), "")
        # where the class does not refuse it: the user's own error matters more than the note
        with contextlib.suppress(Exception):
            exc.add_note(f"while pickling {which}a call of {job_errors.name_of(func)}")

    def _can_travel(self, value: Any) -> bool:
        try:
            pickling.dumps(value, self._snapshot)
        except Exception as exc:
            pickling.confirm_error(exc, pickling.dumps, value, self._snapshot)
            return False
        return True

    def function_id(self, func: Any) -> int:
        """The number that calls name `func` by, or 0 when each call must carry it."""
        functions = self._functions
        function_id = functions.ids.get(id(func), 0)
        if not function_id and len(functions) < _MOST_FUNCTIONS and pickling.travels_by_name(func, self._snapshot):
            function_id = functions.add(func, _pickled(func, pickling.PROTOCOL))
        return function_id

    def map_function_id(self, func: Any) -> tuple[int, int]:
        """A number for a map's function, which is pickled once for all its calls also when it travels by value; and the number
        to be forgotten at the map's end, 0 for none."""
        if function_id := self.function_id(func):
            return function_id, 0
        try:
            pickled = pickling.dumps_whole(func, self._snapshot)
        except Exception as exc:
            self.explain(exc, func, [])
            raise
        function_id = self._functions.add(func, pickled, remember=False)
        return function_id, function_id

    def forget(self, function_id: int) -> None:
        """No further call will name this function."""
        self._functions.unneeded.append(function_id)


def plainly(args: tuple[Any, ...]) -> bytes | None:
    """The body of a call whose arguments refer to nothing; None if some may, or are large."""
    short = True
    for arg in args:
        if type(arg) not in _PLAIN:
            if type(arg) not in pickling.SIZED or (type(arg) is bytes and len(arg) >= pickling.BIG_BYTES_FROM):
                return None
            if len(arg) > pickling.SHORT:
                short = False
    return _marshalled(args, _FORMAT) if short else _pickled(args, pickling.PROTOCOL)


def arguments_of(at: int, item: Any) -> tuple[Any, ...]:
    """What item number `at` of a starmap unpacks to."""
    if type(item) is not tuple:
        validate.arguments(at, item)
    return tuple(item)
