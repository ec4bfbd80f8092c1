"""The pool: arguments in, handles out. What happens in between is the engine's."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable
from multiprocessing import util

from .._core.core import Core
from .._core.dispatch import MAX_WINDOW
from .._core.restarts import RestartIntensity
from .._core.worker_set import PoolState
from .._stdlib.context import _default_context as default_context
from .._supervisor.context_launcher import ContextLauncher
from .._supervisor.engine import Engine
from .._supervisor.launching import Launcher
from .._supervisor.poll_set import PollSet
from .._supervisor.template_launcher import TemplateLauncher
from .._typing import Any, Final
from .._wire.spin import processors
from .._worker.settings import WorkerSettings
from ..common import TERM_SIGNAL
from ..exceptions import SoftTimeLimitExceeded
from . import job_errors, validate
from .end_delay import EndDelay
from .imap import let_end
from .map_submitting import MapSubmitting
from .notifying import Notifying, takes_pid_and_exitcode, weak_notify
from .packing import Packer
from .slots import Slots, resize
from .worker_handle import WorkerHandle

TERMINATE: Final = 2

_NOT_GIVEN: Final = object()
_DEFAULTS: Final = ("timeout", "soft_timeout", "putlocks", "synack", "on_timeout_set")  # options of calls that are given none
_PID_WAIT_S: Final = 1.0
_EXIT_WAIT_S: Final = 5.0  # longer than SIGTERM, its grace and SIGKILL take together
_pool_numbers = itertools.count(1)
_serials = itertools.count(1)  # of the workers of all pools


class Pool(MapSubmitting, Notifying):
    """A pool of worker processes. See the page "The pool" of the documentation.

    - processes: number of workers (default: the CPUs this process may use).
    - initializer, initargs: called once in each worker.
    - maxtasksperchild: calls after which a worker is replaced (default: none).
    - timeout, soft_timeout: hard and soft limit on the running time of each call, in seconds (default None or 0: none); the
      hard one kills the worker, the soft one raises SoftTimeLimitExceeded in the call.
    - lost_worker_timeout: accepted and not needed, since a lost worker is known at once.
    - max_restarts, max_restart_freq: if more than `max_restarts` workers (default: any number) die by themselves within
      `max_restart_freq` seconds (default 1), the pool gives up (RestartFreqExceeded). An exit status of 0 does not count.
    - on_process_up(handle): a worker is ready; of one that ends before it is, just before `on_process_down`.
    - on_process_down(handle) or (pid, exitcode): it has gone.
    - on_timeout_set(result, soft, hard), on_timeout_cancel(result): a call of apply or apply_async with limits began, ended.
    - threads: have a supervisor thread (default); without one an outer loop calls `turn` (see `fileno`, `next_deadline`).
    - putlocks: `apply_async` waits for a free slot (default False). semaphore: what gives the slots, an object with
      `acquire(blocking)` and `release()` (default: one slot for each worker).
    - allow_restart: permit `restart` (default False).
    - synack: a worker asks before it begins a call, which can be cancelled until then (default False).
    - on_process_exit(pid, exitcode): called in each worker as it exits.
    - context: a billiard context, or None for the default start method.
    - max_memory_per_child: kilobytes of resident memory that a worker may gain before it is replaced, which is looked at after
      each call (default: any).
    - enable_timeouts: accepted; limits always work.

    Raises TypeError or ValueError, which name the argument, for what makes no sense, and OSError when no process can be made.
    """

    SoftTimeLimitExceeded = SoftTimeLimitExceeded  # for those who have a pool and not its package

    _state_names = ("RUN", "CLOSE", "TERMINATE", "TERMINATE")
    _engine_class: type[Engine] = Engine

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
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
        on_process_exit: Callable[[int, int], Any] | None = None,
        context: Any = None,
        max_memory_per_child: int | None = None,
        enable_timeouts: bool = False,
        *,
        proc_alive_timeout: Any = _NOT_GIVEN,
        sched_strategy: Any = _NOT_GIVEN,
    ) -> None:
        # Celery passes the last two. Who passes them sets the limits independently of each other, may start with no
        # process at all, means a worker's memory and not its growth (0: without bound), gives a worker one task at a time
        # (its -O fair), and wants to hear nothing of what a terminated pool has not run.
        celery = proc_alive_timeout is not _NOT_GIVEN or sched_strategy is not _NOT_GIVEN
        if processes is None:
            processes = self.cpu_count()
        self._least, self._is_celerys = 0 if celery else 1, celery
        self._end_delay = EndDelay()
        processes = validate.integer("processes", processes, self._least)
        self.soft_timeout, self.timeout = validate.limits(soft_timeout, timeout, ordered=not celery)
        validate.number("lost_worker_timeout", lost_worker_timeout)
        quota = validate.optional_integer("maxtasksperchild", maxtasksperchild, 1)
        restarts = validate.optional_integer("max_restarts", max_restarts, 0)
        period_s = validate.number("max_restart_freq", max_restart_freq, positive=True) or 1
        memory_kb = validate.kilobytes("max_memory_per_child", max_memory_per_child, positive=not celery)
        validate.callables(
            initializer=initializer, on_process_up=on_process_up, on_process_down=on_process_down,
            on_timeout_set=on_timeout_set, on_timeout_cancel=on_timeout_cancel, on_process_exit=on_process_exit,
        )  # fmt: skip
        if semaphore is not None and not (hasattr(semaphore, "acquire") and hasattr(semaphore, "release")):
            raise TypeError(f"semaphore must have acquire() and release(): {semaphore!r}")
        self._ctx = _context(context)
        self.lost_worker_timeout = lost_worker_timeout
        self.on_process_up, self.on_process_down = on_process_up, on_process_down
        self.on_timeout_set, self.on_timeout_cancel = on_timeout_set, on_timeout_cancel
        self.max_restarts, self.max_restart_freq = max_restarts, max_restart_freq
        self.threads, self.putlocks, self.allow_restart, self.synack = bool(threads), putlocks, allow_restart, bool(synack)
        self._maxtasksperchild, self._max_memory_per_child = quota, max_memory_per_child
        self._recycles = quota is not None or memory_kb is not None
        self._claiming = {}
        self._putlock = semaphore if semaphore is not None else Slots(max(processes, 1))
        self._handles: dict[int, WorkerHandle] = {}
        self._awaited: list[WorkerHandle] = []  # whose sentinels somebody may be waiting for
        self._lazy_maps = {}
        self._untaken = set()
        settings = WorkerSettings(
            initializer, tuple(validate.items("initargs", initargs)), on_process_exit,
            memory_kb, memory_in_total=celery,
        )  # fmt: skip
        # with synack a worker waits for the answer to the call it took: nothing may be queued in between
        alone = synack or (celery and sched_strategy not in ("fast", "fcfs"))
        core = Core(
            processes, quota, None if restarts is None else RestartIntensity(restarts, period_s),
            max_window=1 if alone else MAX_WINDOW,
        )  # fmt: skip
        self._start(core, settings)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _DEFAULTS:  # also when an owner sets one later: it holds for each call, whatever that is given itself
            self._has_defaults = any(map(self.__dict__.get, _DEFAULTS))
        elif name == "on_process_down":
            self._down_with_status = takes_pid_and_exitcode(value)

    def _start(self, core: Core, settings: WorkerSettings) -> None:
        """Start the engine. Cut short, nothing of it stays: no thread could be started, or a signal's handler raised, and the
        processes would be those of a pool that nobody got."""
        name = f"billiard-pool-{next(_pool_numbers)}"
        self._engine = self._engine_class(core, self._launcher_maker(settings), weak_notify(self), self.threads, name)
        try:
            self._packer = Packer(self._engine.processes.launcher.snapshot, self._engine.channels.functions)
            self._function_ids = self._engine.channels.functions.ids
            self._finalizer = util.Finalize(self, _end_engine, args=(self._engine,), exitpriority=15)
            self._engine.start()
        except BaseException:
            self._engine.abandon()
            raise

    def _launcher_maker(self, settings: WorkerSettings) -> Callable[[PollSet], Launcher]:
        context, method, serial = self._ctx, self._ctx.get_start_method(), _serials.__next__
        prefix = f"{method.capitalize() if method != 'forkserver' else 'ForkServer'}PoolWorker"
        if method == "fork":
            return lambda poll_set: TemplateLauncher(settings, prefix, serial, poll_set)
        return lambda poll_set: ContextLauncher(context, settings, prefix, serial, poll_set)

    # -- the pool's life

    @property
    def _state(self) -> int:
        return min(int(self._engine.pool_state), TERMINATE)

    @property
    def _pool(self) -> list[WorkerHandle]:
        self._wait_for_pids()
        workers = sorted(self._engine.core.worker_set.workers.values(), key=lambda worker: worker.index)
        return [self._handle(worker) for worker in workers if worker.active]

    def _wait_for_pids(self) -> None:
        """A worker's pid is known a millisecond or two after it was ordered; whoever asks for it waits that long."""
        until = time.monotonic() + _PID_WAIT_S
        while not self._engine.closed and time.monotonic() < until:
            workers = list(self._engine.core.worker_set.workers.values())
            if all(worker.pid is not None for worker in workers if worker.active):
                return
            self._engine.turn_beside(0.01)

    def _refuse(self) -> None:
        self._engine.refuse_in_forked_copy()
        super()._refuse()

    def _refusal(self) -> Exception:
        worker_set = self._engine.core.worker_set
        if worker_set.pool_state is PoolState.BROKEN and worker_set.broken_by is not None:
            return job_errors.pool_error(worker_set.broken_by)
        return ValueError(f"Pool not running: it was {'closed' if worker_set.pool_state is PoolState.CLOSE else 'terminated'}")

    def close(self) -> None:
        """Take no more calls. Those submitted are worked off, then the workers exit."""
        self._end_delay.stop()
        self._engine.close_later()

    def terminate(self) -> None:
        """Stop the workers now: with SIGTERM, and half a second later with SIGKILL. Calls without a result fail with
        WorkerLostError.

        Waits until the workers are gone, for 5 seconds at most; in a callback or hook of this pool, or in a signal handler that
        interrupted its work, not at all.
        """
        engine = self._engine
        self._end_delay.stop()
        if engine.closed:
            return
        engine.terminate_later()
        if not engine.must_not_wait():
            engine.wait(engine.end, _EXIT_WAIT_S)

    def join(self) -> None:
        """Wait until all workers have exited and all callbacks have run; where `terminate` does not wait this does not either.

        Raises NotClosedError (a ValueError and an AssertionError) before `close` or `terminate`.
        """
        engine = self._engine
        if engine.in_forked_copy():
            return
        if engine.pool_state is PoolState.RUN and not engine.terminate_wanted:
            raise NotClosedError("Pool is still running: call close() or terminate() before join()")
        if engine.must_not_wait():
            return
        self._end_delay.stop()
        if engine.pool_state is PoolState.CLOSE:
            for job, ref in list(self._lazy_maps.items()):
                results = ref()
                if results is not None:
                    results.read_on()  # what was begun is worked off, also if nobody takes the results meanwhile
                else:
                    let_end(engine, self._lazy_maps, job)  # a signal's handler had raised as it began to tell of its end
        engine.wait(engine.end)
        engine.release()  # also of one that is closed: its callbacks may run yet, or an exception cut this short
        self._awaited = []
        self._finalizer.cancel()

    def restart(self) -> None:
        """Replace every worker, each after the calls it holds. Needs ``allow_restart=True``."""
        self._check_running()
        if not self.allow_restart:
            raise ValueError("restart() needs a pool made with allow_restart=True")
        worker_set = self._engine.core.worker_set

        def decide() -> None:
            for worker in list(worker_set.workers.values()):
                worker_set.retire(worker, 0)

        self._engine.change(decide)

    def grow(self, n: int = 1) -> None:
        """Add `n` workers (default 1). Raises ValueError for less than one, and when the pool is closed."""
        n = validate.integer("n", n, 1)
        self._check_running()
        self._resize(n)

    def shrink(self, n: int = 1) -> None:
        """Remove `n` workers (default 1): idle ones at once, busy ones after the calls they hold.

        Raises ValueError for less than one, when too few would be left, and when the pool is closed.
        """
        n = validate.integer("n", n, 1)
        self._check_running()
        if self._processes - n < self._least:
            raise ValueError(f"Can't shrink pool by {n}: it has {self._processes} processes, and needs {self._least}")
        self._resize(-n)

    def _resize(self, by: int) -> None:
        worker_set = self._engine.core.worker_set

        def decide() -> None:
            # once more, under the lock: several threads may have shrunk it since each of them looked
            change = max(by, self._least - worker_set.size)
            worker_set.resize(change)
            if type(self._putlock) is Slots:
                resize(self._putlock, change)
            else:
                self._engine.callback_runner.add(resize, self._putlock, change)

        self._engine.change(decide)

    def terminate_job(self, pid: int, sig: int | None = None) -> None:
        """End the call that worker `pid` is on (its handle raises Terminated) with signal `sig` (default: SIGTERM).

        A worker that is on no call is ended itself. An unknown pid is ignored: the worker may just have gone.
        """
        try:
            pid = int(pid)  # of a WorkerHandle, too
        except (TypeError, ValueError):
            raise TypeError(f"pid must be the pid of a worker, not {pid!r}") from None
        if self._is_celerys and self.threads and threading.current_thread() is not self._engine.callback_runner.thread:
            # else nobody can be told meanwhile: there is no thread of ours, or it is the one that calls
            self._end_delay.begin()
        for worker in list(self._engine.core.worker_set.workers.values()):
            if worker.pid == pid:
                self._engine.terminate_worker(worker, TERM_SIGNAL if sig is None else sig)

    def maintain_pool(self) -> None:
        """Replace workers that have died. Needed only with ``threads=False``, where `turn` does it too."""
        self._engine.turn_beside(0.0)

    def handle_result_event(self, *args: Any) -> None:
        """Deal with whatever has happened, without waiting: what an outer loop calls when `fileno` is readable."""
        self._engine.turn_beside(0.0)

    def fileno(self) -> int:
        """A descriptor that is readable when `turn` has something to do. NotImplementedError where there is no epoll."""
        return self._engine.fileno()

    def next_deadline(self) -> float | None:
        """When `turn` must be called at the latest, in seconds of `time.monotonic`; None when there is no such time."""
        return self._engine.next_deadline()

    def turn(self, timeout: float = 0.0) -> None:
        """Wait for at most `timeout` seconds for something to happen, and deal with it.

        With ``threads=False`` callbacks and hooks run in here.
        """
        self._engine.turn_beside(validate.number("timeout", timeout) or 0.0)

    def did_start_ok(self) -> bool:
        """Whether no worker has died on its own since the pool was made."""
        self._engine.turn_beside(0.0)
        return not self._engine.core.worker_set.worker_died

    def on_job_ready(self, job: Any, i: Any, obj: Any, inqW_fd: Any) -> None:  # noqa: N803 - the published name
        """Published by billiard 4, and never called here: only the legacy pool calls its own. Kept for those who name it."""

    @property
    def process_sentinels(self) -> list[int]:
        """A descriptor for each worker that has a process, readable when that has ended. Do not close them: they are open until
        you ask again, or join."""
        handles, sentinels = self._pool, []
        for handle in handles:
            with contextlib.suppress(ValueError):  # it has not started yet, or has just ended
                sentinels.append(handle.sentinel)
        self._awaited = handles
        return sentinels

    def Process(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - the published name
        """A process of the pool's context, to be started. It is no worker of the pool."""
        return self._ctx.Process(*args, **kwargs)

    def cpu_count(self) -> int:
        """How many CPUs this process may use; 1 when that is unknown."""
        return processors()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()
        self.join()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        state = self._state_names[self._engine.pool_state]
        return f"<{type(self).__name__} state={state} pool_size={self._processes}>"


# What it inherits has its name: a TypeError for a wrong argument would else tell of `Submitting.apply_async()`.
for _part in Pool.__mro__[1:-1]:
    for _name, _method in vars(_part).items():
        if isinstance(_method, types.FunctionType):
            _method.__module__, _method.__qualname__ = __name__, f"Pool.{_name}"


class NotClosedError(ValueError, AssertionError):
    """`join` before `close`: multiprocessing raises ValueError, billiard an AssertionError."""

    __module__ = "billiard.pool"


def _context(context: Any) -> Any:
    if context is None:
        return default_context.get_context()
    if not hasattr(context, "get_start_method") or not hasattr(context, "Process"):
        raise TypeError(f"context must be a context (billiard.get_context(...)) or None, not {context!r}")
    return context


def _end_engine(engine: Engine) -> None:
    """The pool was forgotten, or the interpreter exits."""
    if engine.closed or engine.in_forked_copy():
        return
    if engine.driver.thread is None:
        engine.abandon()
        return
    engine.terminate_later()
    if util.is_exiting() or sys.is_finalizing():
        engine.wait(engine.end, _EXIT_WAIT_S)
        engine.release(_EXIT_WAIT_S)  # a callback that never returns must not keep the interpreter
