"""Door: how a process is started with fork. ``multiprocessing``'s own."""

from multiprocessing.popen_fork import Popen

from ._stdlib.mirror import mirror

__all__ = ["Popen"]

__getattr__, __dir__ = mirror("popen_fork")
