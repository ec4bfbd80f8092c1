"""Door: named blocks of shared memory. ``multiprocessing``'s own."""

from multiprocessing.shared_memory import ShareableList, SharedMemory

from ._stdlib.mirror import mirror

__all__ = ["ShareableList", "SharedMemory"]

__getattr__, __dir__ = mirror("shared_memory")
