"""Public module: named blocks of shared memory. ``multiprocessing``'s own: the very same module."""

from multiprocessing.shared_memory import ShareableList, SharedMemory

from ._stdlib.mirror import become

__all__ = ["ShareableList", "SharedMemory"]

become(__name__)
