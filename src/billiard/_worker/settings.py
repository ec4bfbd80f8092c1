"""What a worker is told once, when it is made. Pickles, for workers that are not forked."""

from __future__ import annotations

from collections.abc import Callable

from .._typing import Any, NamedTuple


class WorkerSettings(NamedTuple):
    """The user's part of a worker's life.

    `initializer(*initargs)` runs before the first call; `on_process_exit(pid, exitcode)` as the worker's last
    act; a worker that grew by more than `max_memory_kb` kilobytes leaves after the call that did it (with
    `memory_in_total`: one that has more than those resident).
    """

    initializer: Callable[..., Any] | None = None
    initargs: tuple[Any, ...] = ()
    on_process_exit: Callable[[int, int], Any] | None = None
    max_memory_kb: int | None = None
    memory_in_total: bool = False
