"""Door: how a process is started with a fresh interpreter. ``multiprocessing``'s own."""

from multiprocessing.popen_spawn_posix import Popen

from ._stdlib.mirror import mirror

__all__ = ["Popen"]

__getattr__, __dir__ = mirror("popen_spawn_posix")
