"""Door: queues between processes."""

from multiprocessing.queues import JoinableQueue, Queue
from queue import Empty, Full

from ._stdlib.mirror import mirror
from ._stdlib.queues import SimpleQueue, _SimpleQueue

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "SimpleQueue", "_SimpleQueue"]

__getattr__, __dir__ = mirror("queues")
