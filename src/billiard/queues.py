"""Public module: queues between processes."""

from queue import Empty, Full

from ._stdlib.mirror import mirror
from ._stdlib.queues import JoinableQueue, Queue, SimpleQueue, _SimpleQueue

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "SimpleQueue", "_SimpleQueue"]

__getattr__, __dir__ = mirror("queues")
