"""Public module: it removes what a family of processes left behind. ``multiprocessing``'s own: the very same module."""

from multiprocessing.resource_tracker import ensure_running, register, unregister

from ._stdlib.mirror import become

__all__ = ["ensure_running", "register", "unregister"]

become(__name__)
