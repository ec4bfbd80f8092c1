"""Public module: ``ctypes`` objects in shared memory. ``multiprocessing``'s own, with locks of billiard's default context."""

from multiprocessing import sharedctypes as mp_sharedctypes
from multiprocessing.sharedctypes import RawArray, RawValue, copy

from ._stdlib.context import chosen
from ._stdlib.mirror import mirror
from ._typing import Any

__all__ = ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"]

__getattr__, __dir__ = mirror("sharedctypes")


def Value(typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any = None) -> Any:  # noqa: N802 - the published name
    """A shared value with a lock: ``True`` or ``None`` makes one, ``False`` makes the bare object."""
    return mp_sharedctypes.Value(typecode_or_type, *args, lock=lock, ctx=chosen(ctx))


def Array(typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True, ctx: Any = None) -> Any:  # noqa: N802 - the published name
    """A shared array with a lock: ``True`` or ``None`` makes one, ``False`` makes the bare object."""
    return mp_sharedctypes.Array(typecode_or_type, size_or_initializer, lock=lock, ctx=chosen(ctx))


def synchronized(obj: Any, lock: Any = None, ctx: Any = None) -> Any:
    """A wrapper that pairs a shared object with a lock."""
    return mp_sharedctypes.synchronized(obj, lock, chosen(ctx))
