"""Public module: connections between threads. ``multiprocessing``'s own."""

from multiprocessing.dummy.connection import Client, Connection, Listener, Pipe

from .._stdlib.mirror import mirror

__all__ = ["Client", "Connection", "Listener", "Pipe"]

__getattr__, __dir__ = mirror("dummy.connection")
