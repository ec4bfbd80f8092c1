"""The workers of a guest pool: start, watch, bury, replace.

May: start and signal worker processes, decide (by `_core.fates`) what becomes of a dead one's jobs.
May not: write jobs or read results; that is the subclass's event loop.

    _create_worker_process -> _pool -> [exits] -> _join_exited_workers: drain, bury, settle its jobs -> _repopulate_pool
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
import select
import time
from collections.abc import Iterator
from multiprocessing.util import Finalize

from billiard import common
from billiard._core.fates import Ending, Fate, classify_exit, fate_of_job, is_expected, spends_restart
from billiard.common import human_status
from billiard.exceptions import RestartFreqExceeded, WorkerLostError

from .._typing import Any
from . import collector, log, seams
from .handlers import RUN, TERMINATE, WorkersJoined
from .wire import failure
from .worker import SIG_SOFT_TIMEOUT, Worker

#: A worker that fails this young, before any job, will likely fail again: its replacement waits as long. Without that a
#: broken initializer, whose victims are noticed at once, keeps the machine busy with forks.
STILLBORN_S = 1.0

#: A worker whose sentinel is at its end is a zombie within microseconds; how long to believe that.
ZOMBIE_WAIT_S = 0.05


class Staff:
    """The part of a guest pool that looks after processes."""

    Worker: Any = Worker

    _ctx: Any
    _Process: Any
    _pool: list[Any]
    _poolctrl: dict[int, Any]
    _on_ready_counters: dict[int, Any]
    _cache: dict[int, Any]
    _state: int
    _processes: int
    _initializer: Any
    _initargs: Any
    _maxtasksperchild: int | None
    _max_memory_per_child: int | None
    _on_process_exit: Any
    _putlock: Any
    _worker_handler: Any
    _result_handler: Any
    _inqueue: Any
    _outqueue: Any
    _unreplaced: list[int | None]
    _replace_after = 0.0
    #: How many workers were ever started, and how many of those by the constructor.
    _births = 0
    _born_first = 0
    allow_restart: bool
    threads: bool
    restart_state: Any
    on_process_up: Any
    on_process_down: Any
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
            collector.set_aside(self)
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
        """Bury workers that died, and start others for them."""
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
        self._repopulate_pool(exitcodes)
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
            # It was worth a try. The maintenance that buries the old one will try again, and fail if it must.
            log.debug("no replacement for %s before its end: %r", pid, exc)

    # -- bury

    def _join_exited_workers(self, shutdown: bool = False) -> list[int | None]:
        """Bury every worker that has exited, settle its jobs, and return the exit statuses."""
        for job in list(self._cache.values()):
            lost = job._worker_lost
            if lost and not job.ready() and time.monotonic() - lost[0] > job._lost_worker_timeout:
                self.mark_as_worker_lost(job, lost[1])
        if shutdown and not self._pool:
            raise WorkersJoined
        buried = {}
        for process in reversed(self._pool[:]):
            if not self._has_exited(process):
                continue
            self._bury(process)
            buried[process.pid] = process
        self._settle_jobs(buried)
        if self.on_process_down is not None:
            for process in buried.values():
                if not shutdown:
                    self._process_cleanup_queues(process)
                self._mark_end(process)
                self.on_process_down(process)
        for process in buried.values():
            _release(process)  # last: until it was told, the subclass watches the sentinel
        return [process.exitcode for process in buried.values()]

    @staticmethod
    def _has_exited(process: Any) -> bool:
        """Whether a worker is gone, which its sentinel may tell a moment before the kernel has its exit status.

        Without this moment's patience the death is found at the next maintenance, seconds later. A live process whose
        task closed every fd looks the same; it is waited for once, not at each call.
        """
        popen = process._popen
        if popen is None or popen.poll() is not None:
            return True
        if getattr(process, "_sentinel_lied", False) or not _is_at_end(popen.sentinel):
            return False
        deadline = time.monotonic() + ZOMBIE_WAIT_S
        while time.monotonic() < deadline:
            if popen.poll() is not None:
                return True
            time.sleep(0.0005)
        process._sentinel_lied = True
        return False

    def _bury(self, process: Any) -> None:
        process._leaves = True
        if process._popen is not None:
            process.join()
        if not is_expected(process.exitcode, ordered=process._controlled_termination):
            status = human_status(process.exitcode)
            log.error("Process %r pid:%r exited with %r", process.name, process.pid, status)
        # First what it had sent: a result that arrived is a result, whatever its sender's end.
        self._mark_end(process)
        self.process_flush_queues(process)
        if self._is_stillborn(process):
            self._replace_after = time.monotonic() + STILLBORN_S
        if process in self._pool:
            self._pool.remove(process)
        self._poolctrl.pop(process.pid, None)
        self._on_ready_counters.pop(process.pid, None)
        self._result_handler.on_worker_exit(process.pid)

    def _mark_end(self, process: Any) -> None:
        """Put a None behind what a dead worker has sent, so that whoever takes that in knows when to stop.

        The parent holds a writing end, so the pipe never ends by itself. AsynPool waits 10 ms for more each time it
        flushes one, twice for each dead worker, in which the event loop does nothing else; a None ends it at once.
        """
        if process.outq is self._outqueue or self._state == TERMINATE:  # shared; or nobody reads it any more
            return
        reader, writer = process.outq._reader, process.outq._writer
        if reader is None or reader.closed or writer.closed:
            return
        poller = select.poll()
        poller.register(reader, select.POLLIN)
        poller.register(writer, select.POLLOUT)
        ready = {fd for fd, _events in poller.poll(0)}
        # Behind half a message it would be taken for the rest of it. Who left in good order has sent none by halves.
        whole = reader.fileno() not in ready or not spends_restart(process.exitcode)
        if whole and writer.fileno() in ready:
            process.outq.put(None)

    def _is_stillborn(self, process: Any) -> bool:
        counter = self._on_ready_counters.get(process.pid)
        return (
            classify_exit(process.exitcode) is Ending.FAILED
            and counter is not None
            and counter.value == 0
            and not self._result_handler.has_accepted(process.pid)
            and time.monotonic() - process._born_at < STILLBORN_S
        )

    def _settle_jobs(self, buried: dict[int, Any]) -> None:
        live = {process.pid for process in self._pool}
        for job in list(self._cache.values()):
            gone = next((pid for pid in job.worker_pids() if pid in buried or pid not in live), None)
            if gone is not None:
                self._settle_started(job, gone, buried.get(gone))
                continue
            for process in (job._write_to, job._scheduled_for):
                # One that has died since the others were buried still has its turn: what it sent is in its pipe, perhaps
                # the result of this very job, and the subclass would close that pipe now.
                if process is not None and process not in self._pool:
                    self._settle_unstarted(job, process, written=process is job._write_to)
                    break

    def _settle_started(self, job: Any, pid: int, process: Any) -> None:
        self.on_job_process_down(job, pid)
        struck = getattr(process, "_job_terminated", False)
        fate = fate_of_job(ready=job.ready(), started=True, struck=struck)
        exitcode = getattr(process, "exitcode", None)
        if fate is Fate.TERMINATED:
            job._set_terminated(exitcode)
        elif fate is Fate.LOST:
            self.on_job_process_lost(job, pid, exitcode or 0)

    def _settle_unstarted(self, job: Any, process: Any, written: bool) -> None:
        """Let the subclass give the job to another worker, unless its mere receipt keeps killing them."""
        # A worker that left of its own accord has not read the job. And until the job is written anew it keeps its dead
        # receiver, which counts only once.
        died = not is_expected(process.exitcode, ordered=process._controlled_termination)
        if written and died and not job._accepted and getattr(job, "_dead_receiver", None) is not process:
            job._dead_receiver = process
            job._deaths_at_receipt = getattr(job, "_deaths_at_receipt", 0) + 1
            fate = fate_of_job(ready=job.ready(), started=False, deaths_at_receipt=job._deaths_at_receipt)
            if fate is Fate.POISON:
                job._ack(None, time.monotonic(), process.pid, None)
                self.mark_as_worker_lost(job, process.exitcode or 0)
        self.on_job_process_down(job, process.pid)

    def mark_as_worker_lost(self, job: Any, exitcode: int | None) -> None:
        """Fail `job`: its worker died on it."""
        text = f"Worker exited prematurely: {human_status(exitcode)} Job: {job._job}."
        job._set(None, (False, failure(WorkerLostError(text))))

    def on_job_process_down(self, job: Any, pid_gone: int) -> None:
        """For subclasses: the worker that was to run `job` is gone."""

    def on_job_process_lost(self, job: Any, pid: int, exitcode: int) -> None:
        """`job` was running on a worker that died. By default its result may still come for a while."""
        job._worker_lost = (time.monotonic(), exitcode)

    def process_flush_queues(self, worker: Any) -> None:
        """Take in what a dead worker had sent. The shared pipe of the default needs no such care."""

    def _process_cleanup_queues(self, worker: Any) -> None:
        """For subclasses: the pipes of a dead worker are free."""

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
        return any(worker.pid in job.worker_pids() for job in self._cache.values())

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

    def restart(self) -> None:
        """Let each worker leave after its next job."""
        if not self.allow_restart:
            raise ValueError("restart() needs a pool made with allow_restart=True")
        for sentinel in self._poolctrl.values():
            sentinel.set()

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


def _release(process: Any) -> None:
    """Close what the handle of a buried worker still holds. Celery may keep the handle for long (a lost task's error leads
    to it), and with the garbage collector passing over what stays even a forgotten one can outlive its pool's next worker."""
    for name in ("finalizer", "pidfd_finalizer"):
        finalizer = getattr(process._popen, name, None)
        if finalizer is not None:
            finalizer()


def _is_at_end(sentinel: int | None) -> bool:
    if sentinel is None:
        return False
    poller = select.poll()
    poller.register(sentinel, select.POLLIN)
    return any(event & (select.POLLIN | select.POLLHUP) for _fd, event in poller.poll(0))
