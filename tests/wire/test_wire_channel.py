"""The parent's end of a channel: cut anywhere, slow, garbled, hostile."""

import random
import socket
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billiard._wire import frames
from billiard._wire.channel import Channel, socket_pair

BODIES = st.lists(st.binary(max_size=300), max_size=12)


@pytest.fixture
def ends():
    ours, theirs = socket_pair()
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


def drain(channel):
    """All that has arrived: (kind, tag, number, body as bytes)."""
    got = []
    while True:
        received, mark = channel.receive()
        got += [(kind, tag, number, bytes(body)) for kind, tag, number, body in received]
        if received:
            channel.consume(mark)
        if channel.empty or channel.closed_by_peer:
            return got


def stream_of(bodies):
    return b"".join(frames.frame(frames.RESULT, i, i + 1, body) for i, body in enumerate(bodies)), [
        (frames.RESULT, i, i + 1, body) for i, body in enumerate(bodies)
    ]


def test_cut_at_every_byte():
    stream, expected = stream_of([b"", b"one", b"x" * 40, b"", b"last"])
    for cut in range(len(stream) + 1):
        ours, theirs = socket_pair()
        channel = Channel(ours)
        theirs.sendall(stream[:cut])
        got = drain(channel)
        assert got == expected[: len(got)]
        theirs.sendall(stream[cut:])
        assert got + drain(channel) == expected
        channel.close()
        theirs.close()


def test_truncated_at_every_byte():
    stream, expected = stream_of([b"one", b"two" * 20])
    for cut in range(len(stream) + 1):
        ours, theirs = socket_pair()
        channel = Channel(ours)
        theirs.sendall(stream[:cut])
        theirs.close()
        got = drain(channel)
        assert channel.closed_by_peer
        assert got == expected[: len(got)]
        channel.close()


@pytest.mark.parametrize("size", [1 << 15, (1 << 16) - frames.HEADER_SIZE, 1 << 16, (1 << 16) + 1, 1 << 20, 5_000_000])
@pytest.mark.parametrize("piece", [977, 1 << 14, 1 << 18])
def test_large_frames_in_pieces(ends, size, piece):
    channel, theirs = ends
    body = random.Random(size).randbytes(size)
    stream = frames.frame(frames.RESULT, 0, 1, b"before") + frames.frame(frames.RESULT, 0, 2, body)
    stream += frames.frame(frames.RESULT, 0, 3, b"behind")
    theirs.setblocking(False)
    got, sent = [], 0
    while sent < len(stream):
        try:
            sent += theirs.send(stream[sent : sent + piece])
        except BlockingIOError:
            pass
        got += drain(channel)
    got += drain(channel)
    assert [(number, body) for _, _, number, body in got] == [(1, b"before"), (2, body), (3, b"behind")]


@pytest.mark.parametrize("there", [0, 1, frames.HEADER_SIZE - 1, frames.HEADER_SIZE, frames.HEADER_SIZE + 1, 36, 37])
def test_the_read_buffer_ends_in_the_middle_of_a_small_frame(ends, there):
    """Of any kind: a worker was taken for a hostile one, and killed, for an ACCEPTED that lay across the buffer's end."""
    channel, theirs = ends
    body = bytes((1 << 16) - frames.HEADER_SIZE - there)
    about = frames.about(frames.ACCEPTED, 2, 5)
    theirs.sendall(frames.frame(frames.RESULT, 0, 1, body) + about + frames.frame(frames.RESULT, 0, 2, b"behind"))
    assert drain(channel) == [
        (frames.RESULT, 0, 1, body), (frames.ACCEPTED, 0, 0, about[frames.HEADER_SIZE :]), (frames.RESULT, 0, 2, b"behind"),
    ]  # fmt: skip


def test_receiving_is_repeatable_until_consumed(ends):
    channel, theirs = ends
    stream, expected = stream_of([b"a", b"b"])
    theirs.sendall(stream)
    first, _ = channel.receive()
    again, mark = channel.receive()
    assert [tuple(frame) for frame in first] == [tuple(frame) for frame in again] == expected
    channel.consume(mark)
    assert drain(channel) == []


@settings(max_examples=60, deadline=None)
@given(BODIES, st.data())
def test_any_stream_in_any_pieces(bodies, data):
    stream, expected = stream_of(bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    ours, theirs = socket_pair()
    channel, got = Channel(ours), []
    try:
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            theirs.sendall(stream[start:stop])
            got += drain(channel)
        assert got == expected
    finally:
        channel.close()
        theirs.close()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600))
def test_garbage_never_crashes_nor_hangs(garbage):
    ours, theirs = socket_pair()
    channel = Channel(ours)
    try:
        theirs.sendall(garbage)
        theirs.close()
        for _ in range(700):
            try:
                received, mark = channel.receive()
            except frames.FrameError:
                break
            if received:
                channel.consume(mark)
            if channel.closed_by_peer:
                break
        else:
            raise AssertionError("it never came to an end")
    finally:
        channel.close()
        theirs.close()


@pytest.mark.parametrize("claimed", [1 << 26, 1 << 34, 1 << 50, (1 << 64) - 1])
@pytest.mark.parametrize("arrived", [0, 1000, 20 << 20])
def test_memory_is_not_committed_on_a_headers_word(ends, claimed, arrived):
    channel, theirs = ends
    tracemalloc.start()
    try:
        theirs.sendall(frames.header(frames.RESULT, 0, 1, claimed))
        theirs.setblocking(False)
        block, left = bytes(1 << 16), arrived
        while left > 0:
            try:
                left -= theirs.send(block[:left])
            except BlockingIOError:
                pass
            try:
                channel.receive()
            except frames.FrameError:
                return  # refused: nothing committed at all
        try:
            channel.receive()
        except frames.FrameError:
            return
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # growing a bytearray may hold the old and the new one for a moment
    assert peak <= 1.6 * max(16 << 20, 2 * arrived) + (2 << 20)


def test_sending_what_the_socket_does_not_take(ends):
    channel, theirs = ends
    parts = [frames.header(frames.CALL, 0, 1, 12 << 20), bytes(4 << 20), bytearray(8 << 20)]
    channel.outgoing = channel.prepare(parts)
    channel.flush()
    assert channel.busy
    got = 0
    while got < frames.HEADER_SIZE + (12 << 20):
        got += len(theirs.recv(1 << 20))
        channel.flush()
    assert not channel.busy


def test_many_parts(ends):
    channel, theirs = ends
    parts = [bytes([i % 256]) * 100 for i in range(3000)]
    channel.outgoing = channel.prepare(parts)
    got = b""
    while len(got) < 300_000:
        channel.flush()
        got += theirs.recv(1 << 20)
    assert got == b"".join(parts)


def test_own_copies_what_the_caller_may_change(ends):
    channel, theirs = ends
    block = bytearray(b"x" * (8 << 20))
    channel.outgoing = channel.prepare([frames.header(frames.CALL, 0, 1, len(block)), block])
    channel.flush()
    assert channel.busy
    channel.own()
    block[:] = b"y" * len(block)
    got = bytearray()
    while len(got) < frames.HEADER_SIZE + len(block):
        got += theirs.recv(1 << 20)
        channel.flush()
    assert got[frames.HEADER_SIZE :].count(b"y") == 0


def test_what_is_written_to_nobody_is_dropped(ends):
    channel, theirs = ends
    theirs.close()
    channel.outgoing = channel.prepare([b"x" * 100])
    channel.flush()
    assert not channel.busy
    assert not channel.busy


def test_a_channel_has_no_name_and_does_not_block():
    ours, theirs = socket_pair()
    assert ours.family is socket.AF_UNIX
    assert ours.getsockname() == theirs.getsockname() == ""
    assert not ours.getblocking()
    assert not ours.get_inheritable()
    assert not theirs.get_inheritable()
    ours.close()
    theirs.close()


@pytest.mark.parametrize("at", range(40))
def test_an_exception_at_any_line_of_receiving_loses_nothing(at):
    """What a signal handler's exception does to `receive` and `flush`, at each of their first forty lines."""
    import sys

    ours, theirs = socket_pair()
    channel = Channel(ours)
    stream, expected = stream_of([b"a" * 10, b"b" * 100_000, b"c"])
    theirs.setblocking(False)
    got, sent, lines = [], 0, 0

    class StruckError(Exception):
        pass

    def trace(frame, event, arg):
        nonlocal lines
        if frame.f_code.co_filename.endswith("channel.py") and event == "line":
            lines += 1
            if lines == at + 1:
                raise StruckError
        return trace

    try:
        while sent < len(stream) or len(got) < 3:
            try:
                sent += theirs.send(stream[sent : sent + 30_000])
            except BlockingIOError:
                pass
            sys.settrace(trace)
            try:
                received, mark = channel.receive()
                sys.settrace(None)
                got += [(kind, tag, number, bytes(body)) for kind, tag, number, body in received]
                if received:
                    channel.consume(mark)
            except StruckError:
                pass
            finally:
                sys.settrace(None)
    finally:
        channel.close()
        theirs.close()
    assert got == expected
