"""Public module: how a process is started by the fork server. ``multiprocessing``'s own: the very same module."""

from multiprocessing.popen_forkserver import Popen

from ._stdlib.mirror import become

__all__ = ["Popen"]

become(__name__)
