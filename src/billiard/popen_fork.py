"""Public module: how a process is started with fork. ``multiprocessing``'s own: the very same module."""

from multiprocessing.popen_fork import Popen

from ._stdlib.mirror import become

__all__ = ["Popen"]

become(__name__)
