"""Small portable things about descriptors, errors and memory.

A leaf: standard library only.  Module globals are looked up when a function runs, because embedders replace them.
"""

import os
import resource
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from multiprocessing import util
from os import fsdecode, fsencode

from ._typing import Any

__all__ = [
    "close_open_fds",
    "fsdecode",
    "fsencode",
    "get_errno",
    "get_fdmax",
    "isblocking",
    "maxrss_to_kb",
    "maybe_fileno",
    "mem_rss",
    "send_offset",
    "setblocking",
    "spawnv_passfds",
    "uniq",
]

_winapi: Any = None

FILENO_ERRORS = (AttributeError, ValueError, OSError)

E_PSUTIL_MISSING = "On Windows, psutil is needed to tell how much memory a process uses."
E_RESOURCE_MISSING = "This platform cannot tell how much memory a process uses."

#: Where the kernel lists the descriptors of the process that looks.
_FD_DIR = "/dev/fd" if sys.platform.startswith(("darwin", "cygwin", "freebsd", "dragonfly")) else "/proc/self/fd"


def uniq(it: Iterable[Any]) -> Iterator[Any]:
    """The items in order, each once."""
    return iter(dict.fromkeys(it))


def get_errno(exc: BaseException) -> int:
    """The error number of an exception, or 0."""
    return getattr(exc, "errno", None) or 0


def maybe_fileno(f: Any) -> int | None:
    """The descriptor of ``f`` (a number, or anything with ``fileno()``), or ``None`` if it has none."""
    if isinstance(f, int):
        return f
    try:
        number: int = f.fileno()
    except FILENO_ERRORS:
        return None
    return number


def isblocking(handle: Any) -> bool:
    """Whether reading and writing wait. Takes a number or anything with ``fileno()``."""
    return os.get_blocking(handle if isinstance(handle, int) else handle.fileno())


def setblocking(handle: Any, blocking: bool) -> None:
    """Choose whether reading and writing wait. Takes a number or anything with ``fileno()``."""
    os.set_blocking(handle if isinstance(handle, int) else handle.fileno(), bool(blocking))


def send_offset(fd: int, buf: Any, offset: int) -> int:
    """Write the bytes of ``buf`` from ``offset`` on, as many as fit, and say how many that were."""
    return os.write(fd, memoryview(buf)[offset:])


def spawnv_passfds(path: str | bytes, args: Sequence[str | bytes], passfds: Sequence[int]) -> int:
    """Start the program at ``path`` with these descriptors and return its pid."""
    return util.spawnv_passfds(os.fsencode(path), args, passfds)  # multiprocessing's takes bytes only


def get_fdmax(default: int | None = None) -> int | None:
    """One more than the highest possible descriptor, or ``default`` where there is no limit."""
    try:
        return os.sysconf("SC_OPEN_MAX")
    except (KeyError, ValueError, OSError, AttributeError):
        pass
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return default if hard == resource.RLIM_INFINITY else hard


def _dev_fd_is_fdescfs() -> bool:
    """Whether /dev/fd lists every descriptor: without that file system it shows only the first three."""
    try:
        return os.stat("/dev").st_dev != os.stat("/dev/fd").st_dev  # noqa: PTH116 - what embedders replace
    except OSError:
        return False


def _open_fds() -> list[int] | None:
    """The open descriptors in ascending order, or ``None`` where they cannot be listed."""
    if sys.platform.startswith(("freebsd", "dragonfly")) and not _dev_fd_is_fdescfs():
        return None
    try:
        names = os.listdir(_FD_DIR)  # noqa: PTH208 - what embedders replace
    except OSError:
        return None
    return sorted(int(name) for name in names if name.isdigit())


def close_open_fds(keep: Iterable[Any] | None = None) -> None:
    """Close every descriptor but those in ``keep`` (numbers, files; ``None`` and files without one are passed over)."""
    kept = {fd for fd in map(maybe_fileno, keep or ()) if fd is not None}
    open_fds = _open_fds()
    if open_fds is not None:
        for fd in open_fds:
            if fd not in kept:
                try:
                    os.close(fd)
                except OSError:
                    pass  # the listing's own descriptor, gone by now, and whatever else will not close
        return
    # One call for each gap, not for each number: the limit is a thousand million in some containers.
    highest = get_fdmax(default=2048) or 2048
    edges = [-1, *sorted(fd for fd in kept if 0 <= fd < highest), highest]
    for low, high in pairwise(edges):
        if low + 1 < high:
            os.closerange(low + 1, high)


def maxrss_to_kb(v: float) -> float:
    """Turn ``ru_maxrss`` into kilobytes: macOS reports bytes."""
    return v / 1024 if sys.platform == "darwin" else v


def mem_rss() -> float:
    """The highest resident size this process has had, in kilobytes."""
    return maxrss_to_kb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
