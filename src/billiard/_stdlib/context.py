"""``multiprocessing``'s contexts, with billiard's processes, queues, pipes and pool.

May import: the standard library and this layer.  The public modules that a context's methods need (pool, managers, util, ...)
lie above this layer; ``_public_module`` imports them when they are called, so that importing a context costs no more than a
context.

The default context is independent of ``multiprocessing``'s: setting one's start method leaves the other's alone.
"""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from multiprocessing import context as mp_context

from .._typing import Any, ClassVar
from ..exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from . import process
from .process import mp_process

__all__ = [
    "BaseContext",
    "DefaultContext",
    "ForkContext",
    "ForkProcess",
    "ForkServerContext",
    "ForkServerProcess",
    "Process",
    "SpawnContext",
    "SpawnProcess",
]


def _public_module(name: str) -> Any:
    return import_module(f"billiard.{name}")


def active_children(_cleanup: Callable[[], None] | None = None) -> list[Any]:
    """The live children of the current process, after joining the finished ones."""
    (_cleanup or mp_process._cleanup)()
    return list(mp_process._children)


class BaseContext(mp_context.BaseContext):
    """The functions of :mod:`billiard`, for one start method."""

    TimeLimitExceeded = TimeLimitExceeded
    SoftTimeLimitExceeded = SoftTimeLimitExceeded
    WorkerLostError = WorkerLostError

    active_children = staticmethod(active_children)

    def get_context(self, method: str | None = None) -> Any:
        """The context for ``method``, or this one."""
        if method is None:
            return self
        try:
            context = _concrete_contexts[method]
        except KeyError:
            raise ValueError(f"cannot find context for {method!r}") from None
        context._check_available()
        return context

    def freeze_support(self) -> None:
        """Be the child that a frozen program was started as, if it was; called first in its main module."""
        # The name, at the call: PyInstaller puts its own there, without which a child on Linux would be the program once more,
        # and start children in turn.
        multiprocessing.freeze_support()

    def forking_is_enabled(self) -> bool:
        """Whether processes are started with fork."""
        return bool(self.get_start_method() == "fork")

    def forking_enable(self, value: Any) -> None:
        """Historic switch. It never switches back to fork, and spawning is chosen with :meth:`set_start_method`."""
        if not value:
            warnings.warn(
                "forking_enable(False) changes nothing: use set_start_method('spawn') or get_context('spawn')",
                RuntimeWarning,
                stacklevel=2,
            )

    def Pipe(self, duplex: bool = True, rnonblock: bool = False, wnonblock: bool = False) -> Any:  # noqa: N802 - the published name
        """Two connections joined by a pipe; the flags make the read or the write end non-blocking."""
        return _public_module("connection").Pipe(duplex, rnonblock, wnonblock)

    def Queue(self, maxsize: int = 0) -> Any:  # noqa: N802 - the published name
        """A queue for many writers and readers."""
        return _public_module("queues").Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize: int = 0) -> Any:  # noqa: N802 - the published name
        """A queue that can wait until all its items are dealt with."""
        return _public_module("queues").JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self) -> Any:  # noqa: N802 - the published name
        """A pipe and two locks."""
        return _public_module("queues").SimpleQueue(ctx=self.get_context())

    def Lock(self) -> Any:  # noqa: N802 - the published name
        """A lock."""
        return _public_module("synchronize").Lock(ctx=self.get_context())

    def RLock(self) -> Any:  # noqa: N802 - the published name
        """A lock that its owner may take again."""
        return _public_module("synchronize").RLock(ctx=self.get_context())

    def Condition(self, lock: Any = None) -> Any:  # noqa: N802 - the published name
        """A condition variable."""
        return _public_module("synchronize").Condition(lock, ctx=self.get_context())

    def Semaphore(self, value: int = 1) -> Any:  # noqa: N802 - the published name
        """A semaphore."""
        return _public_module("synchronize").Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(self, value: int = 1) -> Any:  # noqa: N802 - the published name
        """A semaphore that refuses to be released too often."""
        return _public_module("synchronize").BoundedSemaphore(value, ctx=self.get_context())

    def Event(self) -> Any:  # noqa: N802 - the published name
        """An event."""
        return _public_module("synchronize").Event(ctx=self.get_context())

    def Barrier(self, parties: int, action: Callable[[], Any] | None = None, timeout: float | None = None) -> Any:  # noqa: N802 - the published name
        """A barrier."""
        return _public_module("synchronize").Barrier(parties, action, timeout, ctx=self.get_context())

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any = None) -> Any:  # noqa: N802 - the published name
        """A shared value; its lock is of `ctx`, which defaults to this one."""
        return _public_module("sharedctypes").Value(typecode_or_type, *args, lock=lock, ctx=ctx or self.get_context())

    def Array(self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True, ctx: Any = None) -> Any:  # noqa: N802 - the published name
        """A shared array; its lock is of `ctx`, which defaults to this one."""
        ctx = ctx or self.get_context()
        return _public_module("sharedctypes").Array(typecode_or_type, size_or_initializer, lock=lock, ctx=ctx)

    def Manager(self) -> Any:  # noqa: N802 - the published name
        """A started manager, serving shared objects from a process of its own."""
        manager = _public_module("managers").SyncManager(ctx=self.get_context())
        manager.start()
        return manager

    def Pool(  # noqa: N802 - the published name
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        lost_worker_timeout: float | None = None,
        max_restarts: int | None = None,
        max_restart_freq: float = 1,
        on_process_up: Callable[..., Any] | None = None,
        on_process_down: Callable[..., Any] | None = None,
        on_timeout_set: Callable[..., Any] | None = None,
        on_timeout_cancel: Callable[..., Any] | None = None,
        threads: bool = True,
        semaphore: Any = None,
        putlocks: bool = False,
        allow_restart: bool = False,
        synack: bool = False,
        on_process_exit: Callable[..., Any] | None = None,
        context: Any = None,
        max_memory_per_child: int | None = None,
        enable_timeouts: bool = False,
    ) -> Any:
        """A process pool; :class:`billiard.pool.Pool` explains the arguments. ``context`` defaults to this one."""
        return _public_module("pool").Pool(
            processes,
            initializer,
            initargs,
            maxtasksperchild,
            timeout,
            soft_timeout,
            lost_worker_timeout,
            max_restarts,
            max_restart_freq,
            on_process_up,
            on_process_down,
            on_timeout_set,
            on_timeout_cancel,
            threads,
            semaphore,
            putlocks,
            allow_restart,
            synack,
            on_process_exit,
            self.get_context() if context is None else context,
            max_memory_per_child,
            enable_timeouts,
        )

    def get_logger(self) -> Any:
        """The package's logger, made at the first call."""
        return _public_module("util").get_logger()

    def log_to_stderr(self, level: int | str | None = None) -> Any:
        """Let the package's logger write to stderr."""
        return _public_module("util").log_to_stderr(level)


class Process(process.BaseProcess, mp_context.Process):
    """A process started with the default start method."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - the hook's name
        return _default_context.get_context().Process._Popen(process_obj)

    @staticmethod
    def _after_fork() -> Any:
        return _default_context.get_context().Process._after_fork()


class ForkProcess(process.BaseProcess, mp_context.ForkProcess):
    """A process started with fork."""


class SpawnProcess(process.BaseProcess, mp_context.SpawnProcess):
    """A process started with a fresh interpreter."""


class ForkServerProcess(process.BaseProcess, mp_context.ForkServerProcess):
    """A process forked from a small server process."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - the hook's name
        preload()
        return mp_context.ForkServerProcess._Popen(process_obj)


def preload(*modules: str) -> None:
    """Have the fork server, unless it runs already, import what every child needs, and `modules`: otherwise each child imports
    them anew."""
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    server._preload_modules = [*dict.fromkeys([*server._preload_modules, *_CHILD_MODULES, *modules])]


_CHILD_MODULES = ("billiard._stdlib.fork_server", "billiard._stdlib.context", "billiard._stdlib.connection")


class ForkContext(BaseContext, mp_context.ForkContext):
    """The context of ``fork``."""

    Process: ClassVar[Any] = ForkProcess


class SpawnContext(BaseContext, mp_context.SpawnContext):
    """The context of ``spawn``."""

    Process: ClassVar[Any] = SpawnProcess


class ForkServerContext(BaseContext, mp_context.ForkServerContext):
    """The context of ``forkserver``."""

    Process: ClassVar[Any] = ForkServerProcess


class DefaultContext(mp_context.DefaultContext, BaseContext):
    """The context behind the functions of :mod:`billiard`: its start method can be set, once."""

    Process: ClassVar[Any] = Process


_concrete_contexts: dict[str, BaseContext] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}
# fork after a library has started threads breaks on macOS, hence spawn there.
_default_context: Any = DefaultContext(_concrete_contexts["spawn" if sys.platform == "darwin" else "fork"])


def chosen(ctx: Any) -> Any:
    """`ctx`, or when that is None what the default context stands for now."""
    return _default_context.get_context() if ctx is None else ctx


def _force_start_method(method: str) -> None:
    """Make ``method`` the default, whatever was set before."""
    _default_context._actual_context = _concrete_contexts[method]
