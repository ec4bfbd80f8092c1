"""What a worker of Celery's pool does before Celery's own initializer. Runs in the worker; imports nothing of the parent's.

A worker is a fork of Celery's main process as it was when the pool was made, and so has that process's signal handlers
and its event loop. Both are the parent's affair.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from .._typing import Any, Final

#: Celery's own initializer resets SIGTERM, SIGHUP, SIGUSR1 and ignores SIGINT; SIGQUIT it leaves with the
#: handler of the parent's cold shutdown, which in a child would shut down a worker that is not there.
PARENTS_SIGNALS: Final = (signal.SIGQUIT, signal.SIGHUP)


def initialize(initializer: Callable[..., Any], *initargs: Any) -> None:
    """Leave the parent's affairs to the parent, then call Celery's initializer."""
    for signum in PARENTS_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    _leave_event_loop()
    initializer(*initargs)


def _leave_event_loop() -> None:
    kombu = sys.modules.get("kombu.asynchronous")
    hub = kombu.get_event_loop() if kombu is not None else None
    if kombu is not None and hub is not None:
        # Only the descriptor: unregistering would change the poll set itself, which the parent polls.
        poller = getattr(hub, "_poller", None)
        if poller is not None:
            poller.close()
        kombu.set_event_loop(None)
