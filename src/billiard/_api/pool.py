"""The pool: arguments in, handles out. What happens in between is the engine's."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import util
from typing import Any, Final

from .._core import blows as core_blows
from .._core import staff as core_staff
from .._core.core import Core
from .._core.dispatch import MAX_WINDOW
from .._core.restarts import RestartIntensity
from .._core.staff import Standing
from .._core.state import Worker
from .._stdlib.context import _default_context as default_context
from .._supervisor.engine import Engine
from .._supervisor.launchers import ContextLauncher, TemplateLauncher
from .._wire import frames, pickling
from .._worker.settings import WorkerSettings
from . import story, validate
from .handles import WorkerHandle
from .imap import IMapIterator, IMapUnorderedIterator
from .results import ApplyResult, Callbacks, Chunk, Handle, MapResult

RUN: Final = 0
CLOSE: Final = 1
TERMINATE: Final = 2

_NOT_GIVEN: Final = object()
_PID_WAIT_S: Final = 1.0
_EXIT_WAIT_S: Final = 5.0  # longer than SIGTERM, its grace and SIGKILL take together
_serials = itertools.count(1)


class Pool:
    """A pool of worker processes. See the page "Process pools" of the documentation.

    processes: number of workers (default: the CPUs this process may use). initializer, initargs: called once in each worker.
    maxtasksperchild: calls after which a worker is replaced. timeout, soft_timeout: hard and soft limit on the running time of
    each call, in seconds; the hard one kills the worker, the soft one raises SoftTimeLimitExceeded in the call.
    lost_worker_timeout: accepted and not needed, since a lost worker is known at once. max_restarts: workers
    that may die within max_restart_freq seconds before the pool gives up (RestartFreqExceeded). on_process_up(handle):
    a worker is ready. on_process_down(handle) or (pid, exitcode): it has gone. on_timeout_set(result, soft, hard),
    on_timeout_cancel(result): a call with limits began, ended. threads: have a supervisor thread; without one an outer
    loop calls `turn` (see `fileno`, `next_deadline`). semaphore, putlocks: bound what is in flight. allow_restart: permit
    `restart`. synack: a worker asks before it begins a call, which can be cancelled until then. on_process_exit(pid,
    exitcode): called in each worker as it exits. context: a billiard context, or None for the default start method.
    max_memory_per_child: kilobytes of resident memory that a worker may gain before it is replaced. enable_timeouts: accepted;
    limits always work.
    """

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
        # process at all, means a worker's memory and not its growth, and gives a worker one task at a time (its -O fair).
        celery = proc_alive_timeout is not _NOT_GIVEN or sched_strategy is not _NOT_GIVEN
        if processes is None:
            processes = self.cpu_count()
        self._least = 0 if celery else 1
        validate.integer("processes", processes, self._least)
        self.soft_timeout, self.timeout = validate.limits(soft_timeout, timeout, ordered=not celery)
        validate.number("lost_worker_timeout", lost_worker_timeout)
        quota = validate.optional_integer("maxtasksperchild", maxtasksperchild, 1)
        restarts = validate.optional_integer("max_restarts", max_restarts, 0)
        period_s = validate.number("max_restart_freq", max_restart_freq, positive=True) or 1
        memory_kb = validate.number("max_memory_per_child", max_memory_per_child, positive=True)
        for name, hook in (
            ("initializer", initializer), ("on_process_up", on_process_up), ("on_process_down", on_process_down),
            ("on_timeout_set", on_timeout_set), ("on_timeout_cancel", on_timeout_cancel), ("on_process_exit", on_process_exit),
        ):  # fmt: skip
            validate.callable_or_none(name, hook)
        if semaphore is not None and not (hasattr(semaphore, "acquire") and hasattr(semaphore, "release")):
            raise TypeError(f"semaphore must have acquire() and release(): {semaphore!r}")
        self._ctx = _context(context)
        self.lost_worker_timeout = lost_worker_timeout
        self.on_process_up, self.on_process_down = on_process_up, on_process_down
        self.on_timeout_set, self.on_timeout_cancel = on_timeout_set, on_timeout_cancel
        self.max_restarts, self.max_restart_freq = max_restarts, max_restart_freq
        self.threads, self.putlocks, self.allow_restart, self.synack = bool(threads), putlocks, allow_restart, bool(synack)
        self._maxtasksperchild, self._max_memory_per_child = quota, max_memory_per_child
        self._putlock = semaphore if semaphore is not None else threading.Semaphore(max(processes, 1))
        self._down_with_status = _takes_two(on_process_down)
        self._handles: dict[int, WorkerHandle] = {}
        settings = WorkerSettings(
            initializer, tuple(validate.items("initargs", initargs)), on_process_exit,
            None if memory_kb is None else int(memory_kb), memory_in_total=celery,
        )  # fmt: skip
        # with synack a worker waits for the answer to the call it took: nothing may be queued in between
        alone = synack or (celery and sched_strategy not in ("fast", "fcfs"))
        core = Core(
            processes, quota, None if restarts is None else RestartIntensity(restarts, period_s),
            max_window=1 if alone else MAX_WINDOW,
        )  # fmt: skip
        self._engine = self._engine_class(core, self._launcher_maker(settings), _weakly(self), self.threads, _pool_name())
        self._snapshot = self._engine.launcher.snapshot
        self._function_ids = self._engine.functions.ids
        # whether a call has options even if it was given none
        self._has_defaults = bool(putlocks or self.timeout or self.soft_timeout or synack or on_timeout_set)
        self._finalizer = util.Finalize(self, _end_engine, args=(self._engine,), exitpriority=15)
        self._engine.start()

    def _launcher_maker(self, settings: WorkerSettings) -> Callable[[Engine], Any]:
        context, method = self._ctx, self._ctx.get_start_method()
        prefix = f"{method.capitalize() if method != 'forkserver' else 'ForkServer'}PoolWorker"

        def make(engine: Engine) -> Any:
            serial = _serials.__next__
            if method == "fork":
                return TemplateLauncher(settings, prefix, engine.watch, engine.unwatch, serial)
            return ContextLauncher(context, settings, prefix, engine.watch, engine.unwatch, serial)

        return make

    # -- one call

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] = {}) -> Any:
        """Call ``func(*args, **kwds)`` in a worker, wait, and return its value or raise its error."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[Any], Any] | None = None,
        accept_callback: Callable[[int, float], Any] | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        waitforslot: bool | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        lost_worker_timeout: float | None = None,
        callbacks_propagate: Iterable[type[BaseException]] | None = None,
        correlation_id: Any = None,
    ) -> ApplyResult:
        """Have ``func(*args, **kwds)`` called in a worker; returns its handle at once.

        callback(value), error_callback(ExceptionInfo): how it ended. accept_callback(pid, monotonic time): a worker took it.
        timeout_callback(soft=bool, timeout=seconds): a limit was exceeded. waitforslot: wait until fewer calls than the pool
        has slots are under way (default: `putlocks`). soft_timeout, timeout: limits of this call (default: the pool's).
        callbacks_propagate: exceptions of callbacks that are to leave `turn` (``threads=False``). correlation_id: kept on
        the handle. Raises ValueError when the pool is closed, TypeError for what is not callable, and whatever pickling raises.
        """
        engine = self._engine
        if engine.core.staff.standing or engine.closed:
            self._refuse()
        function_id = self._function_ids.get(id(func), 0)
        if function_id and not kwds and type(args) is tuple and _all_plain(args):
            # the hot path: a known function and arguments that refer to nothing
            call = _dumps(args, 5)
            job = ApplyResult(self, func, frames.CALL, function_id, call, len(call))
        else:
            job = self._careful_job(func, function_id, args, kwds)
        if (
            callback or error_callback or accept_callback or timeout_callback or waitforslot or soft_timeout is not None
            or timeout is not None or lost_worker_timeout is not None or callbacks_propagate or correlation_id is not None
            or self._has_defaults
        ):  # fmt: skip
            self._set_options(
                job, callback, error_callback, accept_callback, timeout_callback, waitforslot, soft_timeout, timeout,
                lost_worker_timeout, callbacks_propagate, correlation_id,
            )  # fmt: skip
        engine.submit(job)
        if job.kind & frames.LARGE:
            self._own(job)
        return job

    def _set_options(
        self, job: ApplyResult, callback: Any, error_callback: Any, accept_callback: Any, timeout_callback: Any,
        waitforslot: Any, soft_timeout: Any, timeout: Any, lost_worker_timeout: Any, callbacks_propagate: Any,
        correlation_id: Any,
    ) -> None:  # fmt: skip
        for name, hook in (
            ("callback", callback), ("error_callback", error_callback), ("accept_callback", accept_callback),
            ("timeout_callback", timeout_callback),
        ):  # fmt: skip
            if hook is not None and not callable(hook):
                validate.callable_or_none(name, hook)
        validate.number("lost_worker_timeout", lost_worker_timeout)
        soft_s, hard_s = validate.limits(soft_timeout, timeout, ordered=self._least > 0)
        soft_s, hard_s = soft_s or self.soft_timeout, hard_s or self.timeout
        job.limit(soft_s, hard_s)
        job.correlation_id = correlation_id
        wanted = self.putlocks if waitforslot is None else waitforslot
        limited = soft_s is not None or hard_s is not None
        hooked = limited and (self.on_timeout_set is not None or self.on_timeout_cancel is not None)
        if accept_callback is not None or hooked or self.synack:
            job.kind |= frames.ACCEPT | (frames.SYNACK if self.synack else 0)
            self._engine.accepting = True
        if callback or error_callback or accept_callback or timeout_callback or wanted or hooked or callbacks_propagate:
            callbacks = Callbacks()
            callbacks.success, callbacks.error = callback, error_callback
            callbacks.accept, callbacks.timeout = accept_callback, timeout_callback
            callbacks.propagate = tuple(validate.items("callbacks_propagate", callbacks_propagate or ()))
            job.callbacks, job.watched = callbacks, True
            if wanted:
                self._acquire_slot()
                callbacks.slot = self._putlock

    def _acquire_slot(self) -> None:
        slot = self._putlock
        if not self.threads:
            while not slot.acquire(False):
                self._engine.turn(-1.0)
        elif not slot.acquire(False):
            self._engine.driver.wake_supervisor()
            slot.acquire()

    def _careful_job(self, func: Any, function_id: int, args: Any, kwds: Any) -> ApplyResult:
        """A job whatever the function and the arguments are."""
        validate.function(func)
        function_id = function_id or self._function_id(func)
        args, kind = args if type(args) is tuple else tuple(validate.items("args", args)), frames.KWCALL
        payload: Any = args
        if not function_id:
            payload = (func, args, validate.mapping("kwds", kwds))
        elif kwds:
            payload = (args, validate.mapping("kwds", kwds))
        else:
            kind = frames.CALL
        call: Any
        call, buffers = self._pickle(payload, func)
        size = len(call)
        if buffers is not None:
            call, size = frames.pack_large(call, buffers)
            kind |= frames.LARGE
        return ApplyResult(self, func, kind, function_id, call, size)

    def _pickle(self, payload: Any, func: Any) -> tuple[bytes, Any]:
        try:
            return pickling.dumps(payload, self._snapshot)
        except Exception as exc:
            exc.add_note(f"while pickling {self._unpicklable(payload)} of a call of {story.name_of(func)} for a worker")
            raise

    def _unpicklable(self, payload: Any) -> str:
        """Which argument it is that cannot be pickled."""
        args, kwds = payload, {}
        if isinstance(payload, tuple) and len(payload) >= 2 and isinstance(payload[-1], dict):
            args, kwds = payload[-2:]
        named = [*enumerate(args)] if isinstance(args, list | tuple) else []
        for name, value in [*((f"args[{i}]", arg) for i, arg in named), *kwds.items()]:
            try:
                pickling.dumps(value, self._snapshot)
            except Exception:
                return f"argument {name}"
        return "the function"

    def _function_id(self, func: Any) -> int:
        """The number that calls name `func` by, or 0 when each call must carry it."""
        functions = self._engine.functions
        function_id = functions.ids.get(id(func), 0)
        if not function_id and len(functions) < 4096 and pickling.travels_by_name(func, self._snapshot):
            pickled = pickle.dumps(func, 5)
            function_id = functions.add(func, pickled)
        return function_id

    def _own(self, job: ApplyResult) -> None:
        """The caller may change its buffers once we return: what is not with a worker entirely is copied."""
        worker = job.holder
        sent = worker is not None and worker.hands is not None and not worker.hands.channel.busy
        job.call = [part if isinstance(part, bytes) else bytes(part) for part in job.call]
        if not sent and worker is not None and worker.hands is not None:
            worker.hands.channel.own()

    # -- many calls

    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """``[func(x) for x in iterable]``, in workers. `chunksize`: items in one call (default: a quarter of a worker's share).

        Raises the first error in input order, after everything has ended.
        """
        return self.map_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]  # a handle's value is Any

    def starmap(self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None) -> list[Any]:
        """Like `map`, for items that are tuples of arguments."""
        return self.starmap_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]  # a handle's value is Any

    def map_async(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None,
        callback: Callable[[list[Any]], Any] | None = None, error_callback: Callable[[Any], Any] | None = None,
    ) -> MapResult:  # fmt: skip
        """`map`, returning a handle at once. callback(list), error_callback(ExceptionInfo): how it ended."""
        return self._map_async(func, iterable, frames.MAP, chunksize, callback, error_callback)

    def starmap_async(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None,
        callback: Callable[[list[Any]], Any] | None = None, error_callback: Callable[[Any], Any] | None = None,
    ) -> MapResult:  # fmt: skip
        """`starmap`, returning a handle at once."""
        return self._map_async(func, iterable, frames.STARMAP, chunksize, callback, error_callback)

    def _map_async(
        self, func: Any, iterable: Any, kind: int, chunksize: Any, callback: Any, error_callback: Any
    ) -> MapResult:
        self._check_running()
        validate.function(func)
        validate.optional_integer("chunksize", chunksize, 1)
        validate.callable_or_none("callback", callback)
        validate.callable_or_none("error_callback", error_callback)
        items = iterable if isinstance(iterable, list | tuple | range) else list(validate.items("iterable", iterable))
        if chunksize is None:
            chunksize = max(1, -(-len(items) // (4 * max(self._processes, 1))))
        function_id = self._map_function_id(func)
        result = MapResult(self, func, function_id if id(func) not in self._function_ids else 0)
        if callback or error_callback:
            result.callbacks = Callbacks()
            result.callbacks.success, result.callbacks.error = callback, error_callback
        # pickled before the first is submitted: an item that cannot be pickled leaves nothing behind
        slices = _sliced(items, chunksize)
        try:
            chunks = list(self._chunks(result, func, function_id, slices, kind, single=chunksize == 1))
        except BaseException:
            result.complete()  # nobody will hear of it, but the function's number is given up
            raise
        for chunk in chunks:
            result.add(chunk)
        self._engine.submit_all(chunks)
        result.complete()
        return result

    def _chunks(
        self, group: Any, func: Any, function_id: int, slices: Iterable[Any], kind: int, *, single: bool
    ) -> Iterator[Chunk]:
        """A `Chunk` for each slice. `single`: a slice is one item, and is sent as a plain call."""
        first = 0
        soft_s, hard_s = self.soft_timeout, self.timeout
        for items in slices:
            payload: Any = items
            sent_as = kind
            if single:
                payload = tuple(items[0]) if kind == frames.STARMAP else (items[0],)
                sent_as = frames.CALL
            call: Any
            if single and _all_plain(payload):
                call, buffers = _dumps(payload, 5), None
            else:
                call, buffers = self._pickle(payload, func)
            size = len(call)
            if buffers is not None:
                call, size = frames.pack_large(call, buffers)
                sent_as |= frames.LARGE
            chunk = Chunk(group, sent_as, function_id, call, size, first)
            if soft_s or hard_s:
                chunk.limit(soft_s, hard_s)
            first += len(items)
            yield chunk

    def _map_function_id(self, func: Any) -> int:
        """A number for this map: a function that travels by value is pickled once for all its calls."""
        function_id = self._function_id(func)
        if not function_id:
            pickled, buffers = self._pickle(func, func)
            if buffers is not None:
                pickled = pickle.dumps(pickle.loads(pickled, buffers=buffers), 5)
            function_id = self._engine.functions.add(func, pickled, remember=False)
        return function_id

    def imap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1,
        lost_worker_timeout: float | None = None,
    ) -> IMapIterator:  # fmt: skip
        """`map` as an iterator that takes its input as results are fetched."""
        validate.chunksize(chunksize)
        return self._imap(IMapIterator, func, iterable, chunksize, lost_worker_timeout)

    def imap_unordered(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1,
        lost_worker_timeout: float | None = None,
    ) -> IMapIterator:  # fmt: skip
        """`imap` with the results in the order in which they come."""
        validate.chunksize(chunksize)
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize, lost_worker_timeout)

    def _imap(
        self, kind: type[IMapIterator], func: Any, iterable: Any, chunksize: int, lost_worker_timeout: Any
    ) -> IMapIterator:
        self._check_running()
        validate.function(func)
        validate.number("lost_worker_timeout", lost_worker_timeout)
        function_id = self._map_function_id(func)
        result = kind(self, func, function_id, function_id if id(func) not in self._function_ids else 0)
        slices = _batched(iter(validate.items("iterable", iterable)), chunksize)
        result.begin(self._chunks(result, func, function_id, slices, frames.MAP, single=chunksize == 1))
        return result

    # -- the pool's life

    @property
    def _state(self) -> int:
        return min(int(self._engine.core.staff.standing), TERMINATE)

    @property
    def _processes(self) -> int:
        return self._engine.core.staff.size

    @property
    def _pool(self) -> list[WorkerHandle]:
        self._wait_for_pids()
        workers = sorted(self._engine.core.staff.workers.values(), key=lambda worker: worker.index)
        return [self._handle(worker) for worker in workers if worker.active]

    def _wait_for_pids(self) -> None:
        """A worker's pid is known a millisecond or two after it was ordered; whoever asks for it waits that long."""
        until = time.monotonic() + _PID_WAIT_S
        while not self._engine.closed and time.monotonic() < until:
            workers = list(self._engine.core.staff.workers.values())
            if all(worker.pid is not None for worker in workers if worker.active):
                return
            self._engine.turn(0.01)

    def _check_running(self) -> None:
        if self._engine.core.staff.standing or self._engine.closed:
            self._refuse()

    def _refuse(self) -> None:
        """Raise why nothing can be submitted."""
        staff = self._engine.core.staff
        if staff.standing is Standing.BROKEN and staff.broken_by is not None:
            raise story.tell(staff.broken_by, "any call", -1).exception
        raise ValueError(f"Pool not running: it was {'closed' if staff.standing is Standing.CLOSE else 'terminated'}")

    def close(self) -> None:
        """Take no more calls. Those submitted are worked off, then the workers exit."""
        self._engine.close_later()

    def terminate(self) -> None:
        """Stop the workers now. Calls without a result fail with WorkerLostError. Returns when the workers are gone."""
        engine = self._engine
        if engine.closed:
            return
        engine.terminate_later()
        if not _in_pool_thread(engine):
            engine.wait(engine.end, _EXIT_WAIT_S)

    def join(self) -> None:
        """Wait until all workers have exited and all callbacks have run. `close` or `terminate` comes first."""
        engine = self._engine
        if engine.core.staff.standing is Standing.RUN and not engine._terminate_wanted:
            raise NotClosedError("Pool is still running: call close() or terminate() before join()")
        if engine.closed or _in_pool_thread(engine):
            return
        engine.wait(engine.end)
        engine.release()
        self._finalizer.cancel()

    def restart(self) -> None:
        """Replace every worker, each after the calls it holds. Needs ``allow_restart=True``."""
        self._check_running()
        if not self.allow_restart:
            raise ValueError("restart() needs a pool made with allow_restart=True")
        staff = self._engine.core.staff

        def decide() -> None:
            for worker in list(staff.workers.values()):
                staff.retire(worker, 0)

        self._engine.change(decide)

    def grow(self, n: int = 1) -> None:
        """Add `n` workers."""
        validate.integer("n", n, 1)
        self._check_running()
        self._resize(n)

    def shrink(self, n: int = 1) -> None:
        """Remove `n` workers: idle ones at once, busy ones after the calls they hold."""
        validate.integer("n", n, 1)
        self._check_running()
        if self._processes - n < self._least:
            raise ValueError(f"Can't shrink pool by {n}: it has {self._processes} processes, and needs {self._least}")
        self._resize(-n)

    def _resize(self, by: int) -> None:
        staff = self._engine.core.staff
        self._engine.change(lambda: staff.resize(by))
        for _ in range(abs(by)):
            change = getattr(self._putlock, "grow" if by > 0 else "shrink", None)
            if change is not None:
                change()
            elif by > 0:
                self._putlock.release()
            else:
                self._putlock.acquire(False)

    def terminate_job(self, pid: int, sig: int | None = None) -> None:
        """End the call that worker `pid` is on (its handle raises Terminated) with signal `sig` (default: SIGTERM).

        An unknown pid is ignored: the worker may just have gone.
        """
        for worker in list(self._engine.core.staff.workers.values()):
            if worker.pid is not None and worker.pid == int(pid):
                self._engine.terminate_worker(worker, sig or signal.SIGTERM)

    def maintain_pool(self) -> None:
        """Replace workers that have died. Needed only with ``threads=False``, where `turn` does it too."""
        if not self._engine.closed:
            self._engine.turn(0.0)

    def handle_result_event(self, *args: Any) -> None:
        """Deal with whatever has happened, without waiting: what an outer loop calls when `fileno` is readable."""
        if not self._engine.closed:
            self._engine.turn(0.0)

    def fileno(self) -> int:
        """A descriptor that is readable when `turn` has something to do."""
        return self._engine.fileno()

    def next_deadline(self) -> float | None:
        """When `turn` must be called at the latest, in seconds of `time.monotonic`; None when there is no such time."""
        return self._engine.next_deadline()

    def turn(self, timeout: float = 0.0) -> None:
        """Wait for at most `timeout` seconds for something to happen, and deal with it.

        With ``threads=False`` callbacks and hooks run in here.
        """
        self._engine.turn(timeout)

    def did_start_ok(self) -> bool:
        """Whether no worker has died on its own since the pool was made."""
        if not self._engine.closed:
            self._engine.turn(0.0)
        return not self._engine.core.staff.worker_died

    def send_ack(self, response: int, job: Any, i: Any, fd: Any) -> None:
        """Answer a worker that asks whether to begin a call (``synack=True``). `response`: 0 (ACK) or 3 (NACK)."""
        worker: Worker | None = job.holder
        if worker is not None and worker.hands is not None and job.number in worker.inflight:
            verdict = frames.frame(frames.VERDICT, 1 if response == 0 else 0, job.number)
            hands = worker.hands

            def decide() -> None:
                hands.control += (verdict,)
                self._engine.core.dispatch.unwritten[worker] = None

            self._engine.change(decide)

    def on_job_ready(self, job: Any, i: Any, obj: Any, inqW_fd: Any) -> None:  # noqa: N803 - the published name
        """Hook for subclasses: the result of call number `job` has arrived; `obj` is (success, value or ExceptionInfo)."""

    @property
    def process_sentinels(self) -> list[int]:
        """A descriptor for each worker, readable when the worker has ended."""
        return [handle.sentinel for handle in self._pool]

    def cpu_count(self) -> int:
        """How many CPUs this process may use; 1 when that is unknown."""
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0)) or 1
        return os.cpu_count() or 1

    # -- what the engine has to tell; each is called once or more under its lock, and only queues

    def _notice(self, kind: str, subject: Any, value: Any) -> None:
        announce = self._engine.announcer.add
        if kind == core_blows.ACCEPTED:
            announce(subject.accept, *value)
        elif kind == core_blows.SOFT:
            announce(subject.handle_timeout, True)
        elif kind == core_blows.HARD:
            announce(subject.handle_timeout, False)
        elif kind == core_staff.UP and self.on_process_up is not None:
            announce(self._tell_up, self._handle(subject))
        elif kind == core_staff.DOWN:
            handle = self._handle(subject)
            self._handles.pop(subject.ident, None)
            if self.on_process_down is not None and subject.pid is not None:
                announce(self._tell_down, handle)

    def _handle(self, worker: Worker) -> WorkerHandle:
        handle = self._handles.get(worker.ident)
        if handle is None:
            handle = self._handles[worker.ident] = WorkerHandle(worker, f"PoolWorker-{worker.ident}")
        return handle

    def _tell_up(self, handle: WorkerHandle) -> None:
        if self.on_process_up is not None:
            self.on_process_up(handle)

    def _tell_down(self, handle: WorkerHandle) -> None:
        if self.on_process_down is not None:
            if self._down_with_status:
                self.on_process_down(handle, handle.exitcode)
            else:
                self.on_process_down(handle)

    def _accepted(self, job: ApplyResult, pid: int, time_accepted: float) -> None:
        """A worker took `job`. Where user code runs."""
        if self.synack and job._cancelled:
            self.send_ack(3, job, None, None)
            return
        try:
            if self.on_timeout_set is not None and (job.soft_s is not None or job.hard_s is not None):
                self.on_timeout_set(job, job.soft_s, job.hard_s)
            if job.callbacks is not None:
                job.safe_apply_callback(job.callbacks.accept, pid, time_accepted)
        finally:
            if self.synack:
                self.send_ack(0, job, None, None)

    def _ended(self, job: Handle) -> None:
        """`job` has ended. Where user code runs."""
        if self.on_timeout_cancel is not None and (job.soft_s is not None or job.hard_s is not None):
            self.on_timeout_cancel(job)

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()
        self.join()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        state = self._state_names[self._engine.core.staff.standing]
        return f"<{type(self).__name__} state={state} pool_size={self._processes}>"


class NotClosedError(ValueError, AssertionError):
    """`join` before `close`: multiprocessing raises ValueError, billiard an AssertionError."""


_dumps: Final = pickle.dumps
_PLAIN: Final = pickling.PLAIN


def _all_plain(args: Any) -> bool:
    for arg in args:  # noqa: SIM110 - all() with a generator costs three times as much, once per call
        if type(arg) not in _PLAIN:
            return False
    return True


def _context(context: Any) -> Any:
    if context is None:
        return default_context.get_context()
    if not hasattr(context, "get_start_method") or not hasattr(context, "Process"):
        raise TypeError(f"context must be a context (billiard.get_context(...)) or None, not {context!r}")
    return context


def _takes_two(hook: Callable[..., Any] | None) -> bool:
    """Whether `hook` wants (pid, exitcode) and not just a handle."""
    if hook is None:
        return False
    import inspect  # costs 10 ms: only who has the hook pays

    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):
        return False
    try:
        signature.bind(None)
    except TypeError:
        return True
    return False


def _weakly(pool: Pool) -> Callable[[str, Any, Any], None]:
    """The pool's `_notice`, without keeping the pool alive: a forgotten pool ends."""
    ref = weakref.ref(pool)

    def notice(kind: str, subject: Any, value: Any) -> None:
        pool = ref()
        if pool is not None:
            pool._notice(kind, subject, value)

    return notice


def _sliced(items: Any, size: int) -> Iterator[Any]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def _pool_name() -> str:
    return f"billiard-pool-{next(_pool_numbers)}"


_pool_numbers = itertools.count(1)


def _in_pool_thread(engine: Engine) -> bool:
    """A callback or hook may end its own pool, but not wait for itself."""
    me = threading.current_thread()
    return me is engine.driver.thread or me is engine.announcer._thread


def _end_engine(engine: Engine) -> None:
    """The pool was forgotten, or the interpreter exits."""
    if engine.closed or engine._pid != os.getpid():
        return
    if engine.driver.thread is None:
        engine.abandon()
        return
    engine.terminate_later()
    if util.is_exiting() or sys.is_finalizing():
        engine.wait(engine.end, _EXIT_WAIT_S)
        engine.release()

