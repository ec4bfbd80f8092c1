"""A worker does not outlive its parent, whatever it is doing.

The kernel does it: a pipe whose other end only the parent's side holds is put into signal-driven mode, with
SIGKILL as the signal and this worker's process group as the receiver. When the holder dies, however it dies, the
pipe hangs up and the group is killed, within a millisecond, with the GIL held or not. PR_SET_PDEATHSIG, the usual means,
watches a *thread* of the parent, is forgotten on setuid, and spares the task's own children; this has none of the three.
"""

from __future__ import annotations

import fcntl
import os
import signal

from .._wire.exit_status import EX_FAILURE

_F_SETSIG = getattr(fcntl, "F_SETSIG", 10)


def tie(fd: int) -> None:
    """Kill this process's group when the far end of the pipe `fd` is closed. The group must be our own.

    Leaves at once if it is closed already.
    """
    fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpid())
    try:
        fcntl.fcntl(fd, _F_SETSIG, signal.SIGKILL)
    except OSError:
        pass  # no F_SETSIG (macOS): SIGIO, whose default ends a process as well
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    try:
        os.read(fd, 1)  # nobody writes: what comes is its end
    except BlockingIOError:
        return
    os._exit(EX_FAILURE)
