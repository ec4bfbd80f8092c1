"""What a worker can reach, and what a hostile one can do to its parent."""

import fcntl
import multiprocessing
import os
import socket
import stat
import subprocess
import time
from pathlib import Path

import fault_tasks as t
import pytest

import billiard
from billiard import TimeLimitExceeded, WorkerLostError
from billiard._wire import frames
from billiard._wire.channel import _PIPE_BUFFER
from billiard.pool import Pool


def sockets(pid="self"):
    """The sockets a process holds, by inode."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def sockets_here():
    return os.getpid(), sockets()


def test_a_worker_holds_its_own_channel_only(make_pool):
    before = sockets()
    first, second = make_pool(3), make_pool(2)
    held = {}
    while len(held) < 5:
        for pool in (first, second):
            held.update(pool.map(lambda _: (t.nap(0.01), sockets_here())[1], range(6), 1))
    ours = {pid: mine - before for pid, mine in held.items()}
    assert all(len(mine) == 1 for mine in ours.values()), ours
    assert len(set.union(*ours.values())) == 5
    parent = sockets()
    assert all(mine.isdisjoint(parent) for mine in ours.values()), "a worker holds an end of the parent's"


def test_a_replacement_does_not_either(make_pool):
    before = sockets()
    pool = make_pool(2, maxtasksperchild=1)
    for pid, mine in pool.map(lambda _: sockets_here(), range(8), 1):
        assert pid
        assert len(mine - before) == 1


def boards_mapped():
    return sum("billiard-scoreboard" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_a_template_holds_nothing_of_another_pool(make_pool):
    before = sockets()
    first = make_pool(2)
    first.map(t.identify, range(4), 1)
    firsts = sockets() - before
    second = make_pool(1)
    assert sockets(second.apply(os.getppid)).isdisjoint(firsts)
    assert second.apply(boards_mapped) == 1  # its own: a stray store in another's would be read as a recall there
    with multiprocessing.get_context("fork").Pool(1) as strange:
        assert strange.apply(boards_mapped) == 0


def test_programs_that_tasks_start_inherit_nothing(make_pool):
    pool = make_pool(1)
    out = pool.apply(
        subprocess.run, (["ls", "-l", "/proc/self/fd"],), {"capture_output": True, "text": True, "close_fds": False}
    ).stdout
    assert "memfd:billiard-scoreboard" not in out
    assert out.count("socket:") <= len(sockets())


def inheritable():
    """The sockets, and the pipes of a channel's size, that a program would inherit from this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        fd = int(entry.name)
        try:
            mode = os.fstat(fd).st_mode
            if os.get_inheritable(fd) and (stat.S_ISSOCK(mode) or (stat.S_ISFIFO(mode) and is_large(fd))):
                found.add(str(entry.readlink()))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_no_end_of_a_channel_is_inheritable(make_pool, method):
    pool = make_pool(1, context=billiard.get_context(method))
    # what the tests were started with is
    assert pool.apply(inheritable) <= inheritable()


def test_nothing_listens_and_nothing_has_a_name(make_pool):
    names = set(Path("/proc/net/unix").read_text().split("\n"))
    pool = make_pool(2)
    pool.map(t.identify, range(4), 1)
    inodes = {target.removeprefix("socket:[").removesuffix("]") for target in sockets()}
    for line in set(Path("/proc/net/unix").read_text().split("\n")) - names:
        fields = line.split()
        if len(fields) >= 7 and fields[6] in inodes:
            assert len(fields) == 7, f"a named socket: {line}"
            assert int(fields[3], 16) & 0x10000 == 0, f"a listening socket: {line}"


# -- a hostile worker


def my_channel():
    """In a worker: its socket, and the descriptor of its pipe."""
    sock = pipe = None
    for entry in Path("/proc/self/fd").iterdir():
        fd = int(entry.name)
        try:
            mode, flags = os.fstat(fd).st_mode, fcntl.fcntl(fd, fcntl.F_GETFL)
        except OSError:
            continue
        if stat.S_ISSOCK(mode):
            one = socket.socket(fileno=os.dup(fd))
            if one.family is socket.AF_UNIX and one.type == socket.SOCK_STREAM:
                sock = one
        elif stat.S_ISFIFO(mode) and flags & os.O_ACCMODE == os.O_WRONLY and is_large(fd):
            pipe = fd  # the small ones are where the tests' own output goes
    assert None not in (sock, pipe)
    return sock, pipe


def is_large(pipe):
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) == _PIPE_BUFFER


def say(data):
    assert os.write(my_channel()[1], data) == len(data)


def write_to_parent(data):
    say(data)
    t.nap(20)


def write_beside(data):
    my_channel()[0].sendall(data)
    return bytes(100_000)


NONSENSE = {
    "a kind that does not exist": frames.frame(0x1F, 0, 0, b"x" * 16),
    "a note of the wrong size": frames.frame(frames.ACCEPTED, 0, 0, b"x"),
    "a failure that is none": frames.frame(frames.FAILED, 0, 0, b"garbage") + frames.frame(0x1E, 0, 0, bytes(16)),
    "noise": bytes(range(1, 256)) * 40,
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_costs_the_worker_that_wrote_it(make_pool, what):
    pool = make_pool(2)
    with pytest.raises(WorkerLostError):
        pool.apply_async(write_to_parent, (NONSENSE[what],), timeout=15).get(10)
    assert pool.map(t.echo, range(4), 1) == [0, 1, 2, 3]


def test_nonsense_beside_the_pipe_costs_it_too(make_pool):
    pool = make_pool(2)
    with pytest.raises(WorkerLostError):
        pool.apply_async(write_beside, (b"nonsense",)).get(10)
    assert pool.apply(t.echo, (bytes(100_000),)) == bytes(100_000)


def test_a_body_that_never_comes_costs_no_processor_time(make_pool):
    pool = make_pool(2)
    result = pool.apply_async(announce_and_chatter, timeout=0.8)
    spent = time.process_time()
    with pytest.raises(TimeLimitExceeded):
        result.get(10)
    assert time.process_time() - spent < 0.3
    assert pool.map(t.echo, range(4), 1) == [0, 1, 2, 3]


def announce_and_chatter():
    say(frames.HEADER.pack(frames.RESULT | frames.BY_SOCKET, 0, 1, 1 << 20) + bytes(1000))
    t.nap(20)


def test_results_of_calls_it_does_not_have_are_ignored(make_pool):
    pool = make_pool(1)
    forged = b"".join(frames.frame(frames.RESULT, 0, number, b"\x80\x04K\x05.") for number in range(100, 2000))
    assert pool.apply(write_and_return, (forged,)) == "mine"
    assert pool.map(t.echo, range(10), 1) == list(range(10))


def write_and_return(data):
    say(data)
    return "mine"


def test_a_result_that_does_not_unpickle_fails_its_call_only(make_pool):
    from billiard.exceptions import PayloadError

    pool = make_pool(1)
    with pytest.raises(PayloadError):
        pool.apply(forge_own_result)
    assert pool.apply(t.add, (1, 2)) == 3


def forge_own_result():
    # whatever number this call has, it is among these
    say(b"".join(frames.frame(frames.RESULT, 0, number, b"no pickle") for number in range(1, 50)))
    return "mine"


def test_it_may_close_its_channel(make_pool):
    pool = make_pool(2)
    with pytest.raises(WorkerLostError):
        pool.apply_async(close_all).get(10)
    assert pool.map(t.echo, range(4), 1) == [0, 1, 2, 3]


def close_all():
    os.closerange(3, 256)
    t.nap(20)


def test_a_header_that_claims_much_and_sends_nothing(make_pool):
    pool = make_pool(2)
    before = rss_kb()
    with pytest.raises(WorkerLostError):
        pool.apply_async(claim_and_die).get(10)
    assert rss_kb() - before < 60_000
    assert pool.apply(t.add, (1, 2)) == 3


def claim_and_die():
    header = frames.HEADER.pack(frames.RESULT | frames.BY_SOCKET, 0, 1, 1 << 40)
    say(header)
    my_channel()[0].sendall(header + bytes(100_000))
    t.strike("SIGKILL")


def rss_kb():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError


def test_the_parents_environment_is_what_fork_means():
    """Neither more nor less: what the parent sets after the pool was made does not reach its workers."""
    with Pool(1) as pool:
        os.environ["BILLIARD_TEST_SECRET"] = "late"
        try:
            assert pool.apply(os.getenv, ("BILLIARD_TEST_SECRET",)) is None
        finally:
            del os.environ["BILLIARD_TEST_SECRET"]
