"""A child that anybody forks off this process must not hold our ends of any channel: it would keep workers' channels, and
through them whole pools, alive. One hook for all engines of the process."""

from __future__ import annotations

import os
import weakref

from .._typing import Any

_engines: weakref.WeakSet[Any] = weakref.WeakSet()


def remember(engine: Any) -> None:
    """Have `engine.close_in_forked_child` called in every forked child."""
    _engines.add(engine)


def _in_child() -> None:
    for engine in list(_engines):
        engine.close_in_forked_child()
    _engines.clear()


os.register_at_fork(after_in_child=_in_child)
