"""What the supervisor holds of one worker: its channel, and how far it has been written."""

from __future__ import annotations

import os
from collections.abc import Collection

from .._core.state import Phase, Worker
from .._typing import Any
from .._wire import frames
from .._wire.channel import open_channel
from .._wire.descriptors import Holder
from .._wire.far_end import FarEnd
from .._wire.frames import HEADER, HEADER_SIZE
from .._wire.scoreboard import Scoreboard
from .function_table import FunctionTable

# below what a channel joins to one buffer; and a worker can begin with the first while the rest is written
_WRITE_AT_ONCE = 60 << 10


class Sentinel(Holder):
    """A descriptor that is readable when a process has ended: open for as long as anybody who was told its number keeps this.

    Closed when the worker is reaped, its number would soon be that of the replacement's. Who waits for it, and who is just
    about to, would then wait for a process that lives: the kernel, too, looks the number up once more as it wakes them.
    """

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError when there is no such process."""
        self._fds = []
        self._fds.extend(map(os.pidfd_open, (pid,)))

    def fileno(self) -> int:
        return self._fds[0]


class WorkerLink:
    """One worker's channel, scoreboard and bookkeeping. `written` is the first call not handed to the channel yet."""

    __slots__ = (
        "channel",
        "control",
        "exit_status",
        "exited",
        "failure",
        "far_end",
        "kill_on_start",
        "known",
        "ready_early",
        "reaped_elsewhere",
        "registered",
        "retired",
        "scoreboard",
        "sentinel",
        "watched",
        "written",
    )

    def __init__(self, gil_waiters: Collection[object] = ()) -> None:
        """`gil_waiters`: see `open_channel`. Raises OSError when descriptors or memory run out."""
        self.channel, far_end = open_channel(gil_waiters)
        self.far_end: FarEnd | None = far_end
        try:
            self.scoreboard = Scoreboard()
        except BaseException:
            self.channel.close()
            far_end.close()
            raise
        self.written = 1
        self.known: set[int] = set()  # functions that it was sent
        self.control: tuple[bytes, ...] = ()  # frames to go before the next call
        self.retired = False  # RETIRE is written
        self.registered = False  # in the poll set
        self.watched = 0  # what its socket is polled for, besides what comes through the pipe
        self.exited = False
        self.exit_status: int | None = None
        self.reaped_elsewhere = False  # not by us: its pid may be a stranger's
        self.failure: bytes | None = None  # what the worker said of its initializer
        self.kill_on_start = 0  # the signal to send when its pid is known
        self.sentinel: Sentinel | None = None  # made when somebody asks for it
        self.ready_early = False  # it said so before its pid was known

    def started(self) -> None:
        """The worker has its ends now; ours of them go, or its death would leave the channel open."""
        if self.far_end is not None:
            far_end, self.far_end = self.far_end, None
            far_end.close()
        self.scoreboard.close_fd()

    def write(self, worker: Worker, functions: FunctionTable) -> None:
        """Hand what was given to `worker` to its channel. To be called again when the channel is no longer busy."""
        channel = self.channel
        while not channel.busy:
            first, stop = self.written, worker.next_number
            parts: list[Any] = []
            if worker.resume:
                parts.append(frames.frame(frames.RESUME, 0, worker.resume))
            parts += self.control
            size = 0
            number = first
            learnt: list[int] = []
            inflight, known = worker.inflight, self.known
            while number < stop and size < _WRITE_AT_ONCE:
                job: Any = inflight.get(number)
                if job is not None:  # else taken back or settled before it was written
                    function_id, call = job.function_id, job.call
                    if function_id not in known and function_id not in learnt:
                        self._teach(parts, function_id, functions, learnt)
                    parts.append(HEADER.pack(job.kind, function_id, number, job.size))
                    if type(call) is bytes:
                        parts.append(call)
                    else:
                        parts += call
                    size += job.size + HEADER_SIZE
                number += 1
            retire = number == stop and worker.phase is Phase.RETIRING and not self.retired
            if retire:
                parts.append(frames.frame(frames.RETIRE, worker.retire_status, 0))
            if not parts:
                self.written = channel.given = number
                if number == stop:
                    return
                continue
            outgoing = channel.prepare(parts)
            # one statement: what is prepared is on its way, and counts as written
            channel.outgoing, self.written, channel.given, worker.resume, self.control, self.retired = (
                outgoing, number, number, 0, (), self.retired or retire,
            )  # fmt: skip
            # only now: known too early, a function would never be sent; known too late, it is sent twice
            self.known.update(learnt)
            channel.flush()

    def _teach(self, parts: list[Any], function_id: int, functions: FunctionTable, learnt: list[int]) -> None:
        pickled = functions.pickles.get(function_id)
        if pickled is not None:  # 0: the call carries its function
            parts.append(frames.frame(frames.FUNCTION, function_id, 0, pickled))
        learnt.append(function_id)

    def close_in_forked_child(self) -> None:
        """In a forked child of the parent: close what is the parent's."""
        self.channel.close()
        self.scoreboard.close()  # its mapping too: a stray store there would be another process' recall
        if self.far_end is not None:
            self.far_end.close()

    def close(self) -> None:
        """Give up everything. The channel must not be registered any more."""
        self.started()
        self.channel.close()
        self.scoreboard.close()
