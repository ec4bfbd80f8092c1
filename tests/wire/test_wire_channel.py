"""The parent's end of a channel: cut anywhere, slow, garbled, hostile."""

import errno
import fcntl
import os
import random
import socket
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billiard._wire import frames, gil_held
from billiard._wire.channel import open_channel

BODIES = st.lists(st.binary(max_size=300), max_size=12)


RIVALS = []  # see `open_channel`


@pytest.fixture(scope="module", autouse=True, params=["ordinary calls", "held calls", "held calls that cannot be made"])
def kind_of_call(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "ordinary calls":
            patch.setattr(sys.modules[__name__], "RIVALS", ["somebody"])
        if request.param == "held calls that cannot be made":
            patch.setattr(gil_held, "read", lambda *_: -1)
            patch.setattr(gil_held, "send", lambda *_: -1)
        yield


GIVEN = 1 << 20  # calls that the worker was given: so many may have results


def a_channel():
    channel, far_end = open_channel(RIVALS)
    channel.given = GIVEN
    return channel, far_end


@pytest.fixture
def ends():
    channel, far_end = a_channel()
    yield channel, far_end
    channel.close()
    far_end.close()


def drain(channel):
    """All that has arrived: (kind, tag, number, body as bytes)."""
    got = []
    while True:
        received, mark = channel.receive()
        got += [(kind, tag, number, bytes(body)) for kind, tag, number, body in received]
        if received:
            channel.consume(mark)
        if not channel.more and (channel.empty or channel.closed_by_peer):
            return got


def stream_of(bodies):
    return b"".join(frames.frame(frames.RESULT, i, i + 1, body) for i, body in enumerate(bodies)), [
        (frames.RESULT, i, i + 1, body) for i, body in enumerate(bodies)
    ]


def test_cut_at_every_byte():
    stream, expected = stream_of([b"", b"one", b"x" * 40, b"", b"last"])
    for cut in range(len(stream) + 1):
        channel, far_end = a_channel()
        far_end.write(stream[:cut])
        got = drain(channel)
        assert got == expected[: len(got)]
        far_end.write(stream[cut:])
        assert got + drain(channel) == expected
        channel.close()
        far_end.close()


def test_truncated_at_every_byte():
    stream, expected = stream_of([b"one", b"two" * 20])
    for cut in range(len(stream) + 1):
        channel, far_end = a_channel()
        far_end.write(stream[:cut])
        far_end.close()
        got = drain(channel)
        assert channel.closed_by_peer
        assert got == expected[: len(got)]
        channel.close()


BEFORE = frames.frame(frames.RESULT, 0, 1, b"before")
BEHIND = frames.frame(frames.RESULT, 0, 3, b"behind")


def put(sock, data):
    """As much of it as the socket takes now; returns the rest."""
    try:
        return data[sock.send(data) :]
    except BlockingIOError:
        return data


@pytest.mark.parametrize("size", [1, 1 << 15, (1 << 17) - frames.HEADER_SIZE, 1 << 20, 5_000_000])
@pytest.mark.parametrize("piece", [977, 1 << 14, 1 << 18])
@pytest.mark.parametrize("body_first", [False, True])
def test_bodies_beside_the_pipe_in_pieces(ends, size, piece, body_first):
    channel, far_end = ends
    body = random.Random(size).randbytes(size)
    header = frames.HEADER.pack(frames.RESULT | frames.BY_SOCKET, 0, 2, size)
    said = BEFORE + header + BEHIND
    far_end.sock.setblocking(False)
    got, left = [], header + body
    if body_first:
        left = put(far_end.sock, left[:piece]) + left[piece:]
    far_end.write(said)
    while left:
        got += drain(channel)
        left = put(far_end.sock, left[:piece]) + left[piece:]
    got += drain(channel)
    assert [(kind, number, body) for kind, _, number, body in got] == [
        (frames.RESULT, 1, b"before"), (frames.RESULT, 2, body), (frames.RESULT, 3, b"behind"),
    ]  # fmt: skip
    assert not channel.awaits_body


def test_what_was_said_cut_at_every_byte_around_a_body_beside():
    first = frames.HEADER.pack(frames.ERROR | frames.BY_SOCKET, 0, 2, 5)
    second = frames.HEADER.pack(frames.RESULT | frames.BY_SOCKET, 0, 4, 3)
    said = BEFORE + first + second + BEHIND
    for cut in range(len(said) + 1):
        channel, far_end = a_channel()
        far_end.write(said[:cut])
        got = drain(channel)
        far_end.sock.sendall(first + b"fiv")
        got += drain(channel)
        far_end.write(said[cut:])
        got += drain(channel)
        far_end.sock.sendall(b"eo" + second + b"ne")
        got += drain(channel)
        assert [number for _, _, number, _ in got] == [1, 2]
        far_end.sock.sendall(b"!")
        got += drain(channel)
        assert got == [
            (frames.RESULT, 0, 1, b"before"), (frames.ERROR, 0, 2, b"fiveo"), (frames.RESULT, 0, 4, b"ne!"),
            (frames.RESULT, 0, 3, b"behind"),
        ]  # fmt: skip
        channel.close()
        far_end.close()


@pytest.mark.parametrize("sent", [0, 1, frames.HEADER_SIZE, frames.HEADER_SIZE + 99_999])
def test_an_end_in_the_middle_of_a_body_beside(ends, sent):
    channel, far_end = ends
    header = frames.HEADER.pack(frames.RESULT | frames.BY_SOCKET, 0, 2, 100_000)
    far_end.write(BEFORE + header)
    far_end.sock.sendall((header + bytes(100_000))[:sent])
    far_end.close()
    assert [number for _, _, number, _ in drain(channel)] == [1]
    assert channel.closed_by_peer


def test_an_end_behind_a_body_beside_loses_nothing(ends):
    """The pipe has ended when the body is yet to be read: that is no end of the channel."""
    channel, far_end = ends
    header = frames.HEADER.pack(frames.RESULT | frames.BY_SOCKET, 0, 2, 100_000)
    far_end.write(BEFORE + header + BEHIND)
    far_end.sock.sendall(header + bytes(100_000))
    far_end.close()
    assert [number for _, _, number, _ in drain(channel)] == [1, 2, 3]
    drain(channel)
    assert channel.closed_by_peer


@pytest.mark.parametrize("kind", [frames.RESULT | frames.LARGE, frames.ACCEPTED | frames.BY_SOCKET,
                                  frames.READY | frames.BY_SOCKET])
def test_what_may_not_come_so_is_refused(ends, kind):
    channel, far_end = ends
    far_end.write(frames.HEADER.pack(kind, 0, 1, 10) + bytes(10))
    with pytest.raises(frames.FrameError):
        channel.receive()


def test_other_bytes_beside_the_pipe_are_refused(ends):
    channel, far_end = ends
    header = frames.HEADER.pack(frames.RESULT | frames.BY_SOCKET, 0, 1, 1000)
    far_end.sock.sendall(b"x" + header)
    far_end.write(header)
    with pytest.raises(frames.FrameError):
        channel.receive()


def test_a_claim_of_more_than_the_pipe_carries_is_refused(ends):
    channel, far_end = ends
    far_end.write(frames.HEADER.pack(frames.RESULT, 0, 1, frames.IN_PIPE + 1))
    with pytest.raises(frames.FrameError):
        channel.receive()


@pytest.mark.parametrize("there", [0, 1, frames.HEADER_SIZE - 1, frames.HEADER_SIZE, frames.HEADER_SIZE + 1, 36, 37])
def test_the_read_buffer_ends_in_the_middle_of_a_small_frame(ends, there):
    """Of any kind: a worker was taken for a hostile one, and killed, for an ACCEPTED that lay across the buffer's end."""
    channel, far_end = ends
    block = bytes(frames.IN_PIPE - frames.HEADER_SIZE)
    bodies = [block] * 3 + [block[: len(block) - there]]
    about = frames.about(frames.ACCEPTED, 2, 5)
    stream, expected = stream_of(bodies)
    fcntl.fcntl(channel.fd, fcntl.F_SETPIPE_SZ, 1 << 18)  # or nobody could take it out while we put it in
    far_end.write(stream + about + frames.frame(frames.RESULT, 0, 9, b"behind"))
    assert drain(channel) == [
        *expected, (frames.ACCEPTED, 0, 0, about[frames.HEADER_SIZE :]), (frames.RESULT, 0, 9, b"behind"),
    ]  # fmt: skip


def test_frames_of_any_size_as_a_worker_sends_them(ends):
    channel, far_end = ends
    sizes = [0, 1, 4000, 5000, frames.IN_PIPE, frames.IN_PIPE + 1, 100_000]
    for number, size in enumerate(sizes):
        far_end.send(frames.RESULT, 7, number + 1, [b"x" * (size // 2), b"y" * (size - size // 2)], size)
    got = drain(channel)
    assert [(number, len(body), body.count(b"y")) for _, _, number, body in got] == [
        (number + 1, size, size - size // 2) for number, size in enumerate(sizes)
    ]


def test_receiving_is_repeatable_until_consumed(ends):
    channel, far_end = ends
    stream, expected = stream_of([b"a", b"b"])
    far_end.write(stream)
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
    channel, far_end = a_channel()
    got = []
    try:
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            far_end.write(stream[start:stop])
            got += drain(channel)
        assert got == expected
    finally:
        channel.close()
        far_end.close()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600), st.binary(max_size=100))
def test_garbage_never_crashes_nor_hangs(garbage, beside):
    channel, far_end = a_channel()
    try:
        far_end.write(garbage)
        far_end.sock.sendall(beside)
        far_end.close()
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
        far_end.close()


@pytest.mark.parametrize("claimed", [1 << 26, 1 << 34, 1 << 50, (1 << 64) - 1])
@pytest.mark.parametrize("arrived", [0, 1000, 20 << 20])
def test_memory_is_not_committed_on_a_headers_word(ends, claimed, arrived):
    channel, far_end = ends
    theirs = far_end.sock
    tracemalloc.start()
    try:
        header = frames.HEADER.pack(frames.RESULT | frames.BY_SOCKET, 0, 1, claimed)
        far_end.write(header)
        theirs.sendall(header)
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
    channel, far_end = ends
    parts = [frames.HEADER.pack(frames.CALL, 0, 1, 12 << 20), bytes(4 << 20), bytearray(8 << 20)]
    channel.outgoing = channel.prepare(parts)
    channel.flush()
    assert channel.busy
    got = 0
    while got < frames.HEADER_SIZE + (12 << 20):
        got += len(far_end.sock.recv(1 << 20))
        channel.flush()
    assert not channel.busy


def test_many_parts(ends):
    channel, far_end = ends
    parts = [bytes([i % 256]) * 100 for i in range(3000)]
    channel.outgoing = channel.prepare(parts)
    got = b""
    while len(got) < 300_000:
        channel.flush()
        got += far_end.sock.recv(1 << 20)
    assert got == b"".join(parts)


def test_own_copies_what_the_caller_may_change(ends):
    channel, far_end = ends
    block = bytearray(b"x" * (8 << 20))
    channel.outgoing = channel.prepare([frames.HEADER.pack(frames.CALL, 0, 1, len(block)), block])
    channel.flush()
    assert channel.busy
    channel.own()
    block[:] = b"y" * len(block)
    got = bytearray()
    while len(got) < frames.HEADER_SIZE + len(block):
        got += far_end.sock.recv(1 << 20)
        channel.flush()
    assert got[frames.HEADER_SIZE :].count(b"y") == 0


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENOMEM])
@pytest.mark.parametrize("parts", [[b"x" * 100], [b"x" * 100_000, b"y" * 100_000]], ids=["one", "several"])
def test_what_the_kernel_has_no_memory_for_is_sent_later(ends, monkeypatch, code, parts):
    """The worker waited for ever for a call that was dropped, and the call for the worker."""
    channel, far_end = ends

    def no_memory(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(channel, "_send", no_memory)
        patch.setattr(channel, "sock", SimpleNamespace(sendmsg=no_memory))
        patch.setattr(gil_held, "send", lambda *_: -1)
        channel.outgoing = channel.prepare(parts)
        channel.flush()
        assert channel.busy
    got = b""
    while len(got) < sum(map(len, parts)):
        channel.flush()
        got += far_end.sock.recv(1 << 20)
    assert got == b"".join(parts)
    assert not channel.busy


def test_what_is_written_to_nobody_is_dropped(ends):
    channel, far_end = ends
    far_end.close()
    channel.outgoing = channel.prepare([b"x" * 100])
    channel.flush()
    assert not channel.busy
    assert not channel.busy


def test_a_closed_channel_touches_nobody_elses_descriptors(ends):
    channel, _ = ends
    numbers = {channel.sock_fd, channel.fd}
    channel.close()
    pairs = [socket.socketpair() for _ in range(8)]
    assert numbers <= {end.fileno() for pair in pairs for end in pair}, "the numbers were to be used again"
    for pair in pairs:
        for end in pair:
            end.setblocking(False)
            end.send(b"theirs")
    channel.outgoing = channel.prepare([b"ours"])
    channel.flush()
    channel.receive()
    assert [end.recv(100) for pair in pairs for end in pair] == [b"theirs"] * 16
    for pair in pairs:
        for end in pair:
            end.close()


def test_a_channel_has_no_name_and_does_not_block(ends):
    channel, far_end = ends
    assert channel.sock.family is socket.AF_UNIX
    assert channel.sock.getsockname() == far_end.sock.getsockname() == ""
    assert not channel.sock.getblocking()
    assert not os.get_blocking(channel.fd)
    assert not any(map(os.get_inheritable, [channel.fd, channel.sock_fd, *far_end.fds]))
    assert all(map(os.get_blocking, far_end.fds))


def test_descriptors_go_with_the_objects():
    held = Path("/proc/self/fd")
    before = {entry.name for entry in held.iterdir()}
    ends = a_channel()
    assert len({entry.name for entry in held.iterdir()} - before) == 4
    for end in ends:
        end.sock.close()
    del ends, end
    assert {entry.name for entry in held.iterdir()} == before


@pytest.mark.parametrize("at", range(40))
def test_an_exception_at_any_line_of_receiving_loses_nothing(at):
    """What a signal handler's exception does to `receive` and `flush`, at each of their first forty lines."""
    import sys

    channel, far_end = a_channel()
    _, expected = stream_of([b"a" * 10, b"b" * 100_000, b"c"])
    header = frames.HEADER.pack(frames.RESULT | frames.BY_SOCKET, 1, 2, 100_000)
    far_end.write(frames.frame(frames.RESULT, 0, 1, b"a" * 10) + header + frames.frame(frames.RESULT, 2, 3, b"c"))
    far_end.sock.setblocking(False)
    left = header + b"b" * 100_000
    got, lines = [], 0

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
        while left or len(got) < 3:
            left = put(far_end.sock, left[:30_000]) + left[30_000:]
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
        far_end.close()
    assert got == expected
