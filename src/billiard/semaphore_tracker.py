"""Public module: the process that unlinks named semaphores that were left behind.

It is ``multiprocessing``'s resource tracker, so that there is one such process and not two.
"""

from multiprocessing import resource_tracker as _tracker

from ._typing import Any

__all__ = ["SemaphoreTracker", "ensure_running", "getfd", "main", "register", "unregister"]

main = _tracker.main


class SemaphoreTracker:
    """The resource tracker as one that knows of semaphores only, and so asks for a name and no type."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_tracker._resource_tracker, name)

    def register(self, name: str) -> None:
        """Unlink the semaphore called ``name`` when the last process of this family has gone."""
        _tracker.register(name, "semaphore")

    def unregister(self, name: str) -> None:
        """Forget it: it has been unlinked."""
        _tracker.unregister(name, "semaphore")


_semaphore_tracker = SemaphoreTracker()
ensure_running = _semaphore_tracker.ensure_running
getfd = _semaphore_tracker.getfd
register = _semaphore_tracker.register
unregister = _semaphore_tracker.unregister
