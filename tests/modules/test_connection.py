"""Connections: the same bytes as multiprocessing's, and the non-blocking half."""

import multiprocessing.connection
import os
import pickle
import socket
import struct

import pytest

import billiard
from billiard.compat import isblocking
from billiard.connection import Client, Connection, Listener, Pipe, wait


@pytest.fixture
def pipe():
    reader, writer = Pipe(duplex=False)
    yield reader, writer
    reader.close()
    writer.close()


@pytest.mark.parametrize("duplex", [True, False])
@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True), (True, True)])
def test_flags(duplex, flags):
    for make in (Pipe, billiard.Pipe):
        reader, writer = make(duplex, *flags)
        with reader, writer:
            assert (isblocking(reader), isblocking(writer)) == (not flags[0], not flags[1])
            assert (reader.readable, writer.writable) == (True, True)
            assert (reader.writable, writer.readable) == (duplex, duplex)
            writer.send({"x": 1})
            assert reader.recv() == {"x": 1}


def test_flags_by_keyword():
    reader, writer = billiard.Pipe(False, rnonblock=True)
    with reader, writer, pytest.raises(BlockingIOError):
        reader.recv()
    assert reader.closed


def test_a_default_socket_timeout_does_not_leak_in():
    kept = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(0.01)
        one, other = Pipe()
    finally:
        socket.setdefaulttimeout(kept)
    with one, other:
        assert isblocking(one)
        assert isblocking(other)


def test_setblocking(pipe):
    reader, _ = pipe
    reader.setblocking(False)
    assert not isblocking(reader.fileno())
    with pytest.raises(BlockingIOError):
        reader.recv_bytes()
    reader.setblocking(1)
    assert isblocking(reader)


def test_send_offset(pipe):
    reader, writer = pipe
    message = pickle.dumps("hello")
    framed = struct.pack(">I", len(message)) + message
    sent = writer.send_offset(framed[:7], 0)
    assert sent == 7
    assert writer.send_offset(memoryview(framed), sent) == len(framed) - 7
    assert reader.recv() == "hello"
    writer.setblocking(False)
    big = bytes(10_000_000)
    sent = writer.send_offset(big, 0)
    assert 0 < sent < len(big)
    with pytest.raises(BlockingIOError):
        writer.send_offset(big, sent)


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 100_000])
def test_the_frame_is_four_bytes_of_length(size):
    reader, writer = Pipe()
    with reader, writer:
        writer.send_bytes(bytes(size)) if size < 100_000 else writer.setblocking(True)
        if size < 100_000:
            raw = os.read(reader.fileno(), 200_000)
            while len(raw) < size + 4:
                raw += os.read(reader.fileno(), 200_000)
            assert raw == struct.pack("!i", size) + bytes(size)
        theirs = multiprocessing.connection.Connection(os.dup(reader.fileno()))
        with theirs:
            writer.send_bytes(b"x" * min(size, 50_000))
            assert theirs.recv_bytes() == b"x" * min(size, 50_000)


def test_a_closed_connection(pipe):
    reader, _ = pipe
    reader.close()
    reader.close()
    assert reader.closed
    for use in (reader.fileno, reader.recv, reader.poll, lambda: reader.send_offset(b"x", 0)):
        with pytest.raises(OSError, match="handle is closed"):
            use()


def test_usable_in_sets_and_waits(pipe):
    reader, writer = pipe
    assert len({reader, writer, reader}) == 2
    assert wait([reader], 0) == []
    writer.send(1)
    assert wait([reader], 10) == [reader]


def echo(reader, writer):
    writer.send((type(reader).__module__, reader.fileno(), reader.recv()))


def test_given_to_a_child(ctx):
    reader, writer = ctx.Pipe(False)
    back_reader, back_writer = ctx.Pipe(False)
    with reader, writer, back_reader, back_writer:
        process = ctx.Process(target=echo, args=(reader, back_writer))
        process.start()
        writer.send("there")
        module, fd, got = back_reader.recv()
        process.join(30)
        assert (module, got) == ("billiard._stdlib.connection", "there")
        if ctx.get_start_method() != "forkserver":  # event loops use the number as the worker's name
            assert fd == reader.fileno()


def call(address, key):
    with Client(address, authkey=key) as conn:
        conn.send((type(conn).__name__, conn.recv() + 1))
        assert isblocking(conn)


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET"])
def test_listener_and_client(family):
    with Listener(family=family, authkey=b"secret") as listener:
        process = billiard.Process(target=call, args=(listener.address, b"secret"))
        process.start()
        with listener.accept() as conn:
            assert type(conn) is Connection
            conn.send(41)
            assert conn.recv() == ("Connection", 42)
        process.join(30)
        assert process.exitcode == 0


def call_in_vain(address):
    try:
        Client(address, authkey=b"wrong")
    except billiard.AuthenticationError:
        raise SystemExit(9) from None


def test_a_wrong_key_is_refused():
    with Listener(authkey=b"secret") as listener:
        process = billiard.Process(target=call_in_vain, args=(listener.address,))
        process.start()
        with pytest.raises(billiard.AuthenticationError):
            listener.accept()
        process.join(30)
        assert process.exitcode == 9


def test_detach():
    one, other = socket.socketpair()
    with other:
        fd = billiard.connection.detach(one)
        assert one.fileno() == -1
        os.close(fd)
    assert billiard.connection._SocketContainer(other).sock is other
