"""What the legacy pool's workers run in its tests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded


def double(x: Any) -> Any:
    return x + x


def fail(text: str) -> None:
    raise ValueError(text)


def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "rested"


def write_pid_and_nap(path: str, seconds: float) -> str:
    Path(path).write_text(str(os.getpid()))
    return nap(seconds)


def catch_soft(seconds: float) -> str:
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "caught"
    return "not limited"


def catch_soft_and_nap(seconds: float) -> str:
    try:
        time.sleep(20)
    except SoftTimeLimitExceeded:
        return nap(seconds)
    return "not limited"


class Swallower:
    """What a signal raises while this is deleted goes no further."""

    def __init__(self, what: Any, *args: Any) -> None:
        self.what, self.args = what, args

    def __del__(self) -> None:
        self.what(*self.args)
        time.sleep(1)


def nap_after_swallowing(signum: int | None) -> str:
    if signum is None:
        Swallower(time.sleep, 20)
    else:
        Swallower(os.kill, os.getpid(), signum)
    time.sleep(20)
    return "rested"


def deaf_nap(seconds: float) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    time.sleep(seconds)


def signal_self(signum: int) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(30)


def fork_and_come_back(how: Any) -> int:
    """The exit status of a child that does not leave by `os._exit`."""
    child = os.fork()
    if not child:
        if how is not None:
            raise how
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def leave_a_child_and_die(path: str) -> None:
    """The child keeps every pipe of its parent open."""
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    Path(path).write_text(str(child))
    os.kill(os.getpid(), signal.SIGKILL)


def a_lambda() -> Any:
    return lambda: None


class TwoArgumentsError(Exception):
    """Pickles, and cannot be rebuilt."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def raise_two_arguments() -> None:
    raise TwoArgumentsError("a", "b")


class Explosive:
    """Pickles; raises when it is rebuilt."""

    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("boom at load")

    def __getstate__(self) -> Any:
        return {"some": "state"}


def return_explosive() -> Explosive:
    return Explosive()


def take(thing: Any) -> str:
    return type(thing).__name__


class Murderous:
    """Kills whoever rebuilds it in a worker."""

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)


def broken_initializer() -> None:
    raise RuntimeError("no worker will ever start")
