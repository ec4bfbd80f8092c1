"""Who gets which pool: the engine for everybody, the legacy pool for classes that override its hooks.

May: look at a class statement. May not: look at how a pool is used.

    class Mine(Pool): ...                             a plain subclass: Mine -> Pool -> engine
    class AsynPool(Pool): def get_process_queues...   overrides a hook: AsynPool -> LegacyPool -> Pool -> LegacyPoolBody

A legacy pool's method resolution order leaves the engine out: its instances are not engines in part, and no attribute of the
engine can come between AsynPool and the bodies it expects to find. `Pool` stays in the order, so that ``issubclass``
holds, and before the bodies, so that ``mock.patch("billiard.pool.Pool._create_worker_process")`` wins as it always did.

The legacy pool is imported when the first such class comes: who only wants the engine does not pay for it.
"""

from __future__ import annotations

from .._api.pool import Pool as Engine
from .._typing import Any

#: Overriding any of these means to take part in the legacy pool's inner life. (`on_job_ready` and `send_ack` are not
#: here: they are published, and overriding one says nothing. The engine uses `send_ack`, and never calls `on_job_ready`.)
HOOKS = frozenset(
    {
        "ResultHandler",
        "Supervisor",
        "TaskHandler",
        "TimeoutHandler",
        "Worker",
        "WorkerProcess",
        "_create_worker_process",
        "_help_stuff_finish",
        "_help_stuff_finish_args",
        "_process_cleanup_queues",
        "_process_register_queues",
        "_set_result_sentinel",
        "_setup_queues",
        "_stop_task_handler",
        "create_result_handler",
        "get_process_queues",
        "on_job_process_down",
        "on_job_process_lost",
        "on_partial_read",
        "process_flush_queues",
    }
)


#: The legacy pool and its bodies, once somebody has asked for them.
_legacy_pool: PoolType | None = None
_bodies: tuple[type, ...] = ()


class PoolType(type):
    """The class of `Pool` and of all that is derived from it."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, chosen: bool = False) -> PoolType:
        if not chosen and _overrides_hooks(bases, namespace):
            legacy = legacy_pool()
            bases = tuple(legacy if base is Pool else base for base in bases)
            if legacy not in bases:  # derived from a plain subclass
                bases = (*bases, legacy)
        return super().__new__(mcls, name, bases, namespace)

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, chosen: bool = False) -> None:
        super().__init__(name, bases, namespace)

    def mro(cls) -> list[type]:
        order = super().mro()
        if not _bodies or _bodies[0] not in order:
            return order
        return [c for c in order if c in _bodies or not issubclass(Engine, c)]

    def __getattr__(cls, name: str) -> Any:
        """A name of the contract asked of the class: to be patched, or called with mocks. Not seen by instances."""
        if name.startswith("__"):
            raise AttributeError(name)
        legacy_pool()
        try:
            return getattr(_bodies[0], name)
        except AttributeError:
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}") from None


def _overrides_hooks(bases: tuple[type, ...], namespace: dict[str, Any]) -> bool:
    if _legacy_pool is not None and any(issubclass(base, _legacy_pool) for base in bases):
        return False  # chosen already
    if HOOKS & namespace.keys():
        return True
    mixins = [base for base in bases if not issubclass(base, Pool)]
    return any(HOOKS & vars(part).keys() for mixin in mixins for part in mixin.__mro__)


class Pool(Engine, metaclass=PoolType, chosen=True):
    __doc__ = Engine.__doc__


def legacy_pool() -> PoolType:
    """The pool that Celery's AsynPool is made of."""
    global _legacy_pool, _bodies
    if _legacy_pool is None:
        from .pool import LegacyPoolBody

        _bodies = LegacyPoolBody.__mro__
        _legacy_pool = PoolType("LegacyPool", (Pool, LegacyPoolBody), {"__module__": __name__}, chosen=True)
    return _legacy_pool


Pool.__module__ = "billiard.pool"  # where users know it from
