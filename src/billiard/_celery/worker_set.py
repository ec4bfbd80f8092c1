"""The workers of a legacy pool: start, watch, replace, control. What becomes of those that have exited is in `reaping`.

May: start and signal worker processes.
May not: write jobs or read results; that is the subclass's event loop.

    _create_worker_process -> _pool -> [exits] -> _join_exited_workers: drain, reap, settle its jobs -> _repopulate_pool
                                    -> [is leaving] -> _replace_leaving

A worker that has sent its last result is replaced at once: it takes tens of milliseconds to leave (Celery's shutdown
signal, giving back its memory), and its successor as long to start.

Nothing here is called by a thread of ours. `_pool` and `_cache` are shared with the handlers by identity, so they are
changed in place and never replaced.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterator
from multiprocessing.util import Finalize

from .. import common
from .._typing import Any
from .._wire.exit_status import spends_restart
from ..exceptions import RestartFreqExceeded
from . import gc_freeze, log, seams
from .handlers import RUN
from .reaping import Reaping
from .worker import Worker
from .worker_signals import SIG_SOFT_TIMEOUT, blocked


class WorkerSet(Reaping):
    """The part of a legacy pool that looks after processes."""

    Worker: Any = Worker

    # the pool's, made in its constructor
    _ctx: Any
    _Process: Any
    _processes: int
    _initializer: Any
    _initargs: Any
    _maxtasksperchild: int | None
    _max_memory_per_child: int | None
    _on_process_exit: Any
    _putlock: Any
    _worker_handler: Any
    _inqueue: Any
    _unreplaced: list[int | None]
    #: How many workers were ever started, and how many of those by the constructor.
    _births = 0
    _born_first = 0
    allow_restart: bool
    threads: bool
    restart_state: Any
    on_process_up: Any
    _wrap_exception = True

    # -- start

    def Process(self, *args: Any, **kwargs: Any) -> Any:
        """A process of the pool's context."""
        return self._Process(*args, **kwargs)

    def WorkerProcess(self, worker: Any) -> Any:
        """The process that will run `worker`, with what the parent needs to talk to it."""
        return worker.contribute_to_object(self.Process(target=worker))

    def get_process_queues(self) -> tuple[Any, Any, Any]:
        """The pipes of a new worker. By default all share one pair."""
        return self._inqueue, self._outqueue, None

    def _process_register_queues(self, worker: Any, queues: tuple[Any, Any, Any]) -> None:
        """For subclasses: `worker`, not yet started, got these pipes."""

    def _create_worker_process(self, i: int) -> Any:
        """Start the worker with index `i`."""
        # Twice: the worker that owns this pool loads its consumer only after it has made the pool.
        if self._births in (0, self._born_first):
            gc_freeze.freeze(self)
        self._births += 1
        sentinel = self._ctx.Event() if self.allow_restart else None
        inq, outq, synq = self.get_process_queues()
        # One writer and one reader, in turn: no lock, and so no semaphore, which a host without /dev/shm lacks.
        counter = self._ctx.Value("i", lock=False)
        worker = self.Worker(
            inq,
            outq,
            synq,
            self._initializer,
            self._initargs,
            self._maxtasksperchild,
            sentinel,
            self._on_process_exit,
            sigprotection=self.threads,
            wrap_exception=self._wrap_exception,
            max_memory_per_child=self._max_memory_per_child,
            on_ready_counter=counter,
        )
        worker.soft_target = self._ctx.Value("l", lock=False)
        process = self.WorkerProcess(worker)
        self._pool.append(process)
        try:
            self._process_register_queues(process, (inq, outq, synq))
            process.name = process.name.replace("Process", "PoolWorker")
            process.daemon = True
            process.index = i
            process._born_at = time.monotonic()
            # A fork has the parent's handlers at first, and Celery's would note a SIGTERM and go on. So one that comes this
            # early waits until the worker has done away with them (`Worker.after_fork`).
            with blocked(common.TERM_SIGNAL):
                process.start()
            _watch_the_process_itself(process)
        except BaseException:
            # A process that was never started would be taken for one that has exited, at each maintenance anew.
            self._pool.remove(process)
            self._process_cleanup_queues(process)
            raise
        self._poolctrl[process.pid] = sentinel
        self._on_ready_counters[process.pid] = counter
        if self.on_process_up is not None:
            self.on_process_up(process)
        return process

    def _avail_index(self) -> int:
        """The smallest index that no worker has. One that is leaving has passed on its own."""
        taken = {process.index for process in self._staying()}
        return next(i for i in range(len(taken) + 1) if i not in taken)

    # -- watch

    def did_start_ok(self) -> bool:
        """Whether no worker has died yet. Buries those that have."""
        exitcodes = self._join_exited_workers()
        self._unreplaced += exitcodes
        return not exitcodes

    def maintain_pool(self) -> None:
        """Reap workers that died, and start others for them."""
        if self._worker_handler._state != RUN or self._state != RUN:
            return
        try:
            self._maintain_pool()
        except RestartFreqExceeded:
            self.close()
            self.join()
            raise
        except OSError as exc:
            if exc.errno == errno.ENOMEM:
                raise MemoryError from exc
            raise

    def _maintain_pool(self) -> None:
        self._unreplaced += self._join_exited_workers()
        if time.monotonic() < self._replace_after:
            return
        exitcodes, self._unreplaced[:] = self._unreplaced[:], []
        try:
            self._repopulate_pool(exitcodes)
        finally:  # a replacement that cannot be forked now comes later, and asks for no slot
            # A dead worker will not send the result that would have given back its slot.
            if self._putlock is not None:
                for _exitcode in exitcodes:
                    self._putlock.release()

    def _repopulate_pool(self, exitcodes: list[int | None]) -> None:
        """Start workers until the pool is complete. Replacing failed ones is limited; growing is not."""
        failed = sum(map(spends_restart, exitcodes))
        while self._is_short():
            if self._state != RUN:
                return
            if failed:
                failed -= 1
                self.restart_state.step()
            self._make_room()
            self._create_worker_process(self._avail_index())

    def _staying(self) -> list[Any]:
        """The workers that are not on their way out."""
        return [process for process in self._pool if not getattr(process, "_leaves", False)]

    def _is_short(self) -> bool:
        """Whether another worker is to be started.

        Those on their way out may be as many as are wanted, but not more: with short tasks and a slow
        `on_process_exit` they would fill the machine.
        """
        return len(self._staying()) < self._processes and len(self._pool) < 2 * self._processes

    def _make_room(self) -> None:
        """Have the subclass keep pipes for one worker more than there are: who is leaving still holds its own."""
        if len(self._pool) < self._processes:
            return
        wanted, self._processes = self._processes, len(self._pool) + 1
        try:
            self.on_grow(1)
        finally:
            self._processes = wanted

    def _replace_leaving(self, pid: int) -> None:
        """Start another worker for one that takes no more jobs and has only to leave."""
        leaving, _index = self._process_by_pid(pid)
        if leaving is None or getattr(leaving, "_leaves", False):
            return
        leaving._leaves = True
        if self._state != RUN or self._worker_handler._state != RUN or time.monotonic() < self._replace_after:
            return
        if not self._is_short():
            return
        try:
            self._make_room()
            self._create_worker_process(leaving.index)
        except OSError as exc:
            # It was worth a try. The maintenance that reaps the old one will try again, and fail if it must.
            log.debug("no replacement for %s before its end: %r", pid, exc)

    # -- control

    def grow(self, n: int = 1) -> None:
        """`n` workers more, at the next maintenance."""
        for _ in range(n):
            self._processes += 1
            if self._putlock:
                self._putlock.grow()
        self.on_grow(n)

    def shrink(self, n: int = 1) -> None:
        """`n` workers less: idle ones, and if there are too few of those, ValueError."""
        idle = list(itertools.islice(self._iterinactive(), n))
        for process in idle:
            self._processes -= 1
            if self._putlock:
                self._putlock.shrink()
            process.terminate_controlled()
            self.on_shrink(1)
        if len(idle) < n:
            raise ValueError("Can't shrink pool. All processes busy!")

    def on_grow(self, n: int) -> None:
        """For subclasses: `n` workers more are wanted."""

    def on_shrink(self, n: int) -> None:
        """For subclasses: `n` workers fewer are wanted."""

    def _iterinactive(self) -> Iterator[Any]:
        return (process for process in self._staying() if not self._worker_active(process))

    def _worker_active(self, worker: Any) -> bool:
        # Also one that was written a job and has not been heard of: it may have begun, and would be lost.
        return any(job._write_to is worker or worker.pid in job.worker_pids() for job in self._cache.values())

    def _process_by_pid(self, pid: int) -> tuple[Any, int | None]:
        return next(((p, i) for i, p in enumerate(self._pool) if p.pid == pid), (None, None))

    def terminate_job(self, pid: int, sig: int | None = None) -> None:
        """Signal the worker `pid` because of the job it runs; when it dies of that, the job fails with Terminated."""
        process, _index = self._process_by_pid(pid)
        if process is None:
            return
        signum = sig or common.TERM_SIGNAL
        try:
            seams.kill(pid, signum)
        except ProcessLookupError:
            return
        if signum != SIG_SOFT_TIMEOUT:  # that one only interrupts the task
            process._controlled_termination = process._job_terminated = True
            # That mark is billiard 4's, and nobody here goes by it: a task may catch the signal, and a later one must not be
            # told that it was revoked when its worker is killed for another reason. With acks_late it would then not be
            # delivered again.
            process._terminated_jobs = {job._job for job in self._cache.values() if pid in job.worker_pids()}

    def restart(self) -> None:
        """Let each worker leave after its next job."""
        if not self.allow_restart:
            raise ValueError("restart() needs a pool made with allow_restart=True")
        for sentinel in self._poolctrl.values():
            sentinel.set()

    @property
    def process_sentinels(self) -> list[int]:
        """One fd for each worker, readable when it has exited."""
        return [process._popen.sentinel for process in self._pool]

    @staticmethod
    def cpu_count() -> int:
        """How many workers make sense; 1 where the system does not say."""
        return os.cpu_count() or 1

    def close(self) -> None:
        raise NotImplementedError  # the other half has it

    def join(self) -> None:
        raise NotImplementedError  # the other half has it


def _watch_the_process_itself(process: Any) -> None:
    """Let the sentinel be a pidfd where there are such: readable when the process can be reaped, and only then.

    The start method's own sentinel is a pipe. A child of the task keeps it open after the worker's death, a task that
    closes every fd ends it in mid-life, and it ends a moment before the exit status is there.
    """
    popen = process._popen
    if popen.method not in ("fork", "spawn"):  # forkserver reads the exit status from its sentinel
        return
    try:
        pidfd = os.pidfd_open(popen.pid)
    except (AttributeError, OSError):
        return
    popen.sentinel = process._sentinel = pidfd
    popen.pidfd_finalizer = Finalize(popen, os.close, args=(pidfd,))
