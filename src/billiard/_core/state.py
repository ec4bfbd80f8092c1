"""The nouns: a job (one call), a worker (one process), a fate (why a job has no result).

    job     PENDING -> RESULT | ERROR (its frame's kind) | FATE. Once set it never changes.
    worker  STARTING -> UP -> RETIRING -> GONE        told to leave after the calls it holds
                 \\      \\-> KILLED  -> GONE           a lethal signal was sent
                  \\-> GONE                           died before it was ready

A job's `holder` is the worker that has it in flight; a job in the backlog whose holder is set, or which is no longer
pending, is a stale entry and is dropped when met. That makes "take from the backlog" safe to repeat at any point.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from .._typing import Any, Final, NamedTuple, Protocol

PENDING: Final = 0
FATE: Final = 0x100  # beyond any frame kind
NEVER_S: Final = float("inf")


class Progress(Protocol):
    """What a scoreboard said at one moment (see billiard._wire.scoreboard)."""

    @property
    def current(self) -> int: ...
    @property
    def started_ns(self) -> int: ...
    @property
    def item(self) -> int: ...
    @property
    def skipped_from(self) -> int: ...


class Scoreboard(Protocol):
    """The port through which the core looks at a worker and holds it back."""

    def read(self) -> Progress: ...
    def recall(self, number: int) -> None: ...
    def aim(self, number: int, item: int = ...) -> None: ...


class Cause(Enum):
    """Why a job ended without a result of its own."""

    LOST = "worker lost"
    TIME_LIMIT = "time limit exceeded"
    TERMINATED = "terminated"
    UNSTARTABLE = "no worker could be started"
    RESTARTS = "too many restarts"
    POOL_TERMINATED = "pool terminated"


class Fate(NamedTuple):
    """What became of a job that has no result.

    `status`: the worker's exit code, or -signum. `run_s`: for how long it had been running. `item`: index in a chunk of a map.
    `detail`: of UNSTARTABLE what the initializer raised (an error's body) or the OSError of the fork, if either is known; of
    RESTARTS the `RestartIntensity` that was exceeded.
    """

    cause: Cause
    worker: Worker | None = None
    status: int | None = None
    started: bool = False
    run_s: float | None = None
    item: int = 0
    limit_s: float | None = None
    detail: Any = None


class Job:
    """One call, as the core sees it. Defaults are on the class: a job sets only what differs, since the
    attributes of a tiny job are a good part of its price."""

    state: int = PENDING
    body: Any = None
    call: Any = None  # its payload, opaque here; kept until it has ended, since it may have to be sent again
    holder: Worker | None = None
    number: int = 0
    function_id: int = 0
    size: int = 0
    soft_s: float | None = None
    hard_s: float | None = None
    least_s: float = NEVER_S  # the smaller of the two
    deaths: int = 0  # workers that died with this job next in their queue
    watched: bool = False  # somebody wants to be told at once that it is settled
    terminate_signal: int = 0  # the user wants it ended
    may_follow: bool = True  # it may wait behind a brief call, though another worker has nothing to do

    # These two have private names, since users hold jobs: ApplyResult is one.

    def _running(self) -> bool:
        """Whether a worker has begun it, and no end of it is known."""
        worker = self.holder
        return worker is not None and not self.state and worker.current >= self.number

    def _running_pids(self) -> list[int]:
        """The pid of the worker that is on it, in a list."""
        worker = self.holder
        return [worker.pid] if worker is not None and worker.pid is not None and self._running() else []

    def limit(self, soft_s: float | None, hard_s: float | None) -> None:
        """Set the limits on running time."""
        self.soft_s, self.hard_s = soft_s, hard_s
        self.least_s = min(NEVER_S if soft_s is None else soft_s, NEVER_S if hard_s is None else hard_s)


def share_keys(kind: type[Job], *names: str) -> None:
    """Have instances of `kind` hold these attributes without a dict of their own.

    CPython lets the first thirty instances of a class decide which names all of them share room for. A burst makes more
    than thirty jobs before the first is given out or ends; `number` or `state` would then come too late, and every job
    would pay for a dict: 15 % of a tiny call. Costs nothing but speed where an interpreter knows no such thing.
    """
    first = kind.__new__(kind)
    for name in names:
        setattr(first, name, getattr(kind, name, None))


class Phase(IntEnum):
    """Where in its life a worker is (see above); what is beyond UP is on its way out."""

    STARTING = 0
    UP = 1
    RETIRING = 2
    KILLED = 3
    GONE = 4


class KillRequest:
    """A lethal signal wanted for one call (or, with number 0, for whatever the worker is on), and whether it was sent."""

    __slots__ = ("cause", "item", "limit_s", "number", "sent", "signum")

    def __init__(self, number: int, item: int, signum: int, cause: Cause, limit_s: float | None = None) -> None:
        self.number = number
        self.item = item
        self.signum = signum
        self.cause = cause
        self.limit_s = limit_s
        self.sent = False

    def __repr__(self) -> str:
        when = "sent" if self.sent else "under way"
        return f"<KillRequest {when}: signal {self.signum} to {self.number}[{self.item}], {self.cause.name}>"


class Worker:
    """One process, as the core sees it."""

    __slots__ = (
        "__weakref__",
        "blamed",
        "due",
        "heard_at",
        "held_to",
        "ident",
        "index",
        "inflight",
        "kill_request",
        "leaving_from",
        "link",
        "mute",
        "name",
        "next_number",
        "phase",
        "pid",
        "quota",
        "recalled",
        "resume",
        "retire_status",
        "scoreboard",
        "seated",
        "serial",
        "since",
        "soft_sent",
        "stalled_at",
        "status",
        "told_up",
    )

    def __init__(self, ident: int, index: int, quota: int | None) -> None:
        self.ident = ident  # never reused in this pool
        self.index = index  # 0..size-1, reused by replacements
        self.phase = Phase.STARTING
        self.pid: int | None = None
        self.name = ""  # of its process; whoever starts that gives it, with a number among the workers of all pools
        self.serial = 0  # that number, once it is drawn: the order to start it may be repeated
        self.status: int | None = None  # exit code or -signum, once known
        self.inflight: dict[int, Job] = {}
        self.next_number = 1
        self.quota = quota  # calls it may still be given (None: any number)
        self.seated = False  # may be given work; a replacement made ahead of time waits for a seat
        self.scoreboard: Scoreboard | None = None
        self.link: Any = None  # whatever the supervisor keeps about this worker
        self.recalled = 0  # the recall in force; 0: none. While one is, the worker is given nothing
        self.resume = 0  # the recall to be declared over before the next call
        self.since = 1  # calls from this number on follow the latest RESUME; earlier ones may still be being skipped
        self.kill_request: KillRequest | None = None
        self.soft_sent = (0, 0)
        self.heard_at = 0.0  # when its last result came, or it was given its first call after a pause
        self.stalled_at = -1  # the call it was on when a stall was last looked for ...
        self.held_to = 0  # ... and the first number that it did not hold then
        self.leaving_from: int | None = None  # it said that it runs nothing after this number
        self.retire_status = 0
        self.due: dict[str, float] = {}
        self.mute = False  # all that it held was taken back, since it began nothing: it gets nothing until it is heard of
        self.told_up = False  # its owner knows of it
        self.blamed = False  # its death is counted against the call that it may have been reading

    @property
    def active(self) -> bool:
        """Counts towards the pool's size."""
        return self.phase <= Phase.UP

    @property
    def struck_by(self) -> KillRequest | None:
        """The kill request whose signal was sent; None: no lethal signal was."""
        request = self.kill_request
        return request if request is not None and request.sent else None

    @property
    def current(self) -> int:
        """The number of the call that it came to last; 0: none, or its scoreboard is gone."""
        scoreboard = self.scoreboard  # once: another thread may reap it
        return scoreboard.read().current if scoreboard is not None else 0

    @property
    def current_job(self) -> Job | None:
        """The job that it is on. One whose result is there already is over."""
        return self.inflight.get(self.current)

    def __repr__(self) -> str:
        calls = f"{min(self.inflight)}..{max(self.inflight)}" if self.inflight else "-"
        told = f"calls={calls} recalled={self.recalled} kill={self.kill_request}"
        return f"<Worker {self.ident} pid={self.pid} {self.phase.name} {told}>"
