"""The pure parts of the legacy pool, and the rules it shares with the engine."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import sys
import threading
import time
from unittest import mock

import legacy_tasks
import pytest

import billiard.pool
from billiard._celery import signal_retry, wire
from billiard._wire.exit_status import is_expected, signal_behind, spends_restart
from billiard.exceptions import SoftTimeLimitExceeded
from billiard.queues import _SimpleQueue
from pool_helpers import wait_until


@pytest.mark.parametrize(
    ("status", "expected", "spends"),
    [
        (None, False, True),
        (0, True, False),
        (155, True, False),
        (1, False, True),
        (-9, False, True),
    ],
)
def test_exit_statuses(status, expected, spends):
    assert is_expected(status) is expected
    assert is_expected(status, ordered=True)
    assert spends_restart(status) is spends


def test_the_signal_behind_an_exit_argument():
    assert signal_behind(-(256 - signal.SIGTERM)) == signal.SIGTERM
    assert [signal_behind(n) for n in (0, 1, 155, -15, -256)] == [None] * 5


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("head", [(0, None), (7, None), (300, 12), (70_000, 0), (1 << 40, None)])
def test_the_head_of_a_broken_message_is_found(protocol, head):
    payload = pickle.dumps((wire.TASK, (*head, print, (), {})), protocol)
    assert wire.salvage_head(payload) == head
    assert wire.salvage_head(payload[:-20]) == head


def test_no_head_is_made_up():
    assert wire.salvage_head(pickle.dumps(("text", 1))) is None
    assert wire.salvage_head(pickle.dumps((wire.READY, (1, None)))) is None
    assert wire.salvage_head(b"\xff\xff\xff") is None


@pytest.mark.parametrize("value", [None, 1, "text", b"bytes", (1, "text", 0.5), ()])
def test_plain_values(value):
    assert wire.is_plain(value)


@pytest.mark.parametrize("value", [[1], {"a": 1}, ((1,),), object(), legacy_tasks.Explosive(), "x" * (1 << 25)])
def test_values_that_travel_sealed(value):
    assert not wire.is_plain(value)


def test_a_sealed_outcome_opens_by_itself():
    assert pickle.loads(pickle.dumps(wire.Sealed((True, [1, 2])))) == (True, [1, 2])


def test_an_unreadable_outcome_is_a_failure():
    opened = pickle.loads(pickle.dumps(wire.Sealed((True, legacy_tasks.Explosive()))))
    ok, einfo = opened.outcome()
    assert not ok
    assert "boom at load" in str(einfo.exception.exc)


def test_an_encoding_error_survives_a_broken_repr_and_pickle():
    class Unspeakable:
        def __repr__(self):
            raise RuntimeError

    error = wire.MaybeEncodingError(ValueError("why"), Unspeakable())
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert "ValueError" in str(again)


def test_writing_to_a_closed_pipe_is_ebadf():
    queue = _SimpleQueue(wnonblock=True)
    send = wire.OffsetSender(queue._writer)
    assert send(b"abcdef", 4) == 2
    queue.close()
    with pytest.raises(OSError) as caught:
        send(b"abc", 0)
    assert caught.value.errno == errno.EBADF


class TestLengthAhead:
    """AsynPool's way of writing: four bytes of length, then the body, each until all of it is taken."""

    LENGTH, BODY = memoryview(b"\0\0\0\5"), memoryview(b"12345")

    @pytest.fixture
    def pipe(self):
        pipe = _SimpleQueue(wnonblock=True)
        os.set_blocking(pipe._reader.fileno(), False)
        yield pipe
        pipe.close()

    @pytest.fixture
    def send(self, pipe):
        return wire.OffsetSender(pipe._writer)

    @staticmethod
    def read(pipe):
        return os.read(pipe._reader.fileno(), 1 << 17)

    def test_it_does_not_wake_the_worker_by_itself(self, pipe, send):
        assert send(self.LENGTH, 0) == 4
        with pytest.raises(BlockingIOError):
            self.read(pipe)
        assert send(self.BODY, 0) == 5
        assert self.read(pipe) == b"\0\0\0\00512345"

    def test_in_parts(self, pipe, send):
        assert send(self.LENGTH, 0) == 4
        assert send(self.BODY[:3], 0) == 3
        assert send(self.BODY, 3) == 2
        assert self.read(pipe) == b"\0\0\0\00512345"

    def test_of_a_message_that_was_given_up(self, pipe, send):
        assert send(memoryview(b"\0\0\0\7"), 0) == 4
        assert send(self.LENGTH, 0) == 4
        assert send(self.BODY, 0) == 5
        assert self.read(pipe) == b"\0\0\0\00512345"

    def test_a_full_pipe(self, pipe, send):
        with pytest.raises(BlockingIOError):
            while True:
                os.write(pipe._writer.fileno(), bytes(1 << 12))
        assert send(self.LENGTH, 0) == 4
        with pytest.raises(BlockingIOError):
            send(self.BODY, 0)
        self.read(pipe)
        assert send(self.BODY, 0) == 5
        assert self.read(pipe) == b"\0\0\0\00512345"

    def test_a_pipe_with_room_for_half_of_it(self, pipe, send, monkeypatch):
        assert send(self.LENGTH, 0) == 4
        with monkeypatch.context() as patch:
            patch.setattr(os, "writev", lambda fd, parts: os.write(fd, parts[0][:2]))
            with pytest.raises(BlockingIOError) as caught:
                send(self.BODY, 0)
        assert caught.value.errno == errno.EAGAIN
        assert send(self.BODY, 0) == 5
        assert self.read(pipe) == b"\0\0\0\00512345"

    @pytest.mark.parametrize("tail", [b"tail", memoryview(b"a long tail")[-4:]])
    def test_the_last_four_bytes_of_something_are_no_length(self, pipe, send, tail):
        assert send(tail, 0) == 4
        assert self.read(pipe) == b"tail"


def test_locks_are_the_kind_the_door_says():
    class Dummy:
        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            return None

    with mock.patch("billiard.pool.Lock", Dummy):
        result = billiard.pool.ApplyResult({}, None)
    result._set(None, (True, 1))
    assert type(result._mutex) is Dummy


class TestApplyResult:
    def test_leaves_the_cache_when_accepted_and_set_in_either_order(self):
        for steps in (("_ack", "_set"), ("_set", "_ack")):
            cache = {}
            result = billiard.pool.ApplyResult(cache, None)
            for step in steps:
                assert cache
                result._ack(None, 1.0, 7, None) if step == "_ack" else result._set(None, (True, 1))
            assert cache == {}

    def test_callback_errors_stay_inside_and_chosen_ones_get_out(self):
        callback = mock.Mock(side_effect=KeyError)
        billiard.pool.ApplyResult({}, callback)._set(None, (True, 1))
        callback.assert_called_once_with(1)
        with pytest.raises(KeyError):
            billiard.pool.ApplyResult({}, callback, callbacks_propagate=(KeyError,))._set(None, (True, 1))
        callback.side_effect = SystemExit
        with pytest.raises(SystemExit):
            billiard.pool.ApplyResult({}, callback)._set(None, (True, 1))

    def test_the_worker_is_answered_even_if_the_accept_callback_fails(self):
        answers = []
        result = billiard.pool.ApplyResult(
            {}, None, accept_callback=mock.Mock(side_effect=ValueError), send_ack=lambda *args: answers.append(args)
        )
        result._ack(None, 1.0, 7, 5)
        assert answers == [(billiard.pool.ACK, 7, result._job, 5)]

    def test_a_limit_is_set_at_acceptance_and_cancelled_at_the_end(self):
        calls = mock.Mock()
        result = billiard.pool.ApplyResult(
            {}, None, soft_timeout=1, timeout=2, on_timeout_set=calls.set, on_timeout_cancel=calls.cancel
        )
        result._ack(None, 1.0, 7, None)
        result._set(None, (True, None))
        assert calls.mock_calls == [mock.call.set(result, 1, 2), mock.call.cancel(result)]

    def test_a_cancelled_job_is_refused(self):
        answers = []
        result = billiard.pool.ApplyResult({}, None, send_ack=lambda *args: answers.append(args))
        result._cancel()
        result._ack(None, 1.0, 7, 5)
        assert answers == [(billiard.pool.NACK, 7, result._job, 5)]
        assert result.worker_pids() == []


class TestLaxBoundedSemaphore:
    def test_is_bounded_and_forgiving(self):
        semaphore = billiard.pool.LaxBoundedSemaphore(2)
        semaphore.release()
        assert semaphore._value == 2
        semaphore.grow()
        assert (semaphore._value, semaphore._initial_value) == (3, 3)
        semaphore.shrink()
        assert (semaphore._value, semaphore._initial_value) == (2, 2)
        semaphore.acquire()
        semaphore.acquire()
        assert not semaphore.acquire(blocking=False)
        semaphore.clear()
        assert semaphore._value == 2


class TestWorker:
    @pytest.fixture
    def worker(self, monkeypatch):
        monkeypatch.setattr("billiard.pool.os._exit", mock.Mock())
        worker = billiard.pool.Worker(mock.Mock(), mock.Mock())
        worker.inqW_fd = 5
        return worker

    def test_death_is_told_with_the_terminating_signal_blocked(self, worker):
        blocked = []
        worker.outq.put.side_effect = lambda message: blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        worker._do_exit(7, 155)
        worker.outq.put.assert_called_once_with((billiard.pool.DEATH, (7, 155)))
        assert signal.SIGTERM in blocked[0]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        billiard.pool.os._exit.assert_called_once_with(155)

    def test_nothing_follows_half_a_result(self, worker):
        worker.outq.send_payload.side_effect = SystemExit(-241)
        with pytest.raises(SystemExit):
            worker._reply(1, None, True, "x" * 100_000)
        worker._do_exit(7, 1)
        worker.outq.put.assert_not_called()

    def test_a_soft_signal_between_acceptance_and_start_is_kept_for_the_task(self, worker):
        ran = mock.Mock()
        worker._coming = 6
        worker._on_soft_signal(signal.SIGUSR1, None)
        ok, einfo, leave = worker._run(5, mock.Mock(fun=ran, args=(), kwargs={}))
        assert not ok
        assert einfo.type is SoftTimeLimitExceeded
        assert leave is None
        ran.assert_not_called()

    def test_a_soft_signal_for_an_earlier_job_is_not_kept(self, worker):
        worker._coming, worker.soft_target = 6, mock.Mock(value=5)
        worker._on_soft_signal(signal.SIGUSR1, None)
        assert worker._run(5, mock.Mock(fun=int, args=(), kwargs={})) == (True, 0, None)
        assert worker.soft_target.value == 0

    def test_keeps_only_its_own_ends(self, worker, monkeypatch):
        """Else it would never see the parent's death as an end of file."""
        monkeypatch.setattr("billiard.common.reset_signals", mock.Mock())
        monkeypatch.setattr("billiard.common.maybe_setsignal", mock.Mock())
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # restored, since it sets one
        worker.after_fork()
        worker.inq._writer.close.assert_called_once_with()
        worker.outq._reader.close.assert_called_once_with()
        worker.inq._reader.close.assert_not_called()
        worker.outq._writer.close.assert_not_called()

    @pytest.mark.parametrize(("result", "to_be_counted"), [("small", 0), ("large" * 1000, 1)])
    def test_waits_at_its_end_for_a_large_result_to_be_counted(self, worker, result, to_be_counted):
        worker.maxtasks, worker.wait_for_syn = 1, None
        worker.wait_for_job = lambda: (1, None, mock.Mock(fun=lambda: result, args=(), kwargs={}))
        with mock.patch.object(worker, "_ensure_messages_consumed") as wait:
            assert worker.workloop(pid=7) == billiard.pool.EX_RECYCLE
        wait.assert_called_once_with(to_be_counted)

    def test_death_follows_a_small_result_that_was_not_sent(self, worker):
        worker.outq.send_payload.side_effect = SystemExit(-241)
        with pytest.raises(SystemExit):
            worker._reply(1, None, True, "x")
        worker._do_exit(7, 1)
        worker.outq.put.assert_called_once()

    def test_an_exit_callback_that_raises_does_not_keep_it(self, worker):
        worker.on_exit = on_exit = mock.Mock(side_effect=ValueError)
        worker._do_exit(7, None, ValueError())
        on_exit.assert_called_once_with(7, 1)
        billiard.pool.os._exit.assert_called_once_with(1)


class DroppedError(Exception):
    """Raised where Python drops it."""


class TestSignalRetry:
    """Signals that strike inside a ``__del__``, in this process."""

    @pytest.fixture
    def again(self, monkeypatch):
        """With a handler of SIGUSR2 that raises unless it is too early, and the names of the functions it came in."""

        def handle(signum, frame):
            again.handled.append(frame.f_code.co_name)
            if not again.too_early(signum, frame):
                raise DroppedError

        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
        again = signal_retry.SignalRetry(lambda exc: signal.SIGUSR2 if isinstance(exc, DroppedError) else None)
        again.handled = []
        again.install()
        before = signal.signal(signal.SIGUSR2, handle)
        yield again
        wait_until(lambda: not again.is_sending())
        signal.signal(signal.SIGUSR2, before)

    @staticmethod
    def drop():
        class Dropper:
            def __del__(self):
                raise DroppedError

        Dropper()
        wait_until(lambda: False)

    def test_it_is_raised_outside(self, again):
        with pytest.raises(DroppedError):
            self.drop()

    def test_not_while_the_hook_runs(self, again, monkeypatch):
        class SlowToStart(threading.Thread):
            def start(self):
                super().start()
                wait_until(lambda: again._answered)

        monkeypatch.setattr(signal_retry.threading, "Thread", SlowToStart)
        with pytest.raises(DroppedError):
            self.drop()
        assert len(again.handled) >= 2

    def test_one_that_came_first_while_the_hook_ran_comes_again(self, again, monkeypatch):
        """Here the hook is busy telling of somebody else's error."""
        monkeypatch.setattr(again, "_outer_hook", lambda told: os.kill(os.getpid(), signal.SIGUSR2))

        class Clumsy:
            def __del__(self):
                raise ValueError

        with pytest.raises(DroppedError):
            Clumsy()
            wait_until(lambda: False)
        assert len(again.handled) >= 2

    def test_errors_of_others_are_told_as_ever(self, again, monkeypatch):
        told = mock.Mock()
        monkeypatch.setattr(again, "_outer_hook", told)

        class Clumsy:
            def __del__(self):
                raise ValueError

        Clumsy()
        assert told.call_args.args[0].exc_type is ValueError
        assert again.handled == []

    def test_one_that_does_not_interrupt_is_sent_again(self, again, monkeypatch):
        """As if the first had come just before a system call."""
        kill, sent = signal.pthread_kill, []

        def lose_the_first(thread, signum):
            sent.append(signum)
            if len(sent) > 1:
                kill(thread, signum)

        monkeypatch.setattr(signal_retry.signal, "pthread_kill", lose_the_first)
        with pytest.raises(DroppedError):
            self.drop()
        assert len(sent) > 1

    def test_nobody_answers(self, again, monkeypatch):
        """The task has put a handler of its own in the place of ours."""
        monkeypatch.setattr(signal_retry, "GIVE_UP_S", 0.05)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

        class Dropper:
            def __del__(self):
                raise DroppedError

        Dropper()
        wait_until(lambda: not again.is_sending())
        assert again.handled == []


class TestResultHandler:
    @pytest.fixture
    def handler(self):
        state = mock.Mock(R=5)
        return billiard.pool.ResultHandler(None, None, {}, None, None, mock.Mock(), state, None, mock.Mock())

    def test_a_result_frees_a_slot_before_it_is_set(self, handler):
        result = billiard.pool.ApplyResult(handler.cache, None)
        handler.putlock.release.side_effect = lambda: order.append(result.ready())
        order = []
        handler.on_state_change((billiard.pool.READY, (result._job, None, (True, 1), 7)))
        assert order == [False]
        assert result.get(0) == 1
        handler.on_job_ready.assert_called_once_with(result._job, None, (True, 1), 7)

    def test_a_second_result_is_nothing(self, handler):
        result = billiard.pool.ApplyResult(handler.cache, None)
        for value in (1, 2):
            handler.on_state_change((billiard.pool.READY, (result._job, None, (True, value), 7)))
        assert result.get(0) == 1
        assert handler.putlock.release.call_count == 1
        assert handler.on_job_ready.call_count == 2

    def test_an_accepted_job_forgives_restarts(self, handler):
        handler.on_state_change((billiard.pool.ACK, (99, None, 1.0, 7, None)))
        assert handler.restart_state.R == 0
        assert handler.has_accepted(7)
        handler.on_worker_exit(7)
        assert not handler.has_accepted(7)

    def test_the_last_result_of_a_recycled_worker_does_not_free_it(self, handler):
        handler.maxtasks = 2
        handler.on_ready_counters[7] = mock.Mock(value=0)
        for job in (1, 2):
            handler.on_state_change((billiard.pool.ACK, (job, None, 1.0, 7, None)))
            handler.on_state_change((billiard.pool.READY, (job, None, (True, None), 30)))
        assert [call.args[3] for call in handler.on_job_ready.call_args_list] == [30, None]
        assert handler.on_ready_counters[7].value == 2

    def test_a_message_of_an_unknown_kind_is_ignored(self, handler):
        handler.on_state_change((77, ()))
        assert not handler.on_job_ready.called


class TestTimeoutHandler:
    def test_hard_wins_and_soft_strikes_once(self):
        cache = {}
        job = billiard.pool.ApplyResult(cache, None, soft_timeout=0.001, timeout=1000)
        job._ack(None, time.monotonic() - 1, 7, None)
        handler = billiard.pool.TimeoutHandler([], cache, None, None)
        with mock.patch.object(handler, "on_soft_timeout") as soft, mock.patch.object(handler, "on_hard_timeout"):
            handler.handle_event()
            handler.handle_event()
            soft.assert_called_once_with(job)
        job._timeout = 0.001
        with mock.patch.object(handler, "on_hard_timeout") as hard:
            handler.handle_event()
            hard.assert_called_once_with(job)
