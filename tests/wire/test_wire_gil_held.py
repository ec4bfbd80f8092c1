"""System calls that keep the GIL: they do what the ordinary ones do, or nothing."""

import mmap
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from billiard._wire import gil_held


def test_read_takes_what_is_there():
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    memory = mmap.mmap(-1, 4096)
    at = gil_held.address_of(memory)
    try:
        assert gil_held.read(ours, at, 10) == -1
        os.write(theirs, b"0123456789")
        assert gil_held.read(ours, at, 4) == 4
        assert gil_held.read(ours, at + 100, 4000) == 6
        assert (memory[:5], memory[100:107]) == (b"0123\0", b"456789\0")
        os.close(theirs)
        assert gil_held.read(ours, at, 10) == 0
    finally:
        os.close(ours)
    assert gil_held.read(ours, at, 10) == -1


def test_send_never_blocks():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert gil_held.send(ours.fileno(), b"a\0b", 3, socket.MSG_DONTWAIT) == 3
        assert theirs.recv(10) == b"a\0b"
        while (sent := gil_held.send(ours.fileno(), bytes(1 << 16), 1 << 16, socket.MSG_DONTWAIT)) > 0:
            pass
        assert sent == -1


def test_a_channels_flags_keep_sigpipe_away():
    script = """
        import signal, socket
        from billiard._wire import channel, gil_held
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        ours, theirs = socket.socketpair()
        theirs.close()
        print(gil_held.send(ours.fileno(), b"x", 1, channel._NOW))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "-1\n"


def test_epoll_events_are_read_as_the_kernel_writes_them():
    memory = bytearray(3 * gil_held.EPOLL_EVENT.size)
    at = gil_held.address_of(memory)
    pairs = [socket.socketpair() for _ in range(4)]
    with select.epoll() as poll:
        for one, _ in pairs:
            poll.register(one, select.EPOLLIN)
        assert gil_held.epoll_wait(poll.fileno(), at, 3, 0) == 0
        pairs[2][1].send(b"x")
        pairs[1][1].close()
        assert gil_held.epoll_wait(poll.fileno(), at, 3, 0) == 2
        events = [(fd, mask) for mask, fd in gil_held.EPOLL_EVENT.iter_unpack(memory[: 2 * gil_held.EPOLL_EVENT.size])]
        assert sorted(events) == sorted(poll.poll(0))
        assert {fd for fd, _ in events} == {pairs[2][0].fileno(), pairs[1][0].fileno()}
        for _, other in pairs:
            other.close()
        assert gil_held.epoll_wait(poll.fileno(), at, 3, 0) == 3, "no more than there is room for"
    for one, _ in pairs:
        one.close()
    assert gil_held.epoll_wait(-1, at, 3, 0) == -1


def test_nobody_else_runs_meanwhile():
    memory = bytearray(16)
    at, runs, stop = gil_held.address_of(memory), 0, False

    def other():
        nonlocal runs
        while not stop:
            runs += 1
            time.sleep(0)  # lets us have the GIL back

    def ran_during(call):
        before = runs
        for _ in range(20_000):
            call()
            if runs != before:
                return True
        return False

    thread = threading.Thread(target=other)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        thread.start()
        assert ran_during(lambda: time.sleep(0))
        assert not ran_during(lambda: gil_held.read(-1, at, 1))
        assert not ran_during(lambda: gil_held.send(-1, b"x", 1, 0))
        assert not ran_during(lambda: gil_held.epoll_wait(-1, at, 1, 0))
    finally:
        sys.setswitchinterval(interval)
        stop = True
        thread.join()


CROWD = """
    import sys, threading
    {0}
    import billiard
    from billiard._wire import gil_held

    count, real = [], gil_held.read
    gil_held.read = lambda *args: (count.append(1), real(*args))[1]

    def crowd(pool):
        values = [[] for _ in range(8)]
        def call(mine):
            mine += [pool.apply(abs, (-i,)) for i in range(100)]
        threads = [threading.Thread(target=call, args=(mine,)) for mine in values]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert values == [list(range(100))] * 8

    if __name__ == "__main__":
        with billiard.Pool(2) as pool:
            crowd(pool)
        print(real is gil_held._not_done, bool(count))
"""


@pytest.mark.parametrize("without", [False, True])
def test_a_pool_works_with_and_without_ctypes(without):
    script = textwrap.dedent(CROWD).format("sys.modules['ctypes'] = None" if without else "")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.strip(), done.stderr) == (f"{without} True", "")
