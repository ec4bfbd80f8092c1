"""A pool that overrides the legacy pool's hooks the way Celery's AsynPool does, on a small selectors loop of our own."""

from __future__ import annotations

import errno
import os
import pickle
import selectors
import struct
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import billiard.pool as pool_module
from billiard.queues import _SimpleQueue

WORKER_UP = 15


class LoopWorker(pool_module.Worker):
    def on_loop_start(self, pid: int) -> None:
        self.outq.put((WORKER_UP, (pid,)))


class LoopResultHandler(pool_module.ResultHandler):
    def __init__(self, *args: Any, on_worker_up: Callable[[int], None], read_all: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.state_handlers[WORKER_UP] = on_worker_up
        self.read_all = read_all

    def on_stop_not_started(self) -> None:
        while self.cache and self._state != pool_module.TERMINATE:
            self.check_timeouts()
            self.read_all()
            try:
                self.join_exited_workers(shutdown=True)
            except pool_module.WorkersJoined:
                return


class LoopPool(pool_module.Pool):
    """One pipe pair for each worker, one job at a time on each, partial writes and reads, limits on a timer list."""

    Worker = LoopWorker
    ResultHandler = LoopResultHandler

    def __init__(self, processes: int = 2, **options: Any) -> None:
        self.outbound: deque[tuple[int, bytes]] = deque()
        self.up: set[int] = set()
        self.busy: dict[int, int] = {}  # inqW_fd -> job
        self.writing: dict[Any, bytes] = {}
        self.incoming: dict[Any, bytearray] = {}
        self.timers: list[tuple[float, bool, Any]] = []
        self.statuses: list[int | None] = []
        super().__init__(processes, threads=False, **options)
        self._quick_put = self.queue_job
        self.on_timeout_set = self.arm
        self.on_process_down = lambda process: self.statuses.append(process.exitcode)

    # the hooks

    def _setup_queues(self) -> None:
        self._quick_put = self._inqueue = self._outqueue = self._quick_get = self._poll_result = None

    def get_process_queues(self) -> tuple[Any, Any, Any]:
        return _SimpleQueue(wnonblock=True), _SimpleQueue(rnonblock=True), None

    def create_result_handler(self) -> Any:
        return super().create_result_handler(on_worker_up=self.up.add, read_all=self.read_all)

    def on_job_ready(self, job: int, i: int | None, obj: Any, inqW_fd: int | None) -> None:  # noqa: N803 - billiard's name
        self.busy.pop(inqW_fd, None)

    def on_job_process_down(self, job: Any, pid_gone: int) -> None:
        process = job._write_to
        if process is not None and not process._is_alive() and not job._accepted and not job.ready():
            job._write_to = None
            self.outbound.appendleft(job._payload)

    def on_job_process_lost(self, job: Any, pid: int, exitcode: int) -> None:
        self.mark_as_worker_lost(job, exitcode)

    def process_flush_queues(self, process: Any) -> None:
        self.read_from(process)

    def _process_cleanup_queues(self, process: Any) -> None:
        self.writing.pop(process, None)
        self.incoming.pop(process, None)
        self.busy.pop(process.inqW_fd, None)
        process.inq.close()
        process.outq.close()

    @staticmethod
    def _stop_task_handler(task_handler: Any) -> None:
        for process in task_handler.pool:
            if process.inq._writer is not None:
                os.set_blocking(process.inqW_fd, True)
                try:
                    process.inq.put(None)
                except BrokenPipeError:
                    pass

    # the loop

    def queue_job(self, message: Any) -> None:
        job = self._cache[message[1][0]]
        body = pickle.dumps(message)
        job._payload = (job._job, struct.pack(">I", len(body)) + body)
        self.outbound.append(job._payload)

    def arm(self, job: Any, soft: float | None, hard: float | None) -> None:
        now = time.monotonic()
        self.timers += [(now + limit, kind, job) for limit, kind in ((soft, True), (hard, False)) if limit]

    def turn(self, timeout: float = 0.05) -> None:
        self.write_jobs()
        with selectors.DefaultSelector() as selector:
            for process in self._pool:
                selector.register(process.outqR_fd, selectors.EVENT_READ, process)
                selector.register(process._popen.sentinel, selectors.EVENT_READ, None)
                if process in self.writing:
                    selector.register(process.inqW_fd, selectors.EVENT_WRITE, None)
            ready = selector.select(timeout)
        for key, _events in ready:
            if key.data is not None:
                self.read_from(key.data)
        now = time.monotonic()
        due = [timer for timer in self.timers if timer[0] <= now]
        self.timers = [timer for timer in self.timers if timer[0] > now]
        for _at, soft, job in due:
            if not job.ready():
                (self._timeout_handler.on_soft_timeout if soft else self._timeout_handler.on_hard_timeout)(job)
        self.maintain_pool()

    def write_jobs(self) -> None:
        for process in self._pool:
            if process.pid in self.up and process.inqW_fd not in self.busy and self.outbound:
                number, frame = self.outbound.popleft()
                if number not in self._cache:
                    continue
                self._cache[number]._write_to = process
                self.busy[process.inqW_fd] = number
                self.writing[process] = frame
        for process, frame in list(self.writing.items()):
            try:
                left = frame[process.send_job_offset(frame, 0) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                left = b""
            if left:
                self.writing[process] = left
            else:
                del self.writing[process]

    def read_all(self) -> None:
        for process in wait([process.outq._reader for process in self._pool], 0.05):
            self.read_from(next(p for p in self._pool if p.outq._reader is process))

    def read_from(self, process: Any) -> None:
        data = self.incoming.setdefault(process, bytearray())
        while True:
            try:
                chunk = os.read(process.outqR_fd, 1 << 16)
            except OSError as exc:
                assert exc.errno in (errno.EAGAIN, errno.EBADF), exc
                break
            if not chunk:
                break
            data += chunk
        while len(data) >= 4 and len(data) >= 4 + (size := struct.unpack_from(">i", data)[0]):
            message = pickle.loads(bytes(data[4 : 4 + size]))
            del data[: 4 + size]
            self._result_handler.on_state_change(message)

    def run_until(self, condition: Callable[[], Any], limit_s: float = 20.0) -> Any:
        deadline = time.monotonic() + limit_s
        while not (answer := condition()):
            assert time.monotonic() < deadline, f"still not so after {limit_s} s"
            self.turn()
        return answer

    def run(self, func: Any, *args: Any, **options: Any) -> Any:
        """Submit, turn until it is there, and get."""
        result = self.apply_async(func, args, **options)
        self.run_until(result.ready)
        return result.get(0)

    def run_until_started(self, result: Any) -> int:
        self.run_until(result.accepted)
        return result.worker_pids()[0]
