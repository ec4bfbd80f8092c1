"""Signals, exit statuses, restart intensity."""

import os
import signal
import subprocess
import sys

import pytest

from billiard import common
from billiard.exceptions import RestartFreqExceeded


@pytest.fixture(autouse=True)
def same_signals():
    kept = {num: signal.getsignal(num) for num in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)}
    yield
    for num, handler in kept.items():
        signal.signal(num, handler)
    common.clear_terminate_handler_fired()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exitcode 0"),
        (155, "exitcode 155"),
        (None, "exitcode None"),
        (-9, "signal 9 (SIGKILL)"),
        (-6, "signal 6 (SIGABRT)"),
        (-1, "signal 1 (SIGHUP)"),
        (-63, "signal 63"),
    ],
)
def test_human_status(status, text):
    assert common.human_status(status) == text


def test_signum():
    assert common.signum("SIGTERM") == 15
    assert common.signum("SIGNONE") is None
    assert (common.TERM_SIGNAL, common.TERM_SIGNAME, common.EX_SOFTWARE) == (15, "SIGTERM", 70)


def test_pickle_loads():
    import pickle

    message = pickle.dumps([1, "two"])
    for form in (message, bytearray(message), memoryview(message)):
        assert common.pickle_loads(form) == [1, "two"]
    assert common.pickle_loads(message, load=lambda f: f.read()) == message


def test_maybe_setsignal_swallows_what_cannot_be():
    assert common.maybe_setsignal(signal.SIGKILL, signal.SIG_IGN) is None
    assert common.maybe_setsignal(10**6, signal.SIG_IGN) is None


def test_reset_signals_spares_the_ignored(monkeypatch):
    monkeypatch.setattr(common, "TERMSIGS_DEFAULT", ["SIGHUP", "SIGUSR1", "SIGNONE"])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    common.reset_signals()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGUSR1) is common._shutdown_cleanup


def test_reset_signals_forces_and_ignores(monkeypatch):
    monkeypatch.setattr(common, "TERMSIGS_FULL", ["SIGQUIT"])
    monkeypatch.setattr(common, "TERMSIGS_FORCE", {"SIGQUIT"})
    monkeypatch.setattr(common, "TERMSIGS_IGNORE", {"SIGTERM"})
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)

    def handler(signum, frame):
        pass

    common.reset_signals(handler, full=True)
    assert signal.getsignal(signal.SIGQUIT) is handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


SCRIPT = """
import os, signal, sys
from billiard import common
common.reset_signals()
try:
    os.kill(os.getpid(), signal.SIGTERM)
finally:
    assert common.terminate_handler_fired()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    print("cleaned up", flush=True)
    {second}
"""


@pytest.mark.parametrize(
    ("second", "status"),
    [
        ("pass", 15),  # -(256 - 15) & 0xff
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGHUP)", 70),
    ],
    ids=["once", "the same again", "another"],
)
def test_a_terminating_signal_unwinds_once(second, status):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(second=second)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("cleaned up\n", status), done.stderr


def test_remapped_terminating_signal():
    code = (
        "from billiard import common, Process; import time, signal\n"
        "assert (common.TERM_SIGNAME, common.TERMSIGS_IGNORE, common.TERMSIGS_FORCE) "
        "== ('SIGQUIT', {'SIGTERM'}, {'SIGQUIT'})\n"
        "p = Process(target=time.sleep, args=(60,)); p.start(); p.terminate(); p.join(); print(p.exitcode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "REMAP_SIGTERM": "SIGQUIT"},
    )
    assert (done.stdout, done.stderr) == (f"{-signal.SIGQUIT}\n", "")


class TestRestartState:
    def test_a_rate(self):
        state = common.restart_state(3, 10)
        for _ in range(3):
            state.step(now=100)
        with pytest.raises(RestartFreqExceeded, match="3 in 10s"):
            state.step(now=109)
        assert state.R == 0
        assert state.RestartFreqExceeded is RestartFreqExceeded

    def test_time_heals(self):
        state = common.restart_state(1, 10)
        state.step(now=100)
        state.step(now=110)
        assert (state.R, state.T) == (1, 110)

    @pytest.mark.parametrize("unlimited", [None, 0])
    def test_unlimited(self, unlimited):
        state = common.restart_state(unlimited, 1)
        for _ in range(1000):
            state.step(now=5)
        assert state.R == 1000

    def test_monotonic_by_default(self):
        state = common.restart_state(5, 1)
        assert (state.R, state.T) == (0, None)
        state.step()
        assert state.T is not None
        assert repr(state) == "<restart_state: 1 of 5 in 1s>"
