"""What this process must be for us to fork it, and what is done in a child that anybody forks off it.

Such a child must not hold our ends of any channel: it would keep workers' channels, and through them whole pools, alive. One
hook for all engines of the process.
"""

from __future__ import annotations

import os
import select
import weakref

from .._typing import Any

#: id -> engine. No WeakSet: to find that empty copies twenty pages in each worker.
_engines: dict[int, weakref.ref[Any]] = {}


def remember(engine: Any) -> None:
    """Have `engine.close_in_forked_child` called in every forked child."""
    key = id(engine)
    _engines[key] = weakref.ref(engine, lambda _: _engines.pop(key, None))


def refuse_green_fork() -> None:
    """Raise RuntimeError where gevent or eventlet has replaced what a template forks and waits with. In there those would run
    this program's greenlets, and wait for ever for what only their own event loop hears of."""
    for function in (os.fork, os.waitpid, select.poll):
        library = str(function.__module__).partition(".")[0]
        if library in ("gevent", "eventlet"):
            raise RuntimeError(
                f"{library} has replaced {function.__name__} in this program, so workers cannot be forked off it: pass"
                " context=billiard.get_context('forkserver') or 'spawn'"
            )


def _in_child() -> None:
    for remembered in list(_engines.values()):
        engine = remembered()
        if engine is not None:
            engine.close_in_forked_child()
    _engines.clear()


os.register_at_fork(after_in_child=_in_child)
