"""Door: hands duplicates of descriptors to other processes. ``multiprocessing``'s own."""

from multiprocessing.resource_sharer import DupFd, stop

from ._stdlib.mirror import mirror

__all__ = ["DupFd", "stop"]

__getattr__, __dir__ = mirror("resource_sharer")
