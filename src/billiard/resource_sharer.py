"""Public module: hands duplicates of descriptors to other processes. ``multiprocessing``'s own: the very same module."""

from multiprocessing.resource_sharer import DupFd, stop

from ._stdlib.mirror import become

__all__ = ["DupFd", "stop"]

become(__name__)
