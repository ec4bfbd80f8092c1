"""Door: the process that removes what a family of processes left behind. ``multiprocessing``'s own."""

from multiprocessing.resource_tracker import ensure_running, register, unregister

from ._stdlib.mirror import mirror

__all__ = ["ensure_running", "register", "unregister"]

__getattr__, __dir__ = mirror("resource_tracker")
