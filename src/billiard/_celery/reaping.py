"""The reaping of a legacy pool's workers: who has exited, what it had sent, what becomes of its jobs.

May: reap processes, settle their jobs.
May not: start any; that is `worker_set`, for which this is the other half.
"""

from __future__ import annotations

import select
import time

from .._api.notifying import log_exit
from .._core.worker_set import MAX_DEATHS_AT_RECEIPT
from .._typing import Any
from .._wire.descriptors import is_readable
from .._wire.exit_status import is_expected, spends_restart
from ..common import human_status
from ..exceptions import WorkerLostError
from .handlers import TERMINATE, WorkersJoined
from .wire import failure

#: A worker that fails this young, before any job, will likely fail again: its replacement waits as long. Without that a
#: broken initializer, whose victims are noticed at once, keeps the machine busy with forks.
STILLBORN_S = 1.0

#: A worker whose sentinel is at its end is a zombie within microseconds; how long to believe that.
ZOMBIE_WAIT_S = 0.05


class Reaping:
    """The part of a legacy pool that looks after processes which have exited."""

    # the pool's, made in its constructor
    _pool: list[Any]
    _poolctrl: dict[int, Any]
    _on_ready_counters: dict[int, Any]
    _cache: dict[int, Any]
    _state: int
    _result_handler: Any
    _outqueue: Any
    on_process_down: Any
    _replace_after = 0.0
    #: By pid: who is no longer in `_pool`, and not yet settled with.
    _reaped: dict[int, Any]

    def _join_exited_workers(self, shutdown: bool = False) -> list[int | None]:
        """Reap every worker that has exited, settle its jobs, and return the exit statuses."""
        for job in list(self._cache.values()):
            lost = job._worker_lost
            if lost and not job.ready() and time.monotonic() - lost[0] > job._lost_worker_timeout:
                self.mark_as_worker_lost(job, lost[1])
        if shutdown and not self._pool and not self._reaped:
            raise WorkersJoined
        for process in reversed(self._pool[:]):
            if self._has_exited(process):
                self._reap(process)
        # They are kept until all is done. A callback or a signal's handler may raise in here, and jobs of a worker that
        # nobody knows any more would never be settled, nor its pipes and its slot come back.
        reaped = dict(self._reaped)
        self._settle_jobs(reaped)
        for process in reaped.values():
            if self.on_process_down is not None:
                if not shutdown:
                    self._process_cleanup_queues(process)
                self._mark_end(process)
                self.on_process_down(process)
            _release(process)  # last: until it was told, the subclass watches the sentinel
            self._reaped.pop(process.pid, None)
        return [process.exitcode for process in reaped.values()]

    @staticmethod
    def _has_exited(process: Any) -> bool:
        """Whether a worker is gone, which its sentinel may tell a moment before the kernel has its exit status.

        Without this moment's patience the death is found at the next maintenance, seconds later. A live process whose
        task closed every fd looks the same; it is waited for once, not at each call.
        """
        popen = process._popen
        if popen is None:  # being started: a signal's handler that joins the pool has interrupted that
            return False
        if popen.poll() is not None:
            return True
        if getattr(process, "_sentinel_lied", False) or popen.sentinel is None or not is_readable(popen.sentinel):
            return False
        deadline = time.monotonic() + ZOMBIE_WAIT_S
        while time.monotonic() < deadline:
            if popen.poll() is not None:
                return True
            time.sleep(0.0005)
        process._sentinel_lied = True
        return False

    def _reap(self, process: Any) -> None:
        process._leaves = True
        process.join()
        log_exit(process, process._controlled_termination)
        # First what it had sent: a result that arrived is a result, whatever its sender's end.
        self._mark_end(process)
        self.process_flush_queues(process)
        if self._is_stillborn(process):
            self._replace_after = time.monotonic() + STILLBORN_S
        self._reaped[process.pid] = process
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
            (process.exitcode or 0) > 0
            and spends_restart(process.exitcode)  # left by itself: a kill says little of it
            and counter is not None
            and counter.value == 0
            and not self._result_handler.has_accepted(process.pid)
            and time.monotonic() - process._born_at < STILLBORN_S
        )

    def _settle_jobs(self, reaped: dict[int, Any]) -> None:
        live = {process.pid for process in self._pool}
        for job in list(self._cache.values()):
            gone = next((pid for pid in job.worker_pids() if pid in reaped or pid not in live), None)
            if gone is not None:
                self._settle_started(job, gone, reaped.get(gone))
                continue
            for process in (job._write_to, job._scheduled_for):
                # One that has died since the others were reaped still has its turn: what it sent is in its pipe, perhaps
                # the result of this very job, and the subclass would close that pipe now.
                if process is not None and process not in self._pool:
                    self._settle_unstarted(job, process, written=process is job._write_to)
                    break

    def _settle_started(self, job: Any, pid: int, process: Any) -> None:
        self.on_job_process_down(job, pid)
        if job.ready():
            return
        exitcode = getattr(process, "exitcode", None)
        if job._job in getattr(process, "_terminated_jobs", ()):
            job._set_terminated(exitcode)
        else:
            self.on_job_process_lost(job, pid, exitcode or 0)

    def _settle_unstarted(self, job: Any, process: Any, written: bool) -> None:
        """Let the subclass give the job to another worker, unless its mere receipt keeps killing them."""
        # A worker that left of its own accord has not read the job. And until the job is written anew it keeps its dead
        # receiver, which counts only once.
        died = not is_expected(process.exitcode, ordered=process._controlled_termination)
        if written and died and not job._accepted and getattr(job, "_dead_receiver", None) is not process:
            job._dead_receiver = process
            job._deaths_at_receipt = getattr(job, "_deaths_at_receipt", 0) + 1
            if job._deaths_at_receipt >= MAX_DEATHS_AT_RECEIPT and not job.ready():
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


def _release(process: Any) -> None:
    """Close what the handle of a reaped worker still holds. Celery may keep the handle for long (a lost task's error leads
    to it), and with the garbage collector passing over what stays even a forgotten one can outlive its pool's next worker."""
    for name in ("finalizer", "pidfd_finalizer"):
        finalizer = getattr(process._popen, name, None)
        if finalizer is not None:
            finalizer()
