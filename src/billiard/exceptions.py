"""Every error this package raises on purpose.

A leaf: it imports the four errors that ``multiprocessing`` already has (the same objects, so that
``except multiprocessing.TimeoutError`` catches ours) and nothing of this package.

The pool's own errors take any positional arguments, as billiard's always did, and carry what
happened as keyword-only attributes.  These live in the instance's ``__dict__``, which
``BaseException.__reduce__`` keeps, so it survives pickling and copying; ``str()`` never depends on it.
"""

from multiprocessing.context import AuthenticationError, BufferTooShort, ProcessError, TimeoutError

__all__ = [
    "AuthenticationError",
    "BufferTooShort",
    "CoroStop",
    "PayloadError",
    "ProcessError",
    "RestartFreqExceeded",
    "SoftTimeLimitExceeded",
    "TaskError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
]


class _JobError(Exception):
    """An error that can say what ran, where, for how long, and how it ended.

    ``function``: qualified name of the function; ``job``: the job's number; ``pid``: the worker's;
    ``exitcode``: the worker's exit code (``-signum`` for a death by signal); ``signal_name``: that signal's name;
    ``runtime_s``: seconds the job had been running; ``started``: whether it had started at all.
    What is not known stays ``None``.
    """

    function: str | None = None
    job: int | None = None
    pid: int | None = None
    exitcode: int | None = None
    signal_name: str | None = None
    runtime_s: float | None = None
    started: bool | None = None

    def __init__(
        self,
        *args: object,
        function: str | None = None,
        job: int | None = None,
        pid: int | None = None,
        exitcode: int | None = None,
        signal_name: str | None = None,
        runtime_s: float | None = None,
        started: bool | None = None,
    ) -> None:
        super().__init__(*args)
        told = {
            "function": function,
            "job": job,
            "pid": pid,
            "exitcode": exitcode,
            "signal_name": signal_name,
            "runtime_s": runtime_s,
            "started": started,
        }
        self.__dict__.update((name, value) for name, value in told.items() if value is not None)


class TimeLimitExceeded(_JobError):  # noqa: N818 - the published name
    """The hard time limit was exceeded and the job was killed with its worker."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args!r}"


class SoftTimeLimitExceeded(_JobError):  # noqa: N818 - the published name
    """The soft time limit was exceeded. Raised in the running job, which may clean up."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args!r}"


class WorkerLostError(_JobError):
    """The worker running the job exited before the job was done."""


class Terminated(_JobError):  # noqa: N818 - the published name
    """The job was terminated on request."""


class RestartFreqExceeded(_JobError):  # noqa: N818 - the published name
    """Workers were restarted more often than the restart limit allows."""


class CoroStop(_JobError):  # noqa: N818 - the published name
    """Stops a coroutine-style event handler. Kept for those who import it; nothing here raises it."""


class PayloadError(_JobError):
    """Arguments that could not be rebuilt in the worker, or a result that could not be rebuilt in the caller.

    ``__cause__`` is what unpickling raised, or the `TaskError` that stands in for it; ``function`` and ``job`` say whose.
    """

    _sent_cause: bytes | None = None  # on its way from the worker, since a pickled exception has no cause


class TaskError(Exception):
    """Stands in for an exception of a job that could not be pickled, or not be rebuilt in the caller.

    ``type_name``: the name of its class; ``args_repr``: ``repr()`` of its arguments (shortened);
    ``traceback``: the full traceback in the worker, as text.
    """

    def __init__(self, type_name: str, args_repr: str, traceback: str) -> None:
        super().__init__(type_name, args_repr, traceback)
        self.type_name = type_name
        self.args_repr = args_repr
        self.traceback = traceback

    def __str__(self) -> str:
        return f'{self.type_name}{self.args_repr}\n\n"""\n{self.traceback}"""'
