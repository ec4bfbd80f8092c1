"""Door: how a process is started by the fork server. ``multiprocessing``'s own."""

from multiprocessing.popen_forkserver import Popen

from ._stdlib.mirror import mirror

__all__ = ["Popen"]

__getattr__, __dir__ = mirror("popen_forkserver")
