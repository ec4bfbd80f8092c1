"""The worker's real loop against a scripted parent over a socket pair."""

import functools
import os
import pickle
import select
import signal
import socket
import struct
import sys
import time
import weakref
from pathlib import Path

import pytest

from billiard._wire import errors, frames, pickling
from billiard._wire import scoreboard as scoreboards
from billiard._wire.exit_status import EX_RECYCLE
from billiard._wire.far_end import FarEnd
from billiard._worker.loop import Loop
from billiard._worker.settings import WorkerSettings
from billiard.exceptions import PayloadError, SoftTimeLimitExceeded
from pool_helpers import wait_until


class Parent:
    """The far side of a worker that runs the real loop in a forked child."""

    def __init__(self, **settings):
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(10)
        self.pipe, pipe = os.pipe()
        far_end = FarEnd(theirs, [pipe])
        self.scoreboard = scoreboards.Scoreboard()
        self.pid = os.fork()
        if self.pid == 0:
            status = 99
            try:
                self.sock.close()
                os.close(self.pipe)
                status = Loop(far_end, self.scoreboard, WorkerSettings(**settings), pickling.MainSnapshot()).run()
            except SystemExit as exc:
                status = exc.code
            finally:
                os._exit(status)
        far_end.close()
        self.status = None
        assert self.read()[:2] == (frames.READY, 0)

    def _exactly(self, size, read):
        data = b""
        while len(data) < size:
            more = read(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def read(self):
        kind, tag, number, size = frames.HEADER.unpack(self._exactly(frames.HEADER_SIZE, self._from_pipe))
        read = self._from_pipe
        if kind & frames.BY_SOCKET:
            read = self.sock.recv
            assert self._exactly(frames.HEADER_SIZE, read) == frames.HEADER.pack(kind, tag, number, size)
        body = self._exactly(size, read)
        return kind & ~frames.BY_SOCKET, tag, number, body

    def _from_pipe(self, size):
        assert select.select([self.pipe], [], [], 10)[0], "the worker says nothing"
        return os.read(self.pipe, size)

    def results(self, count):
        return [(number, pickling.read(body)) for _, _, number, body in (self.read() for _ in range(count))]

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))

    def wait(self):
        if self.status is None:
            deadline = time.monotonic() + 10
            while True:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.status = os.waitstatus_to_exitcode(status)
                    break
                assert time.monotonic() < deadline, "the worker lives on"
                time.sleep(0.002)
        return self.status

    def close(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.sock.close()
        os.close(self.pipe)
        self.scoreboard.close()


@pytest.fixture
def start():
    parents = []

    def make(**settings):
        parents.append(Parent(**settings))
        return parents[-1]

    yield make
    for parent in parents:
        parent.close()


def call(number, func, *args, kind=frames.KWCALL):
    return frames.frame(kind, 0, number, pickle.dumps((func, args, {})))


def function(ident, func):
    return frames.frame(frames.FUNCTION, ident, 0, pickle.dumps(func))


def known(number, ident, *args):
    return frames.frame(frames.CALL, ident, number, pickle.dumps(args))


def add(a, b):
    return a + b


def nap(seconds):
    time.sleep(seconds)
    return "slept"


def snooze(seconds, begun=None):
    if begun is not None:
        begun.touch()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.001)
    return "slept"


def stop_at_two(x):
    if x == 2:
        raise StopIteration
    return x


def explode():
    raise ValueError("boom")


class Poison:
    def __reduce__(self):
        return explode, ()


def allocate(megabytes):
    block = b"x" * (megabytes << 20)
    return len(block)


def test_calls_are_answered_in_order(start):
    parent = start()
    parent.send(function(1, add), *(known(n, 1, n, 1) for n in range(1, 201)))
    assert parent.results(200) == [(n, n + 1) for n in range(1, 201)]
    assert parent.scoreboard.read().current == 200


def test_every_cut_of_the_stream(start):
    parent = start()
    stream = function(1, add) + known(1, 1, 2, 3) + call(2, add, 4, 5)
    for cut in range(0, len(stream), 3):
        parent.sock.sendall(stream[:cut])
        parent.sock.sendall(stream[cut:])
        assert parent.results(2) == [(1, 5), (2, 9)]


def test_the_end_of_the_stream_is_the_end(start):
    parent = start()
    parent.sock.shutdown(socket.SHUT_WR)
    assert parent.wait() == 0


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_half_a_frame_and_then_nothing(start, cut):
    parent = start()
    parent.send(call(1, add, 1, 2)[:cut])
    parent.sock.shutdown(socket.SHUT_WR)
    assert parent.wait() == 0
    with pytest.raises(EOFError):
        parent.read()


def test_half_a_large_frame_and_then_nothing(start):
    parent = start()
    parent.send(frames.HEADER.pack(frames.KWCALL, 0, 1, 1 << 20), b"x" * 100_000)
    parent.sock.shutdown(socket.SHUT_WR)
    assert parent.wait() == 0


def test_retire(start):
    parent = start()
    parent.send(call(1, add, 1, 2), frames.frame(frames.RETIRE, EX_RECYCLE, 0))
    assert parent.results(1) == [(1, 3)]
    assert parent.wait() == EX_RECYCLE


def test_an_error_is_sent_and_the_next_call_runs(start):
    parent = start()
    parent.send(call(1, explode), call(2, add, 1, 1))
    kind, _, number, body = parent.read()
    assert (kind, number) == (frames.ERROR, 1)
    assert type(errors.decode(body).exception) is ValueError
    assert parent.results(1) == [(2, 2)]


@pytest.mark.parametrize("form", ["carried", "known", "garbage", "unknown function"])
def test_a_call_that_cannot_be_rebuilt(start, form):
    parent = start()
    parent.send(function(1, add), known(1, 1, 1, 1))
    parent.results(1)
    parent.send(
        {
            "carried": call(2, add, Poison(), 1),
            "known": known(2, 1, Poison(), 1),
            "garbage": frames.frame(frames.CALL, 1, 2, b"\x80\x05garbage"),
            "unknown function": known(2, 99, 1, 1),
        }[form],
        known(3, 1, 2, 2),
    )
    kind, _, number, body = parent.read()
    assert (kind, number) == (frames.ERROR, 2)
    assert type(errors.decode(body).exception) is PayloadError
    assert parent.results(1) == [(3, 4)]


def test_maps(start):
    parent = start()
    parent.send(
        function(1, add),
        frames.frame(frames.STARMAP, 1, 1, pickle.dumps([(1, 2), (3, 4)])),
        frames.frame(frames.MAP, 0, 2, pickle.dumps((str, [1, 2, 3]))),
    )
    assert parent.results(2) == [(1, [3, 7]), (2, ["1", "2", "3"])]
    assert parent.scoreboard.read().item == 2


def test_a_map_without_limits_looks_at_no_clock_for_its_items(start):
    parent = start()
    parent.send(frames.frame(frames.MAP, 0, 1, pickle.dumps((nap, [0.02, 0.0]))))
    assert parent.results(1) == [(1, ["slept", "slept"])]
    plain = parent.scoreboard.read()
    parent.send(frames.frame(frames.MAP | frames.TIMED, 0, 2, pickle.dumps((nap, [0.02, 0.0]))))
    sent_ns = time.monotonic_ns()
    assert parent.results(1) == [(2, ["slept", "slept"])]
    timed = parent.scoreboard.read()
    assert (plain.current, plain.item, timed.current, timed.item) == (1, 1, 2, 1)
    assert plain.started_ns < sent_ns - 20_000_000  # it is the call's: the first item slept after it
    assert timed.started_ns > sent_ns + 15_000_000  # it is the second item's


@pytest.mark.parametrize("kind", [frames.MAP, frames.MAP | frames.TIMED])
def test_an_item_that_raises_stop_iteration_does_not_shorten_the_map(start, kind):
    parent = start()
    parent.send(frames.frame(kind, 0, 1, pickle.dumps((stop_at_two, [1, 2, 3]))))
    answer, _, number, body = parent.read()
    assert (answer, number) == (frames.ERROR, 1)
    assert type(errors.decode(body).exception) is StopIteration
    assert parent.scoreboard.read().item == 1


def test_large_bodies_both_ways(start):
    parent = start()
    block = bytearray(os.urandom(1 << 20))
    kept = []
    pickled = pickle.dumps((block.__class__, (pickle.PickleBuffer(block),), {}), 5, buffer_callback=kept.append)
    parts, size = frames.pack_large(pickled, [buffer.raw() for buffer in kept])
    parent.send(frames.HEADER.pack(frames.KWCALL | frames.LARGE, 0, 1, size), *map(bytes, parts))
    kind, _, number, body = parent.read()
    assert (kind & frames.KIND, number) == (frames.RESULT, 1)
    if kind & frames.LARGE:
        pickled, buffers = frames.unpack_large(memoryview(body))
        assert pickle.loads(pickled, buffers=buffers) == block
    else:
        assert pickling.read(body) == block


def test_a_recall_is_honoured_and_ended(start):
    parent = start()
    parent.send(function(1, nap), known(1, 1, 0.3))
    wait_until(lambda: parent.scoreboard.read().current == 1, 10)
    parent.scoreboard.recall(2)
    parent.send(known(2, 1, 0), known(3, 1, 0))
    assert parent.results(1) == [(1, "slept")]
    kind, _, _, body = parent.read()
    assert (kind, frames.read_about(body)[0]) == (frames.SKIPPED, 2)
    assert parent.scoreboard.read().skipped_from == 2
    parent.send(frames.frame(frames.RESUME, 0, 2), known(4, 1, 0))
    assert parent.results(1) == [(4, "slept")]


def test_accept(start):
    parent = start()
    parent.send(call(1, add, 1, 2, kind=frames.KWCALL | frames.ACCEPT))
    kind, _, _, body = parent.read()
    number, started_ns = frames.read_about(body)
    assert (kind, number) == (frames.ACCEPTED, 1)
    assert abs(started_ns / 1e9 - time.monotonic()) < 60
    assert parent.results(1) == [(1, 3)]


@pytest.mark.parametrize("verdict", [0, 1])
def test_synack(start, verdict):
    parent = start()
    parent.send(call(1, add, 1, 2, kind=frames.KWCALL | frames.ACCEPT | frames.SYNACK))
    assert parent.read()[0] == frames.ACCEPTED
    # something else may come before the verdict
    parent.send(function(1, add), frames.frame(frames.VERDICT, verdict, 1), known(2, 1, 5, 5))
    kind, _, number, body = parent.read()
    if verdict:
        assert (number, pickling.read(body)) == (1, 3)
    else:
        assert (kind, frames.read_about(body)[0]) == (frames.DROPPED, 1)
    assert parent.results(1) == [(2, 10)]


def test_forget(start):
    parent = start()
    parent.send(function(1, add), known(1, 1, 1, 1), frames.frame(frames.FORGET, 1, 0), known(2, 1, 1, 1))
    assert parent.results(1) == [(1, 2)]
    assert parent.read()[0] == frames.ERROR


def aim_and_signal(parent, number, item=0):
    parent.scoreboard.aim(number, item)
    os.kill(parent.pid, signal.SIGUSR1)


def test_a_soft_limit_hits_its_call(start, tmp_path):
    parent = start()
    parent.send(call(1, snooze, 10, tmp_path / "begun"))
    wait_until((tmp_path / "begun").exists, 10)
    aim_and_signal(parent, 1)
    kind, _, number, body = parent.read()
    assert (kind, number) == (frames.ERROR, 1)
    assert type(errors.decode(body).exception) is SoftTimeLimitExceeded


def test_a_soft_limit_that_came_after_the_board_and_before_the_call(start):
    """The parent saw the call on the scoreboard and sent its signal; the worker was preempted there, and ran nothing yet."""
    parent = start()
    aim_and_signal(parent, 1)
    parent.send(call(1, snooze, 10))
    kind, _, number, body = parent.read()
    assert (kind, number) == (frames.ERROR, 1)
    assert type(errors.decode(body).exception) is SoftTimeLimitExceeded
    parent.send(call(2, add, 1, 1))
    assert parent.results(1) == [(2, 2)]


@pytest.mark.parametrize("aimed_at", [0, 1, 3])
def test_a_soft_limit_for_another_call_hits_nobody(start, aimed_at, tmp_path):
    parent = start()
    parent.send(call(1, add, 1, 1))
    parent.results(1)
    parent.send(call(2, snooze, 0.3, tmp_path / "begun"))
    wait_until((tmp_path / "begun").exists, 10)
    aim_and_signal(parent, aimed_at)
    assert parent.results(1) == [(2, "slept")]


def test_a_thousand_soft_signals_on_an_idle_worker(start):
    parent = start()
    for _ in range(1000):
        aim_and_signal(parent, 0)
    parent.send(call(1, add, 1, 2))
    assert parent.results(1) == [(1, 3)]


def test_sigterm_leaves_by_system_exit(start):
    parent = start()
    parent.send(call(1, snooze, 10))
    wait_until(lambda: parent.scoreboard.read().current == 1, 10)
    os.kill(parent.pid, signal.SIGTERM)
    assert parent.wait() == 128 + signal.SIGTERM


def test_memory_makes_it_leave_after_the_call(start):
    parent = start(max_memory_kb=30_000)
    parent.send(call(1, add, 1, 2), call(2, allocate, 60), call(3, add, 1, 2))
    assert parent.results(2) == [(1, 3), (2, 60 << 20)]
    kind, _, _, body = parent.read()
    assert (kind, frames.read_about(body)[0]) == (frames.LEAVING, 2)
    assert parent.wait() == EX_RECYCLE


def test_it_waits_without_waking(start):
    parent = start()
    parent.send(call(1, add, 1, 2))
    parent.results(1)

    status = Path(f"/proc/{parent.pid}/status")

    def switches():
        return sum(int(line.split()[1]) for line in status.read_text().splitlines() if "ctxt_switches" in line)

    wait_until(lambda: "State:\tS" in status.read_text(), 10)
    before = switches()
    time.sleep(0.5)  # what is measured: time in which nothing happens
    assert switches() == before


def test_a_claim_of_terabytes_does_not_kill_the_machine(start):
    """The parent is trusted, but a corrupted header must end in that worker's death, not in the machine's."""
    parent = start()
    parent.send(struct.pack("<BIQQ", frames.KWCALL, 0, 1, 1 << 50), b"x" * 1000)
    parent.sock.shutdown(socket.SHUT_WR)
    assert parent.wait() is not None


class Ends:
    """Calls `act` in its `__del__`."""

    def __init__(self, act):
        self.act = act

    def __del__(self):
        self.act()


def in_del(strike):
    ends = Ends(strike)
    del ends


def in_a_weakrefs_callback(strike):
    ends = Ends(int)
    watching = weakref.ref(ends, lambda _: strike())
    del ends
    del watching


def in_a_del_within_a_del(strike):
    """What is raised again is dropped again."""

    def outer():
        in_del(strike)
        time.sleep(20)

    in_del(outer)


def while_a_hook_is_told(strike):
    """See `told`."""

    def fail():
        raise ValueError(strike)

    in_del(fail)


PLACES = [in_del, in_a_weakrefs_callback, in_a_del_within_a_del, while_a_hook_is_told]


@pytest.fixture
def told(monkeypatch, tmp_path):
    """What a hook of the user's is told of in the worker; it runs what it finds in a ValueError."""
    path = tmp_path / "told"
    path.touch()

    def hook(unraisable):
        with path.open("a") as log:
            print(unraisable.exc_type.__name__, file=log)
        if isinstance(unraisable.exc_value, ValueError):
            unraisable.exc_value.args[0]()

    monkeypatch.setattr(sys, "unraisablehook", hook)
    return lambda: path.read_text().split()


def strike(signum):
    os.kill(os.getpid(), signum)  # the handler runs before this returns
    time.sleep(0.001)


def leave():
    raise  # what is being handled


def struck(place, signum, log, then=None):
    try:
        place(functools.partial(strike, signum))
        time.sleep(20)
    except BaseException as exc:
        log.write_text(type(exc).__name__)
        return then() if then is not None else type(exc)
    return "nothing came"


@pytest.mark.parametrize("place", PLACES)
def test_a_sigterm_where_python_drops_it_is_raised_again(start, tmp_path, told, place):
    """The task would go on, be killed half a second later without its `finally`, and its end be printed."""
    parent = start()
    parent.send(call(1, struck, place, signal.SIGTERM, tmp_path / "log", leave))
    assert parent.wait() == 128 + signal.SIGTERM
    assert (tmp_path / "log").read_text() == "SystemExit"
    assert told() == ["ValueError"] * (place is while_a_hook_is_told)


class Delayed:
    """A place that is not taken before the limit is on the scoreboard."""

    def __init__(self, place, begun, aimed):
        self.place, self.begun, self.aimed = place, begun, aimed

    def __call__(self, strike):
        self.begun.touch()
        wait_until(self.aimed.exists, 10)
        self.place(strike)


@pytest.mark.parametrize("place", PLACES)
def test_a_soft_limit_where_python_drops_it_is_raised_again(start, tmp_path, told, place):
    parent = start()
    begun, aimed = tmp_path / "begun", tmp_path / "aimed"
    parent.send(call(1, struck, Delayed(place, begun, aimed), signal.SIGUSR1, tmp_path / "log"))
    wait_until(begun.exists, 10)
    parent.scoreboard.aim(1, 0)  # and no signal: it strikes itself
    aimed.touch()
    assert parent.results(1) == [(1, SoftTimeLimitExceeded)]
    assert told() == ["ValueError"] * (place is while_a_hook_is_told)
    parent.send(call(2, add, 1, 2))
    assert parent.results(1) == [(2, 3)]


def test_a_sigterm_that_is_raised_again_and_swallowed_ends_the_worker_after_the_call(start, tmp_path, told):
    parent = start()
    parent.send(call(1, struck, in_del, signal.SIGTERM, tmp_path / "log"), call(2, add, 1, 2))
    assert parent.results(1) == [(1, SystemExit)]
    assert parent.wait() == 128 + signal.SIGTERM


def test_the_second_sigterm_kills_though_the_first_was_raised_twice(start, tmp_path, told):
    parent = start()
    parent.send(call(1, struck, in_del, signal.SIGTERM, tmp_path / "log", functools.partial(time.sleep, 20)))
    wait_until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text(), 10)
    os.kill(parent.pid, signal.SIGTERM)
    assert parent.wait() == -signal.SIGTERM


def raises_in_del(exc):
    def fail():
        raise exc

    in_del(fail)


def test_what_a_task_drops_itself_is_for_the_users_hook(start, told):
    parent = start()
    for number, exc in enumerate([KeyError(), SystemExit(128 + signal.SIGTERM), SoftTimeLimitExceeded()], 1):
        parent.send(call(number, raises_in_del, exc))
    assert parent.results(3) == [(1, None), (2, None), (3, None)]
    assert told() == ["KeyError", "SystemExit", "SoftTimeLimitExceeded"]
