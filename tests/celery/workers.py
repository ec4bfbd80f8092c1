"""A real `celery worker` as the tests see it: started, asked, murdered, stopped, and its log read.

May signal only the processes below the worker it started. Knows nothing of pytest.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import file_broker
import psutil
import redis
from celery.result import AsyncResult
from kombu import pools

from celery import Celery

HERE = Path(__file__).resolve().parent
EXITED = re.compile(r"Process .* pid:\S+ exited with ['\"]?(.*?)['\"]?$", re.MULTILINE)
CRASHED = re.compile(r"Process \S*PoolWorker-\d+:\s*$")  # how an uncaught exception in a pool process begins
# What a healthy pool never says, whatever was done to its children.
NEVER = ("CRITICAL", "Timed out waiting for UP", " crashed", "Pool callback raised exception", "Unrecoverable error")


@dataclass(frozen=True)
class PoolKind:
    """How a worker is told to use one of the three pools."""

    name: str
    arguments: tuple[str, ...]
    filesystem: bool = False  # a transport without an event loop: Celery then takes the threaded pool
    environment: dict[str, str] = field(default_factory=dict)


POOLS = {
    kind.name: kind
    for kind in (
        PoolKind("stock", ("-P", "prefork")),
        PoolKind("threaded", ("-P", "prefork"), filesystem=True),
        PoolKind("taskpool", ("-P", "custom"), environment={"CELERY_CUSTOM_WORKER_POOL": "billiard.celery:TaskPool"}),
    )
}


def wait_until(condition: Callable[[], Any], limit_s: float, what: str) -> Any:
    """Poll for a fact that sends no event (a process table, a log file); fails when it does not come true in time."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s} s: {what}")
        time.sleep(0.02)


class LiveWorker:
    """One worker, its client, and the deaths the test has ordered (which its log may tell; others it may not)."""

    def __init__(
        self, kind: PoolKind, folder: Path, broker: str, backend: str, meeting: str, arguments: tuple[str, ...] = (),
        conf: dict[str, Any] | None = None, environment: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True)
        self.kind = kind
        self.folder = folder
        self.name = f"{kind.name}-{folder.name}"
        self.log_path = folder / "worker.log"
        self.conf = dict(conf or {})
        if kind.filesystem:
            broker = f"{file_broker.SCHEME}://"
            queue, control = folder / "queue", folder / "control"
            queue.mkdir()
            control.mkdir()
            self.conf["broker_transport_options"] = {
                "data_folder_in": str(queue), "data_folder_out": str(queue), "control_folder": str(control),
                "polling_interval": 0.05,
            }  # fmt: skip
        self.broker, self.backend = broker, backend
        self.arguments = arguments
        # TMPDIR: kombu's filesystem transport moves taken messages through it.
        self.environment = kind.environment | (environment or {}) | {
            "LIVE_BROKER": broker, "LIVE_BACKEND": backend, "LIVE_CONF": json.dumps(self.conf), "LIVE_NAME": self.name,
            "LIVE_REDIS": meeting, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        # No socket timeout: waiting for a push is what these connections are for.
        self.meeting = redis.Redis.from_url(meeting, decode_responses=True, socket_timeout=None)
        self.connect()
        self.ordered: Counter[str] = Counter()
        self.excused: tuple[str, ...] = ()  # alarms that the test itself has provoked, and that are not the pool's
        self.complained = False  # its log has been told already
        self.process: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """A client; a second call gives a fresh one, whose connections no restarted server has cut."""
        pools.reset()  # kombu keeps connections per address, not per client
        self.client = Celery("client", broker=self.broker, backend=self.backend)
        self.client.conf.update(self.conf)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, limit_s: float = 30.0) -> None:
        command = [sys.executable, "-P", "-m", "celery", "-A", "tasks_app", "worker", "-l", "INFO"]
        command += ["-n", f"{self.name}@live", "--without-gossip", "--without-mingle", *self.kind.arguments]
        command += self.arguments if "-c" in self.arguments or "--autoscale" in self.arguments else ("-c", "2", *self.arguments)
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | self.environment
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=HERE, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(lambda: self.is_ready() or self.process.poll() is not None, limit_s, f"{self.name} ready\n{self.log()}")
        assert self.process.poll() is None, f"{self.name} did not start:\n{self.log()}"

    def is_ready(self) -> bool:
        return " ready." in self.log()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def stop(self, signum: int = signal.SIGTERM, limit_s: float = 15.0) -> float:
        """Ask for a shutdown; give the seconds it took. A worker that does not obey is killed, and the test fails."""
        assert self.process is not None
        start = time.monotonic()
        family = self.family()
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            self.process.wait(limit_s)
            # The children end with their parent; those that must be waited for are a finding of their own.
            wait_until(lambda: not alive(family), 5, "the worker is gone, and so are its children")
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} was still there {limit_s} s after its signal:\n{self.log()[-3000:]}") from None
        finally:
            self.kill(family)
        return time.monotonic() - start

    def kill(self, family: list[psutil.Process] | None = None) -> None:
        assert self.process is not None
        family = (family or []) + self.family()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for process in alive(family):
            process.kill()

    def cry(self) -> str:
        """Where every thread of the worker stands, which Celery logs on SIGUSR1: told when a step has failed."""
        if self.process is None or self.process.poll() is not None:
            return ""
        before = len(self.log())
        self.process.send_signal(signal.SIGUSR1)
        try:
            wait_until(lambda: self.log().rstrip().endswith("=" * 49), 2, "the stacks")
        except AssertionError:
            pass
        return self.log()[before:]

    def family(self) -> list[psutil.Process]:
        """Everything below the worker: pool children, a template process, and what tasks have started."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    # -- tasks --------------------------------------------------------------------------------------------------------

    def send(self, task: str, *args: Any, **options: Any) -> AsyncResult:
        return self.client.send_task(task, args=args, **options)

    def call(self, task: str, *args: Any, limit_s: float = 10.0) -> Any:
        return self.send(task, *args).get(timeout=limit_s)

    def error(self, task: str, *args: Any, limit_s: float = 15.0) -> tuple[str, str]:
        """Type name and text of the error the task ends in."""
        result = self.send(task, *args)
        value = result.get(timeout=limit_s, propagate=False)
        assert result.state == "FAILURE", f"{task} ended as {result.state}: {value!r}"
        return type(value).__name__, str(value)

    def begun(self, key: str, limit_s: float = 10.0) -> int:
        """Wait until a task has arrived at `key`; its pid."""
        answer = self.meeting.blpop([key], timeout=limit_s)
        assert answer is not None, f"no task arrived at {key} within {limit_s} s\n{self.log()[-2000:]}"
        return int(answer[1])

    def go(self, key: str, count: int = 1) -> None:
        self.meeting.rpush(f"{key}:go", *["go"] * count)

    # -- questions and signals ----------------------------------------------------------------------------------------

    def ask(self, method: str, *args: Any, limit_s: float = 10.0) -> Any:
        """One remote-control question, answered by this worker."""
        deadline = time.monotonic() + limit_s
        while True:
            answer = getattr(self.client.control.inspect([f"{self.name}@live"], timeout=1.0, limit=1), method)(*args)
            if answer:
                return next(iter(answer.values()))
            assert time.monotonic() < deadline, f"inspect {method}: no answer in {limit_s} s\n{self.log()[-2000:]}"

    def pids(self) -> list[int]:
        """The pool's own view of its processes, as `celery inspect stats` shows it."""
        return [int(pid) for pid in self.ask("stats")["pool"]["processes"]]

    def visible_pids(self) -> list[int]:
        """The same from outside, by the titles in the process table: needs no answer from the worker."""
        pids = []
        for process in alive(self.family()):
            try:
                if "PoolWorker" in " ".join(process.cmdline()):
                    pids.append(process.pid)
            except psutil.NoSuchProcess:
                pass
        return pids

    def murder(self, pid: int, signum: int = signal.SIGKILL) -> None:
        assert pid in {process.pid for process in self.family()}, f"{pid} is none of {self.name}'s processes"
        self.order(f"signal {int(signum)} ({signal.Signals(signum).name})")
        os.kill(pid, signum)

    def order(self, status: str, count: int = 1) -> None:
        """The log may say once more that a process ended with `status`."""
        self.ordered[status] += count

    def complaints(self) -> list[str]:
        """Lines the log should not have: alarms, and exit statuses that nobody ordered."""
        text = self.log()
        found = [line for line in text.splitlines() if any(word in line for word in NEVER) or CRASHED.search(line)]
        found = [line for line in found if not any(word in line for word in self.excused)]
        unordered = Counter(EXITED.findall(text)) - self.ordered
        return found + [f"{count} x exited with {status!r}, not ordered" for status, count in unordered.items()]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those still running (psutil compares creation times, so a reused pid does not count); zombies are gone."""
    left = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
        except psutil.NoSuchProcess:
            pass
    return left
