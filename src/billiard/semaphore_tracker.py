"""Public module: the process that unlinks named semaphores that were left behind.

It is ``multiprocessing``'s resource tracker, so that there is one such process and not two.
"""

from multiprocessing import resource_tracker as _tracker
from multiprocessing.resource_tracker import ResourceTracker as SemaphoreTracker

__all__ = ["SemaphoreTracker", "ensure_running", "getfd", "main", "register", "unregister"]

_semaphore_tracker = _tracker._resource_tracker
ensure_running = _tracker.ensure_running
getfd = _tracker.getfd
main = _tracker.main


def register(name: str) -> None:
    """Unlink the semaphore called ``name`` when the last process of this family has gone."""
    _tracker.register(name, "semaphore")


def unregister(name: str) -> None:
    """Forget it: it has been unlinked."""
    _tracker.unregister(name, "semaphore")
