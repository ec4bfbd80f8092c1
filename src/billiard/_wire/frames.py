"""The frame: a fixed header, then a body.

    kind  u8    what it is, with flags in the high bits
    tag   u32   CALL: function id.  RESULT, ERROR: run time in microseconds
    number u64  the call it is, or the result of; per worker, counted from 1, never reused
    size  u64   bytes of body: they follow, or come by another way (BY_SOCKET)

The number stands in the header, outside the pickle, so that a body which cannot be
unpickled still tells whose it is (a poisoned payload then fails one call, not the pool).

A frame whose kind carries LARGE holds pickle-5 buffers outside the pickle:

    u32 count, u32 0, u64 pickle size, u64 buffer size x count, pickle, then each buffer at a multiple of 16
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .._typing import Final

Buffer = bytes | bytearray | memoryview

HEADER: Final = struct.Struct("<BIQQ")
HEADER_SIZE: Final = HEADER.size

IN_PIPE: Final = 1 << 15  # the largest body that a worker sends through the pipe

LARGE: Final = 0x80  # the body has out-of-band buffers
BY_SOCKET: Final = 0x40  # from a worker: the body does not follow, it comes by the socket (see billiard._wire.far_end)
ACCEPT: Final = 0x40  # to a worker: it says when it takes this call
SYNACK: Final = 0x20  # ... and then waits for a VERDICT before it runs it
TIMED: Final = 0x10  # of MAP and STARMAP: limits count for each item, so the start of each goes on the scoreboard
KIND: Final = 0x0F

# parent -> worker
CALL: Final = 1  # body: the arguments, a tuple, see billiard._wire.pickling.read
KWCALL: Final = 2  # body: pickle of (args, kwds), or of (function, args, kwds) when tag is 0
MAP: Final = 3  # body: pickle of a list of items, the function is called with each
STARMAP: Final = 4  # the same, each item unpacked
FUNCTION: Final = 5  # tag: its id; body: its pickle. Sent once per worker, before first use
FORGET: Final = 6  # tag: the id of a function that no further call will name
RESUME: Final = 7  # number: the recall that is over; later frames are to be run again
VERDICT: Final = 8  # tag: 1 run the call that was accepted, 0 drop it
RETIRE: Final = 9  # tag: exit status; no frame follows

# worker -> parent. Only RESULT and ERROR name their call in the header: whatever else comes has number 0 there, so
# the parent's loop over results tells the two apart by the look-up that it must do anyway.
READY: Final = 1  # initialised
RESULT: Final = 2  # body: the value, see billiard._wire.pickling.read
ERROR: Final = 3  # body: see billiard._wire.errors
ACCEPTED: Final = 4  # the call was taken; body: about(number, monotonic nanoseconds)
SKIPPED: Final = 5  # body: about(the first call that a recall kept from running)
LEAVING: Final = 6  # the worker leaves on its own; body: about(the last call it ran)
FAILED: Final = 7  # the initializer raised; body: an error body
DROPPED: Final = 8  # a call was dropped on a VERDICT; body: about(number)
LAST_KIND: Final = DROPPED

ACK: Final = 0  # what an owner of a pool answers for a VERDICT (`send_ack`), by the numbers that billiard 4 has published
NACK: Final = 3

_ABOUT: Final = struct.Struct("<QQ")
ABOUT_SIZE: Final = _ABOUT.size

_LARGE_HEAD = struct.Struct("<IIQ")
_ALIGNMENT: Final = 16
_KEPT_PART: Final = 16


class FrameError(Exception):
    """What arrived is no frame: the sender is broken or hostile, its channel cannot be trusted again."""


def frame(kind: int, tag: int, number: int, body: bytes = b"") -> bytes:
    """The bytes of a frame whose body follows its header."""
    return HEADER.pack(kind, tag, number, len(body)) + body


def about(kind: int, number: int, value: int = 0) -> bytes:
    """A frame from a worker that speaks of call `number` without being its result."""
    return frame(kind, 0, 0, _ABOUT.pack(number, value))


def read_about(body: Buffer) -> tuple[int, int]:
    """Number and value of an `about` frame. Raises FrameError when the body is none."""
    if len(body) != _ABOUT.size:
        raise FrameError(f"a frame about a call has {len(body)} bytes of body")
    number, value = _ABOUT.unpack(body)
    return number, value


def pack_large(pickled: Buffer, buffers: Sequence[memoryview]) -> tuple[list[Buffer], int]:
    """Lay out a pickle and its out-of-band buffers.

    Returns the parts to be sent one after the other and the size of the body they form.
    """
    sizes = [buffer.nbytes for buffer in buffers]
    head = _LARGE_HEAD.pack(len(sizes), 0, len(pickled)) + struct.pack(f"<{len(sizes)}Q", *sizes)
    parts: list[Buffer] = [head, pickled]
    size = len(head) + len(pickled)
    for buffer in buffers:
        # numpy faults or slows down on unaligned data: every buffer starts at a multiple of 16 of the *frame*
        padding = -(HEADER_SIZE + size) % _ALIGNMENT
        if padding:
            parts.append(bytes(padding))
        parts.append(buffer)
        size += padding + buffer.nbytes
    return parts, size


def unpack_large(body: memoryview) -> tuple[memoryview, list[memoryview]]:
    """Take a LARGE body apart: its pickle and its buffers, as views. Raises FrameError for sizes that do not fit."""
    if len(body) < _LARGE_HEAD.size:
        raise FrameError("large body without its head")
    count, _, pickle_size = _LARGE_HEAD.unpack_from(body)
    at = _LARGE_HEAD.size + 8 * count
    if at + pickle_size > len(body):
        raise FrameError(f"large body of {len(body)} bytes claims {count} buffers and a pickle of {pickle_size}")
    sizes = struct.unpack_from(f"<{count}Q", body, _LARGE_HEAD.size)
    pickled = body[at : at + pickle_size]
    at += pickle_size
    buffers = []
    for size in sizes:
        at += -(HEADER_SIZE + at) % _ALIGNMENT
        if at + size > len(body):
            raise FrameError(f"large body of {len(body)} bytes has no room for a buffer of {size}")
        buffer = body[at : at + size]
        # a small one that is kept would keep all of a large body with it
        buffers.append(memoryview(bytearray(buffer)) if size < len(body) // _KEPT_PART else buffer)
        at += size
    return pickled, buffers
