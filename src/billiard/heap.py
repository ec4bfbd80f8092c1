"""Public module: blocks of shared memory."""

import ctypes
from multiprocessing import heap as mp_heap
from multiprocessing.heap import Arena, Heap

from ._stdlib.mirror import mirror
from ._typing import Any

__all__ = ["Arena", "BufferWrapper", "Heap"]

__getattr__, __dir__ = mirror("heap")


class BufferWrapper(mp_heap.BufferWrapper):
    """A block of shared memory, freed with the last reference."""

    _state: Any

    def get_address(self) -> int:
        """Where the block is mapped in this process."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.create_memoryview()))

    def get_size(self) -> int:
        """Its size in bytes."""
        size: int = self._state[1]
        return size
