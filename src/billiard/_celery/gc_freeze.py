"""What the garbage collector need not look at while legacy pools fork.

May: freeze and unfreeze. May not: collect; that is Celery's, which does so before each fork.

Celery collects before it starts a child, so that the child inherits no garbage. With everything loaded that walk takes
25 to 50 ms, in which the worker's event loop does nothing else; for children that leave after a few tasks it was half
of the worker's time. Nearly all it walks over are modules, classes and the application, which stay as long as the
worker. So what is left of the first collection is set aside for as long as a legacy pool lives, and the next walk sees
only what has come since. Children inherit that: their collections leave the pages alone which they share with the
parent.
"""

from __future__ import annotations

import gc
from weakref import WeakSet

from .._typing import Any

_pools: WeakSet[Any] = WeakSet()


def freeze(pool: Any) -> None:
    """Let collections pass over all that exists now, until `pool` and every other that asked is done."""
    if not _pools and gc.get_freeze_count():
        return  # the program does this for itself, and our `unfreeze` would undo it
    _pools.add(pool)
    gc.freeze()


def unfreeze(pool: Any) -> None:
    """`pool` forks no more. Without the last such pool everything can be collected again."""
    if pool in _pools:
        _pools.discard(pool)
        if not _pools:
            gc.unfreeze()
