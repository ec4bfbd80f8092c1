"""Public module: locks and their kin, shared by processes.

``multiprocessing``'s own, which take a context by keyword only; here it may be positional, or left out.
"""

from collections.abc import Callable
from multiprocessing import synchronize as mp_synchronize
from multiprocessing.synchronize import SEM_VALUE_MAX  # type: ignore[attr-defined]  # exists, but is not published

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


class SemLock(mp_synchronize.SemLock):
    """What the locks and semaphores below are made of. ``kind`` is ``RECURSIVE_MUTEX`` or ``SEMAPHORE``."""

    def __init__(self, kind: int, value: int, maxvalue: int, ctx: Any = None) -> None:
        super().__init__(kind, value, maxvalue, ctx=chosen(ctx))


# Of the two bases the second is one for `isinstance` only: the first calls the standard library's SemLock by its name.
class Semaphore(mp_synchronize.Semaphore, SemLock):
    """A semaphore."""

    def __init__(self, value: int = 1, ctx: Any = None) -> None:
        super().__init__(value, ctx=chosen(ctx))


class BoundedSemaphore(mp_synchronize.BoundedSemaphore, SemLock):
    """A semaphore that refuses to be released more often than it was acquired."""

    def __init__(self, value: int = 1, ctx: Any = None) -> None:
        super().__init__(value, ctx=chosen(ctx))


class Lock(mp_synchronize.Lock, SemLock):
    """A lock, which any process may release."""

    def __init__(self, ctx: Any = None) -> None:
        super().__init__(ctx=chosen(ctx))


class RLock(mp_synchronize.RLock, SemLock):
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
