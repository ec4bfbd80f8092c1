"""Descriptors, error numbers, memory."""

import errno
import os
import resource
import sys

import pytest

from billiard import compat


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


def test_blocking(pipe):
    class File:
        def fileno(self):
            return pipe[1]

    for handle in (pipe[1], File()):
        compat.setblocking(handle, False)
        assert compat.isblocking(handle) is False
        compat.setblocking(handle, 1)
        assert compat.isblocking(handle) is True
    assert compat.isblocking(pipe[0]) is True


@pytest.mark.parametrize("path", [sys.executable, os.fsencode(sys.executable)])
def test_spawnv_passfds(pipe, path):
    pid = compat.spawnv_passfds(path, [path, "-c", f"import os; os.write({pipe[1]}, b'here')"], [pipe[1]])
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(pipe[0], 100) == b"here"


def test_send_offset(pipe):
    assert compat.send_offset(pipe[1], b"0123456789", 4) == 6
    assert os.read(pipe[0], 100) == b"456789"
    compat.setblocking(pipe[1], False)
    written = compat.send_offset(pipe[1], bytes(10_000_000), 0)
    assert 0 < written < 10_000_000
    with pytest.raises(BlockingIOError):
        compat.send_offset(pipe[1], bytes(10_000_000), written)


def test_maybe_fileno(pipe):
    with open(pipe[0], closefd=False) as file:
        assert compat.maybe_fileno(file) == pipe[0]
    assert compat.maybe_fileno(3) == 3
    assert compat.maybe_fileno(None) is None
    assert compat.maybe_fileno(file) is None  # closed


def test_uniq():
    assert list(compat.uniq([3, 1, 3, 2, 1])) == [3, 1, 2]


def test_get_errno():
    assert compat.get_errno(OSError(errno.EPIPE, "x")) == errno.EPIPE
    assert compat.get_errno(KeyError("x")) == 0
    assert compat.get_errno(KeyError(3, "x")) == 0
    assert compat.get_errno(OSError("x")) == 0


def test_close_open_fds_really_closes():
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            kept, gone = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
            compat.close_open_fds([0, 1, 2, kept, None])
            os.fstat(kept)
            try:
                os.fstat(gone)
            except OSError:
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_close_open_fds_by_ranges(monkeypatch):
    ranges = []
    monkeypatch.setattr(compat, "_open_fds", lambda: None)
    monkeypatch.setattr(compat, "get_fdmax", lambda default=None: 10)
    monkeypatch.setattr(os, "closerange", lambda low, high: ranges.append((low, high)))
    compat.close_open_fds([1, 2, 5, 12])
    compat.close_open_fds()
    assert ranges == [(0, 1), (3, 5), (6, 10), (0, 10)]


def test_fdmax(monkeypatch):
    def unknown(name):
        raise KeyError(name)

    monkeypatch.setattr(os, "sysconf", lambda name: 4711)
    assert compat.get_fdmax() == 4711
    monkeypatch.setattr(os, "sysconf", unknown)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 200))
    assert compat.get_fdmax() == 200
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, resource.RLIM_INFINITY))
    assert compat.get_fdmax(default=50) == 50
    assert compat.get_fdmax() is None


def test_open_fds_lists_ours(pipe):
    assert set(pipe) <= set(compat._open_fds())


def test_memory_is_kilobytes():
    assert 1_000 < compat.mem_rss() < 10_000_000
    assert compat.maxrss_to_kb(2048) == 2048
