"""A worker's READY may overtake the news of its pid, which comes by another way. The engine, with a launcher that does what
the test says."""

import os
import signal
import time

import pytest

from billiard._core.core import Core
from billiard._core.state import Job
from billiard._supervisor import engine as engines
from billiard._supervisor import processes
from billiard._supervisor.launching import EXITED, STARTED
from billiard._wire import frames
from billiard._wire.far_end import FarEnd
from billiard._wire.scoreboard import CURRENT
from billiard._wire.scoreboard import STARTED as SINCE
from pool_helpers import wait_until

PID = 1 << 30  # nobody's


class Scripted:
    def __init__(self, poll_set):
        self.read, self._write = os.pipe()
        self._unwatch = poll_set.unwatch
        poll_set.watch(self.read)
        self.told = []
        self.made = None

    def start(self, worker, far_end, scoreboard):
        self.made = worker, FarEnd(far_end.sock.dup(), [os.dup(far_end.fds[-1])]), scoreboard

    def tell(self, *event):
        self.told.append(event)
        os.write(self._write, b"x")

    def events(self, fd):
        return list(self.told) if fd == self.read else []

    def applied(self, count):
        del self.told[:count]
        if count:
            os.read(self.read, count)

    def reap(self, worker):
        self.made[1].close()

    def close(self):
        self._unwatch(self.read)
        os.close(self.read)
        os.close(self._write)

    close_in_forked_child = close


@pytest.fixture
def signals(monkeypatch):
    sent = []
    monkeypatch.setattr(processes, "send_signal", lambda pid, signum, group: sent.append((pid, signum)))
    return sent


def limited_job():
    job = Job()
    job.kind, job.call = frames.CALL, b""
    job.limit(0.01, None)
    return job


def test_ready_counts_when_the_pid_is_known_and_so_no_signal_is_lost(signals):
    engine = engines.Engine(Core(1), Scripted, lambda *notice: None, False, "scripted")
    engine.start()
    launcher = engine.processes.launcher
    worker, far, scoreboard = launcher.made
    far.write(frames.frame(frames.READY, 0, 0))
    job = limited_job()
    engine.submit(job)
    engine.turn(0.0)
    assert worker.link.ready_early
    assert job.holder is None  # nothing to interrupt in a worker that could not be signalled

    launcher.tell(STARTED, worker.ident, PID)
    engine.turn(1.0)
    assert job.holder is worker
    scoreboard.cells[SINCE], scoreboard.cells[CURRENT] = time.monotonic_ns(), job.number
    wait_until(lambda: signals, 10, turn=lambda: engine.turn(0.1))
    assert signals == [(PID, signal.SIGUSR1)]

    far.write(frames.frame(frames.RESULT, 1, job.number, b"."))
    engine.close_later()
    launcher.tell(EXITED, worker.ident, 0)
    assert engine.wait(engine.end, 10)
    assert job.state == frames.RESULT
    engine.release()
