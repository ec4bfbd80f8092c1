"""What somebody waits for, and until when. Who turns the engine meanwhile is the driver's business."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from .._typing import Protocol


class Target(Protocol):
    """Something to wait for."""

    @property
    def state(self) -> int: ...

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when `state` is no longer 0; at once if it is so already."""

    def unwatch(self, wake: Callable[[], None]) -> None:
        """`wake` need not be called any more."""


class Waitable:
    """A `Target` that knows who waits for it. The room for that is made with the first: most calls are never waited for."""

    state: int
    _wakers: dict[Callable[[], None], None] | None = None

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when `state` is no longer 0; at once if it is so already."""
        # no call between the look and the store, so no other thread either: two of them, and one waker would be lost
        if self._wakers is None:
            self._wakers = {}
        self._wakers[wake] = None
        if self.state:
            wake()

    def unwatch(self, wake: Callable[[], None]) -> None:
        """Who asked for `wake` waits no more. Kept, it would be one for each look of a caller who looks again and again."""
        if self._wakers is not None:
            self._wakers.pop(wake, None)

    def wake_all(self) -> None:
        """Wake who waits. Under the engine's lock; repeatable."""
        for wake in tuple(self._wakers or ()):
            wake()


def moment_in(timeout: float) -> float:
    """The moment `timeout` seconds from now (monotonic). Raises TypeError for what is no number, and ValueError for NaN."""
    try:
        moment = time.monotonic() + timeout
    except TypeError:
        kind = type(timeout).__name__
        raise TypeError(f"timeout must be a number of seconds or None, not {kind}: {timeout!r}") from None
    except OverflowError:  # an int that no float holds
        return math.inf
    if moment != moment:
        raise ValueError(f"timeout must be a number of seconds or None, not {timeout!r}")
    return moment


def rest_until(deadline: float | None) -> float | None:
    """The seconds that are left until `deadline`, 0 when it has passed; None when there is none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
