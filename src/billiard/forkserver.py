"""Public module: the server that processes are forked from. ``multiprocessing``'s own: the very same module."""

from multiprocessing.forkserver import connect_to_new_process, ensure_running, get_inherited_fds, set_forkserver_preload

from ._stdlib.mirror import become

__all__ = ["connect_to_new_process", "ensure_running", "get_inherited_fds", "set_forkserver_preload"]

become(__name__)
