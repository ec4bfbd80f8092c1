"""Public module: locks and their kin, shared by processes.

``multiprocessing``'s own, which take a context by keyword only; here it may be positional, or left out.
"""

from collections.abc import Callable
from multiprocessing import synchronize as mp_synchronize
from multiprocessing.synchronize import SEM_VALUE_MAX, SemLock  # type: ignore[attr-defined]  # not all is published

from ._stdlib.context import chosen
from ._stdlib.mirror import mirror
from ._typing import Any

__all__ = [
    "SEM_VALUE_MAX",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Lock",
    "RLock",
    "SemLock",
    "Semaphore",
]

__getattr__, __dir__ = mirror("synchronize")


class Semaphore(mp_synchronize.Semaphore):
    """A semaphore."""

    def __init__(self, value: int = 1, ctx: Any = None) -> None:
        super().__init__(value, ctx=chosen(ctx))


class BoundedSemaphore(mp_synchronize.BoundedSemaphore):
    """A semaphore that refuses to be released more often than it was acquired."""

    def __init__(self, value: int = 1, ctx: Any = None) -> None:
        super().__init__(value, ctx=chosen(ctx))


class Lock(mp_synchronize.Lock):
    """A lock, which any process may release."""

    def __init__(self, ctx: Any = None) -> None:
        super().__init__(ctx=chosen(ctx))


class RLock(mp_synchronize.RLock):
    """A lock that its owner may take again."""

    def __init__(self, ctx: Any = None) -> None:
        super().__init__(ctx=chosen(ctx))


class Condition(mp_synchronize.Condition):
    """A condition variable, with ``notify(n)``."""

    def __init__(self, lock: Any = None, ctx: Any = None) -> None:
        super().__init__(lock, ctx=chosen(ctx))


class Event(mp_synchronize.Event):
    """An event."""

    def __init__(self, ctx: Any = None) -> None:
        super().__init__(ctx=chosen(ctx))


class Barrier(mp_synchronize.Barrier):
    """A barrier."""

    def __init__(
        self,
        parties: int,
        action: Callable[[], Any] | None = None,
        timeout: float | None = None,
        ctx: Any = None,
    ) -> None:
        super().__init__(parties, action, timeout, ctx=chosen(ctx))
