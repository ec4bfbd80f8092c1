"""Names that others replace in `billiard.pool` while the program runs.

May: look them up there, at the moment of use. May not: import that module, which lies above this layer.

``celery.worker.components`` sets ``billiard.pool.Lock`` to a dummy before it makes its pool, since one event loop needs
no locks; programs and tests replace ``billiard.pool._kill``. A name bound here at import would never notice.
"""

from __future__ import annotations

import os
import sys
import threading

from .._typing import Any

_DEFAULTS: dict[str, Any] = {"Lock": threading.Lock, "_kill": os.kill}


def _current(name: str) -> Any:
    """What ``billiard.pool.<name>`` is right now."""
    return getattr(sys.modules.get("billiard.pool"), name, _DEFAULTS[name])


def new_lock() -> Any:
    """A lock of the kind chosen for this program. Use it with ``with`` only: Celery's dummy can do nothing else."""
    return _current("Lock")()


def kill(pid: int, signum: int) -> None:
    """`os.kill`, unless somebody has put something in its place."""
    _current("_kill")(pid, signum)
