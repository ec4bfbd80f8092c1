"""Public module: managers, which serve shared objects from a process of their own.

``multiprocessing``'s own, on billiard's contexts: a manager may be started by a daemonic process, and ``Pool`` makes
billiard's pool.
"""

from multiprocessing import managers as mp_managers
from multiprocessing.managers import (
    BaseProxy,
    Namespace,
    Token,
)

from ._stdlib.context import chosen
from ._stdlib.mirror import mirror
from ._typing import Any

__all__ = ["BaseManager", "BaseProxy", "Namespace", "SharedMemoryManager", "SyncManager", "Token"]

__getattr__, __dir__ = mirror("managers")


class BaseManager(mp_managers.BaseManager):
    """A server process and the types it serves. Arguments as in ``multiprocessing``."""

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(address, authkey, serializer, chosen(ctx), **kwargs)


class SyncManager(BaseManager, mp_managers.SyncManager):
    """A manager that serves what :mod:`billiard` has: queues, locks, lists, dicts, pools."""


class SharedMemoryManager(BaseManager, mp_managers.SharedMemoryManager):
    """A manager that frees the shared memory it gave out when it is shut down."""


def _pool(*args: Any, **kwargs: Any) -> Any:
    # In the server process, at first use: a manager without pools need not import them.
    from .pool import Pool

    return Pool(*args, **kwargs)


SyncManager.register("Pool", _pool, mp_managers.PoolProxy)  # type: ignore[attr-defined]  # exists, but is not published
