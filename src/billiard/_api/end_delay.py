"""Why the end of a call that Celery terminates is told late.

Celery first has a task ended, then notes that it did, which may take an answer of its backend, and then ends the handle's call
too. Told of the end in between, by our thread, it would take a cancelled task for a revoked one, store that, and acknowledge a
message that is to be delivered again. So the end is held back until Celery takes that last step, or ends the whole pool.
"""

from __future__ import annotations

import time

from .._typing import Final

_LONGEST_S: Final = 5.0  # an end is told after that also if Celery never says that it has noted it
_LOOK_S: Final = 0.005


class EndDelay:
    """Whether the ends of terminated calls are held back just now. Callable from anywhere, a signal handler included."""

    _until = 0.0

    def begin(self) -> None:
        """A call is about to be terminated, and that to be noted."""
        self._until = time.monotonic() + _LONGEST_S

    def stop(self) -> None:
        """It has been noted, or nobody will."""
        self._until = 0.0

    def wait(self) -> None:
        """Return when the end of a terminated call may be told."""
        while time.monotonic() < self._until:  # no lock to wait for: what sets it may be a signal's handler
            time.sleep(_LOOK_S)
