"""Have malloc keep the memory that payloads need again and again.

glibc maps a large block anew each time, and gives the end of its heap back to the kernel as soon as a little is free there. A
payload then faults in page by page, several times on its way, at 1 to 4 us a page (docs/decisions/engine.md has what that
costs). glibc raises both thresholds by itself, to once and twice the largest block that was mapped and freed. But two or three
copies of a payload are free at a time, which may be more than that. So a block twice as large is mapped and freed, untouched.
What is kept is at most four times the largest payload that has come.
"""

from __future__ import annotations

from .._typing import Final

_MOST: Final = 1 << 23  # a larger payload leaves nothing behind

_room = 0


def keep_room_for(size: int) -> None:
    """A payload of `size` bytes has come, and more of its kind may follow."""
    global _room
    if _room < size <= _MOST:
        _room = 1 << size.bit_length()
        try:
            bytes(2 * _room)
        except MemoryError:
            pass  # an address space limit: it works without


# glibc's first threshold lies just above that: now, and not in the midst of the first payload that reaches it
keep_room_for((1 << 17) - 1)
