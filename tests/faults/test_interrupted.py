"""A turn survives an exception at any point of it, and a storm of them."""

import contextlib
import dis
import gc
import itertools
import os
import signal
import socket
import sys
import time
from types import SimpleNamespace

import fault_tasks as t
import pytest
import strikes
from strikes import StruckError

from billiard import WorkerLostError
from billiard._api.results import ResultHandle
from billiard._core.core import Core
from billiard._supervisor.channels import Channels
from billiard._supervisor.engine import Engine
from billiard._supervisor.poll_set import IN, OUT, PollSet, _WakeUp
from billiard._supervisor.spawn_arguments import InMemory
from billiard._supervisor.target import Waitable
from billiard._supervisor.worker_link import Sentinel
from billiard._wire.channel import Channel
from billiard._wire.far_end import FarEnd
from billiard._wire.scoreboard import Scoreboard
from pool_helpers import wait_until

SEED = int(os.environ.get("BILLIARD_FAULT_SEED", "1"))
SECONDS = float(os.environ.get("BILLIARD_FAULT_SECONDS", "20"))


@pytest.fixture(autouse=True)
def nothing_left():
    """Not here: an exception between a system call and the store of its result loses that descriptor, in any program."""
    yield
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what was made and not stored: the interpreter closes it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ... and warns where nobody can catch it
@pytest.mark.parametrize("scene", strikes.SCENES, ids=lambda scene: scene.name)
def test_an_exception_at_random_points(scene):
    """`python -m tests.faults.strikes` strikes them all."""
    assert strikes.sample(scene, SEED, SECONDS / len(strikes.SCENES)), "nothing was struck"


@pytest.mark.parametrize("kind", [Channel, FarEnd, InMemory, Scoreboard, Sentinel, _WakeUp])
def test_what_an_exception_kept_from_being_made_dies_in_silence(kind):
    """It came as the constructor was entered. What a finalizer raises is an error here, and noise on stderr elsewhere."""
    kind.__new__(kind)


def test_every_kind_of_point_is_found():
    """Else the strikes would prove nothing."""
    functions = [ResultHandle.wait, Engine.kick, Engine._carry_out, Channel.receive, Waitable.wake_all]
    codes = [function.__code__ for function in functions]
    assert all(strikes.points(code) for code in codes)
    found = {}
    for code in codes:
        names = {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}
        for at in strikes.points(code):
            found.setdefault(names[at], []).append(names[max(other for other in names if other < at)])
    assert "JUMP_BACKWARD" in found
    assert {"RESUME", "CALL"} <= {name for names in found.values() for name in names}
    assert not strikes.points(test_every_kind_of_point_is_found.__code__)


@pytest.fixture
def polled():
    """A worker's two descriptors in a poll set, both ready for whatever they are polled for: (channels, poll set, worker)."""
    poll_set = PollSet()
    channels = Channels(Core(1), poll_set)
    pipe_read, pipe_write = os.pipe()
    ours, theirs = socket.socketpair()
    os.write(pipe_write, b"x")
    theirs.send(b"x")
    channel = SimpleNamespace(fd=pipe_read, sock_fd=ours.fileno(), busy=False, awaits_body=False)
    yield channels, poll_set, SimpleNamespace(link=SimpleNamespace(channel=channel, registered=True, watched=0))
    strikes._injector.close()
    poll_set.close()
    ours.close()
    theirs.close()
    os.close(pipe_read)
    os.close(pipe_write)


def want(channels, worker, wanted):
    channel = worker.link.channel
    channel.busy, channel.awaits_body = bool(wanted & OUT), bool(wanted & IN)
    channels._watch_socket(worker)


def test_what_a_socket_is_polled_for_is_known_again_after_an_exception(polled):
    """Cut short at any point on its way from one to another, the next change still leads where it should."""
    channels, poll_set, worker = polled
    channel = worker.link.channel
    poll_set.watch(channel.fd, worker)
    struck = set()
    for first, second, third in itertools.product((0, IN, OUT, IN | OUT), repeat=3):
        for ordinal in itertools.count():
            want(channels, worker, first)
            strike = strikes.Strike(ordinal)
            with strike, contextlib.suppress(StruckError):
                want(channels, worker, second)
            want(channels, worker, third)
            expected = {channel.sock_fd: third, channel.fd: 0 if third & IN else IN}
            assert dict(poll_set.poll(0)) == {fd: mask for fd, mask in expected.items() if mask}, strike.struck
            if strike.struck is None:
                break
            struck.add(strike.struck.where)
    assert len(struck) > 10, struck


def storm(seconds, pool, make_results):
    """Wait for results under SIGALRM at 1 kHz, whose handler raises."""

    struck = done = 0

    def strike(signum, frame):
        nonlocal struck
        while frame is not None:
            if frame.f_code is ResultHandle.wait.__code__:  # elsewhere it would hit the test itself
                struck += 1
                raise StruckError
            frame = frame.f_back

    # a strike inside a finalizer is swallowed by the interpreter, as it must be; reported, it would be struck again
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    before = signal.signal(signal.SIGALRM, strike)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            results = make_results()
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            for result in results:
                while not result.ready():
                    with contextlib.suppress(StruckError):
                        result.wait(10)
            signal.setitimer(signal.ITIMER_REAL, 0)
            yield results
            done += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook
    assert done
    assert struck > 50, f"a storm of {struck} is none"


@pytest.mark.parametrize("threads", [False, True], ids=["caller alone", "with a supervisor"])
def test_a_storm_of_signals_over_waiting_callers(make_pool, threads):
    pool = make_pool(2, threads=threads)
    values = list(range(60))
    for results in storm(3, pool, lambda: [pool.apply_async(t.nap, (0.001, i)) for i in values]):
        assert [result.get(10) for result in results] == values


def test_a_storm_with_deaths_and_limits(make_pool):
    from billiard import TimeLimitExceeded

    pool = make_pool(2, threads=False)

    def some():
        return [
            *(pool.apply_async(t.nap, (0.002, i)) for i in range(10)),
            pool.apply_async(t.strike, ("SIGKILL",)),
            pool.apply_async(t.nap, (30,), timeout=0.05),
        ]

    for results in storm(4, pool, some):
        assert [result.get(10) for result in results[:10]] == list(range(10))
        with pytest.raises(WorkerLostError):
            results[10].get(10)
        with pytest.raises(TimeLimitExceeded):
            results[11].get(10)
    assert pool.apply(t.add, (1, 2)) == 3


def test_a_storm_of_large_arguments(make_pool):
    pool = make_pool(2, threads=False)
    block = bytearray(3 << 20)
    for results in storm(3, pool, lambda: [pool.apply_async(t.echo, (block,)) for _ in range(4)]):
        assert all(len(result.get(10)) == len(block) for result in results)


def test_ctrl_c_in_get_and_again(make_pool):
    pool = make_pool(1, threads=False)
    result = pool.apply_async(t.nap, (0.5, "value"))

    def strike(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            result.get(10)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert result.get(10) == "value"


def test_a_pool_that_breaks_ends_though_its_ending_was_cut_short(make_pool, monkeypatch):
    pool = make_pool(3, threads=False, max_restarts=1, max_restart_freq=60)
    preemption, struck = pool._engine.core.preemption, []
    kill_now = preemption.kill_now

    def cut_short(*args):
        kill_now(*args)
        struck.append(args[0])
        if len(struck) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(preemption, "kill_now", cut_short)
    running = [pool.apply_async(t.nap, (60,)) for _ in range(2)]
    wait_until(lambda: all(call.worker_pids() for call in running), turn=lambda: pool.turn(0.01))
    with pytest.raises(KeyboardInterrupt):
        for _ in range(3):
            pool.apply_async(t.strike, ("os._exit",)).wait(10)
    assert pool._engine.wait(pool._engine.end, 10), "a worker was never told to go"
