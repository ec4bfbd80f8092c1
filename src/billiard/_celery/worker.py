"""The child's side of a legacy pool: receive, run, reply, and leave with the right status (its signals: `worker_signals`).

May: read and write its own pipes, leave the process, by a signal if need be. May not: touch the pool, or a sibling's pipes.

    after_fork -> on_loop_start -> [ receive -> ACK -> run -> READY ]* -> wait until counted -> DEATH -> gone

A worker says DEATH and goes. The parent keeps both ends of every pipe, so nothing sent is lost; it need not answer, and
no answer can come between a worker and its exit status.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable

from .. import common
from .._typing import Any
from .._wire.exit_status import EX_FAILURE, EX_OK, EX_RECYCLE, signal_behind
from .._worker.loop import end_child
from .._worker.memory import peak_kb
from ..einfo import ExceptionInfo
from ..exceptions import SoftTimeLimitExceeded
from . import log
from .wire import ACK, DEATH, NACK, READY, MaybeEncodingError, OffsetSender, Sealed, failure, is_plain, salvage_head
from .worker_signals import WorkerSignals, blocked

MAXMEM_USED_FMT = "child process exiting after exceeding memory limit ({0}KiB / {1}KiB)"

#: How long a leaving worker waits for the parent to count its results: 300 times 0.1 s.
GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 300
GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL = 0.1

#: What a pipe takes in one piece, less the length in front. A larger result can be seen by the parent in parts.
ATOMIC_BYTES = select.PIPE_BUF - 16


class Worker(WorkerSignals):
    """What a worker process runs. Picklable while it is on its way to a spawned process."""

    #: How many results the parent must have taken in before this worker may leave (see `_ensure_messages_consumed`).
    _large_results = 0

    #: True while a large result is being sent. A worker told to go in the middle of it may send nothing more: the parent
    #: would take that for the rest of the result.
    _torn = False

    inqW_fd: int
    synqW_fd: int | None

    def __init__(
        self,
        inq: Any,
        outq: Any,
        synq: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasks: int | None = None,
        sentinel: Any = None,
        on_exit: Callable[[int, int], object] | None = None,
        sigprotection: bool = True,
        wrap_exception: bool = True,
        max_memory_per_child: int | None = None,
        on_ready_counter: Any = None,
    ) -> None:
        self.inq, self.outq, self.synq = inq, outq, synq
        self.initializer, self.initargs = initializer, initargs
        self.maxtasks = maxtasks
        self._shutdown = sentinel
        self.on_exit = on_exit
        self.sigprotection = sigprotection
        self.wrap_exception = wrap_exception
        self.max_memory_per_child = max_memory_per_child
        self.on_ready_counter = on_ready_counter
        self.contribute_to_object(self)

    def __reduce__(self) -> Any:
        arguments = (
            self.inq,
            self.outq,
            self.synq,
            self.initializer,
            self.initargs,
            self.maxtasks,
            self._shutdown,
            self.on_exit,
            self.sigprotection,
            self.wrap_exception,
            self.max_memory_per_child,
            self.on_ready_counter,
        )
        return type(self), arguments, {"soft_target": self.soft_target}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def contribute_to_object(self, obj: Any) -> Any:
        """Put on `obj` (the process, seen from the parent) all that is needed to talk to this worker."""
        obj.inq, obj.outq, obj.synq = self.inq, self.outq, self.synq
        obj.inqW_fd = self.inq._writer.fileno()
        obj.outqR_fd = self.outq._reader.fileno()
        if self.synq:
            obj.synqR_fd = self.synq._reader.fileno()
            obj.synqW_fd = self.synq._writer.fileno()
            obj.send_syn_offset = OffsetSender(self.synq._writer)
        else:
            obj.synqR_fd = obj.synqW_fd = obj._send_syn_offset = None
        obj._quick_put = self.inq._writer.send
        obj._quick_get = self.outq._reader.recv
        obj.send_job_offset = OffsetSender(self.inq._writer)
        obj.soft_target = self.soft_target
        return obj

    # -- life

    def __call__(self) -> None:
        """Run until told to stop. Does not return: the process leaves by `_do_exit`."""
        pid = os.getpid()
        try:
            self._make_child_methods()
            self.after_fork()
            self.on_loop_start(pid=pid)
            self._work_and_leave(pid)
        except SystemExit as exc:
            # A terminating signal can strike between any two lines, also on the way out. It does so only once: its
            # handler gives way to the default. Whatever else comes here is the initializer's, and belongs on stderr.
            if not common.terminate_handler_fired():
                raise
            self._do_exit(pid, _status_of(exc))

    def _work_and_leave(self, pid: int) -> None:
        status: int | None = None
        error: BaseException | None = None
        try:
            status = self.workloop(pid=pid)
        except SystemExit as exc:
            status = _status_of(exc)
        except BaseException as exc:
            error = exc
            log.error("Pool process %r error: %r", self, exc, exc_info=True)
        self._do_exit(pid, status, error)

    def _make_child_methods(self) -> None:
        self.wait_for_job = self.receive
        self.wait_for_syn: Callable[[], tuple[Any, ...]] | None = self.receive_syn if self.synq else None

    def after_fork(self) -> None:
        """Make this process a worker: own ends of its own pipes only, initializer, then signals."""
        # A fork made while the parent was being terminated inherits its flag, and would drop every result.
        common.clear_terminate_handler_fired()
        self._leave_parents_handler()
        # Else the parent's death would never be seen as an end of file.
        for end in (getattr(self.inq, "_writer", None), getattr(self.outq, "_reader", None)):
            if end is not None:
                end.close()
        if self.initializer is not None:
            self.initializer(*self.initargs)
        self._install_signals(full=self.sigprotection)  # after the initializer, because Celery's resets these very signals

    def on_loop_start(self, pid: int) -> None:
        """For subclasses: the worker is ready for its first job."""

    def workloop(self, now: Callable[[], float] = time.monotonic, pid: int | None = None) -> int:
        """Do jobs, and return the exit status. SystemExit out of here carries another one."""
        pid = pid or os.getpid()
        completed = 0
        try:
            while self.maxtasks is None or completed < self.maxtasks:
                job, i, task = self.wait_for_job()
                self._coming, self._struck = job + 1, False
                self.outq.put((ACK, (job, i, now(), pid, self.synqW_fd)))
                if self.wait_for_syn is not None and self.wait_for_syn()[0] == NACK:
                    continue
                ok, value, leave = self._run(job, task)
                completed += 1
                if self._reply(job, i, ok, value):
                    self._large_results = completed
                if leave is not None:
                    raise leave
                if self._is_over_memory():
                    break
            return EX_RECYCLE
        finally:
            if not common.terminate_handler_fired():
                self._ensure_messages_consumed(self._large_results)

    # -- one job

    def receive(self) -> tuple[int, int | None, _Call | ExceptionInfo]:
        """Wait for a job; one that does not unpickle comes back as its own error. SystemExit: there will be no more."""
        while True:
            if self._shutdown is not None and self._shutdown.is_set():
                raise SystemExit(EX_OK)
            try:
                payload = self.inq.get_payload()
            except (EOFError, OSError):
                raise SystemExit(EX_OK) from None
            try:
                message = pickle.loads(payload)
            except Exception:
                head = salvage_head(payload)
                if head is None:
                    raise
                return *head, ExceptionInfo()
            if message is None:
                raise SystemExit(EX_OK)
            _kind, (job, i, fun, args, kwargs) = message
            return job, i, _Call(fun, args, kwargs)

    def receive_syn(self) -> tuple[Any, ...]:
        """The parent's answer to ACK, when it gives one."""
        try:
            return tuple(pickle.loads(self.synq.get_payload()))
        except (EOFError, OSError):
            raise SystemExit(EX_OK) from None

    def _run(self, job: int, task: Any) -> tuple[bool, Any, BaseException | None]:
        """Run one task: ``(ok, value, leave)``, where `leave` is the exception by which the worker must go."""
        if isinstance(task, ExceptionInfo):
            return False, task, None
        fun, args, kwargs = task.fun, task.args, task.kwargs
        me = os.getpid()
        try:
            # The inner block ends the region in which the soft limit may raise, and lies inside the outer one: a
            # signal that arrives on its last line still ends up in the outer except.
            try:
                self._running, self._coming = job + 1, None
                if self._struck:
                    self._running = None
                    raise SoftTimeLimitExceeded()
                value = fun(*args, **kwargs)
            finally:
                self._running = None
        except BaseException as exc:
            self._running = None
            if os.getpid() != me:
                end_child(exc)
            if common.terminate_handler_fired():
                # Told to go in mid-task: the job is lost, not failed, whatever its clean-up made of the SystemExit.
                raise
            leave = exc if isinstance(exc, (SystemExit, KeyboardInterrupt)) else None
            return False, ExceptionInfo(), leave
        if os.getpid() != me:
            # The task has forked, and its child comes back too: it would answer for the worker, say DEATH in its name, and
            # read from the same pipe, of which each would then get pieces.
            end_child()
        return True, value, None

    def _reply(self, job: int, i: int | None, ok: bool, value: Any) -> bool:
        """Send a result. True if it is so large that the parent may read it in several goes."""
        outcome: Any = (ok, value)
        if not (ok and is_plain(value)):
            try:
                outcome = Sealed(outcome)
            except Exception as exc:
                outcome = Sealed((False, failure(MaybeEncodingError(exc, value.exception if not ok else value))))
        # Plain values and sealed bytes: the plain pickler will do.
        message = pickle.dumps((READY, (job, i, outcome, self.inqW_fd)), pickle.HIGHEST_PROTOCOL)
        large = self._torn = len(message) > ATOMIC_BYTES
        self.outq.send_payload(message)
        self._torn = False
        return large

    def _is_over_memory(self) -> bool:
        limit = self.max_memory_per_child
        if not limit or limit <= 0:
            return False
        used = peak_kb()  # as Celery documents it: what a task freed still counts
        if used <= limit:
            return False
        log.warning(MAXMEM_USED_FMT.format(used, limit))
        return True

    # -- leaving

    def _ensure_messages_consumed(self, completed: int) -> bool:
        """Wait, at most 30 s, until the parent has counted `completed` results. True when it has.

        Needed for large results only. One that fits into the pipe at once is there for the parent to find; of a larger
        one Celery's event loop may have read a part when it learns of this worker's death, and then takes the rest for
        a new message.
        """
        if self.on_ready_counter is None:  # not its truth: a shared number that is 0 is false
            return False
        deadline = time.monotonic() + (GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT * GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL)
        pause_s = 0.0002
        while self.on_ready_counter.value < completed:
            if time.monotonic() >= deadline:
                log.warning("could not ensure all messages were consumed prior to exiting")
                return False
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.02)
        return True

    def _do_exit(self, pid: int, exitcode: int | None, exc: BaseException | None = None) -> None:
        """Say DEATH and leave with `exitcode` (None: 1 after an error, else 0), or by the signal that is behind it."""
        if exitcode is None:
            exitcode = EX_FAILURE if exc is not None else EX_OK
        on_exit, self.on_exit = self.on_exit, None  # a signal on the way out brings us here twice
        if on_exit is not None:
            try:
                on_exit(pid, exitcode)
            except Exception as error:
                log.error("Pool process %r: on_process_exit raised %r", pid, error, exc_info=True)
        with blocked(common.TERM_SIGNAL):
            try:
                if not self._torn:
                    self.outq.put((DEATH, (pid, exitcode)))
            except (OSError, ValueError):
                pass  # the parent is gone, or has closed the pipe: nobody is left to tell
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (AttributeError, OSError, ValueError):
                    pass
            # Leave while the signal is blocked: one that is pending would else change the status at the last moment.
            signum = signal_behind(exitcode)
            if signum is not None:
                common.maybe_setsignal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
            os._exit(exitcode)


class _Call:
    __slots__ = ("args", "fun", "kwargs")

    def __init__(self, fun: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fun, self.args, self.kwargs = fun, args, kwargs


def _status_of(exc: SystemExit) -> int:
    """The status that ``sys.exit`` asked for: a number as it stands, nothing means 0, anything else is an error."""
    if exc.code is None:
        return EX_OK
    return exc.code if isinstance(exc.code, int) else EX_FAILURE
