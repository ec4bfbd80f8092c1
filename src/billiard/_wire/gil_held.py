"""System calls that do not block, made without releasing the GIL.

Python releases it around every system call. While other threads want it, that costs more than the call: one of them is
woken, mostly to find that the call is over and the GIL taken again. With eight threads in `apply` it was a quarter of
the time (docs/decisions/engine.md). What cannot block has no reason to let go, and what ctypes' `PyDLL` calls does not.

Nothing here raises. -1: nothing was done, for whatever reason; the same call made the ordinary way tells it. Where there is
no ctypes, or no such call, it is always -1.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Callable

from .._typing import Any, Final

try:
    import ctypes
except ImportError:  # an interpreter that was built without libffi
    ctypes = None  # type: ignore[assignment]  # asked for wherever it is used

#: What `epoll_wait` writes for each event: its mask and its descriptor. x86 packs it, by whatever name (see `setarch`).
EPOLL_EVENT: Final = struct.Struct("=Ii4x" if re.fullmatch("x86_64|i.86", os.uname().machine) else "@I0qi4x")


def _not_done(*_: Any) -> int:
    return -1


def _held(name: str, types: str) -> Callable[..., int]:
    """A function of the C library. `types`: of its result and its arguments; i: int, z: size, p: address, s: bytes."""
    try:
        function: Any = ctypes.PyDLL(None)[name]
    except Exception:  # no such call, an interpreter that is linked statically, an audit hook that forbids it
        return _not_done
    by_letter: dict[str, Any] = {"i": ctypes.c_int, "z": ctypes.c_ssize_t, "p": ctypes.c_void_p, "s": ctypes.c_char_p}
    function.restype, *function.argtypes = map(by_letter.__getitem__, types)
    return function  # type: ignore[no-any-return]  # what ctypes makes is not typed


def address_of(memory: bytearray | mmap.mmap) -> int:
    """Where `memory` lies: valid as long as its owner keeps it, and its size."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(memory))
    except Exception:  # as above; the kernel refuses to write there
        return 0


read = _held("read", "zipz")  # (descriptor, address, size)
send = _held("send", "ziszi")  # (descriptor, bytes, size, flags)
epoll_wait = _held("epoll_wait", "iipii")  # (descriptor, address, events, milliseconds)
