"""Public module: how a process is started with a fresh interpreter. ``multiprocessing``'s own: the very same module."""

from multiprocessing.popen_spawn_posix import Popen

from ._stdlib.mirror import become

__all__ = ["Popen"]

become(__name__)
