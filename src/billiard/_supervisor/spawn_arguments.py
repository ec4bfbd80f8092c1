"""How a worker's arguments reach a process that multiprocessing spawns, and what that process does first with them.

Both sides import this: the parent to pickle them, the new interpreter to rebuild them.
"""

from __future__ import annotations

import pickle
import socket
from multiprocessing.reduction import DupFd, ForkingPickler

from .._typing import Any
from .._wire.descriptors import Holder, beyond_standard, fill_standard, open_memory
from .._wire.far_end import FarEnd
from .._wire.pickling import PROTOCOL
from .._worker.main import serve_spawned
from .._worker.settings import WorkerSettings


class InMemory(Holder):
    """An argument that may be large. In `Process.start` it would go through a pipe, and from 64 KB on wait there until the new
    interpreter has imported `__main__`: the pool would stand still for so long, and its limits with it."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._fds = []  # kept open until the process has been started

    def __reduce__(self) -> Any:
        open_memory(self._fds, "billiard-settings")
        with open(self._fds[-1], "wb", closefd=False) as file:
            # pickled here and now: locks and queues let themselves be pickled only while a process is being started
            ForkingPickler(file, PROTOCOL).dump(self._value)
        return _loaded, (DupFd(self._fds[-1]),)


def _loaded(dup: Any) -> Any:
    with open(dup.detach(), "rb") as file:  # noqa: PTH123 - by its number
        file.seek(0)
        return pickle.load(file)


class FdArgument:
    """A descriptor as an argument of a process that is being started."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> Any:
        return _fd_of, (DupFd(self._fd),)


def _fd_of(dup: Any) -> int:
    return int(dup.detach())


def serve_with_fds(
    sock: socket.socket, pipe_fd: int, scoreboard_fd: int, lifeline_fd: int, settings: WorkerSettings, importable_main: bool
) -> None:  # fmt: skip
    """The target of the process. Each descriptor is its own argument, since each has to be duplicated into that process."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, beyond_standard(sock.detach()))
    pipe_fd, scoreboard_fd, lifeline_fd = map(beyond_standard, (pipe_fd, scoreboard_fd, lifeline_fd))
    fill_standard()
    serve_spawned(FarEnd(sock, [pipe_fd]), scoreboard_fd, lifeline_fd, settings, importable_main)
