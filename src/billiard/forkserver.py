"""Door: the server that processes are forked from. ``multiprocessing``'s own."""

from multiprocessing.forkserver import connect_to_new_process, ensure_running, get_inherited_fds, set_forkserver_preload

from ._stdlib.mirror import mirror

__all__ = ["connect_to_new_process", "ensure_running", "get_inherited_fds", "set_forkserver_preload"]

__getattr__, __dir__ = mirror("forkserver")
