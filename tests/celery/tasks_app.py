"""The application that the live workers load (`-A tasks_app`): every task does one thing to its pool.

Settings come by environment, so that one module serves every broker and every pool. Tasks and test meet at keys in
Redis: a task pushes its pid when it has begun, and waits for a push to go on, so nobody guesses by sleeping.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import file_broker  # noqa: F401 - registers its scheme
import redis
from celery.exceptions import SoftTimeLimitExceeded

from celery import Celery, signals

REDIS = os.environ["LIVE_REDIS"]


def make_app(broker: str, backend: str, conf: dict[str, Any]) -> Celery:
    app = Celery("live", broker=broker, backend=backend)
    app.conf.update(worker_hijack_root_logger=True, broker_connection_retry_on_startup=True, result_expires=3600)
    app.conf.update(conf)
    return app


app = make_app(os.environ["LIVE_BROKER"], os.environ["LIVE_BACKEND"], json.loads(os.environ.get("LIVE_CONF", "{}")))


def meeting() -> redis.Redis:
    """A fresh connection each time: one opened before the fork must not be shared by the children."""
    return redis.Redis.from_url(REDIS, socket_timeout=None)


def arrive(key: str) -> int:
    pid = os.getpid()
    meeting().rpush(key, pid)
    return pid


def wait_for_go(key: str, limit_s: float = 60) -> None:
    if meeting().blpop([f"{key}:go"], timeout=limit_s) is None:
        raise TimeoutError(f"nobody let {key} go")


@signals.worker_process_init.connect
def tell_init(**_: Any) -> None:
    arrive(os.environ["LIVE_NAME"] + ":init")


@signals.worker_process_shutdown.connect
def tell_exit(pid: int, exitcode: int, **_: Any) -> None:
    meeting().rpush(os.environ["LIVE_NAME"] + ":exit", f"{pid} {exitcode}")


class TwoArgumentsError(Exception):
    """Cannot be rebuilt from `args` alone."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


@app.task(name="add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="pid")
def pid() -> int:
    return os.getpid()


@app.task(name="fail")
def fail(kind: str) -> Any:
    if kind == "two":
        raise TwoArgumentsError("one", "two")
    if kind == "unencodable":
        return object()
    if kind == "exit":
        raise SystemExit(3)
    raise ValueError(f"asked to fail: {kind}")


@app.task(name="hold")
def hold(key: str) -> int:
    """Begin, say so, and stay until told to go."""
    arrive(key)
    wait_for_go(key)
    return os.getpid()


@app.task(name="soft", soft_time_limit=0.5, time_limit=20)
def soft(key: str) -> str:
    arrive(key)
    try:
        time.sleep(15)
    except SoftTimeLimitExceeded:
        return "caught"
    return "not interrupted"


@app.task(name="hard", time_limit=1)
def hard(key: str) -> str:
    """Only SIGKILL ends this."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
    arrive(key)
    time.sleep(30)
    return "survived"


@app.task(name="die")
def die(how: int) -> None:
    """os._exit(how), or, when negative, death by that signal."""
    if how < 0:
        os.kill(os.getpid(), -how)
        time.sleep(30)
    os._exit(how)


@app.task(name="late", acks_late=True, reject_on_worker_lost=True)
def late(key: str) -> int:
    """The first run stays for ever; give the number of the run that came through."""
    run = int(meeting().incr(f"{key}:runs"))
    arrive(key)
    if run == 1:
        time.sleep(60)
    return run


@app.task(name="big")
def big(size: int) -> str:
    return "x" * size


@app.task(name="doubled")
def doubled(text: str) -> int:
    return 2 * len(text)


def square(number: int) -> int:
    return number * number


def push_square(key: str, number: int) -> None:
    meeting().rpush(key, square(number))


@app.task(name="nest")
def nest(key: str) -> list[int]:
    """A process and a pool inside a task: children of a worker that is itself a daemon."""
    import billiard

    process = billiard.Process(target=push_square, args=(key, 7))
    process.start()
    process.join(20)
    if process.exitcode != 0:
        raise RuntimeError(f"the child ended with {process.exitcode}")
    pool = billiard.Pool(2)
    try:
        return list(pool.map(square, [1, 2, 3, 4]))
    finally:
        pool.terminate()
        pool.join()


@app.task(name="eat")
def eat(megabytes: int) -> int:
    block = bytearray(megabytes << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    return os.getpid()


@app.task(name="slow")
def slow(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


@app.task(name="counted")
def counted(key: str, number: int, seconds: float) -> None:
    """Note at `key` that this one was run once more."""
    meeting().hincrby(key, str(number), 1)
    time.sleep(seconds)


@app.task(name="slow_late", acks_late=True, reject_on_worker_lost=True)
def slow_late(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number
