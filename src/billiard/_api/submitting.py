"""Handing a call over: from a function and its arguments to a job, in the caller's thread (of maps: see `map_submitting`).

What is wrong with a call is found here, before the engine hears of it: what cannot be called, what cannot be pickled (see
`packing`), limits that make no sense. A call owns its bytes: buffers are copied before the caller, or the generator that gave
them, goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from .._supervisor.engine import Engine
from .._typing import Any, Final
from .._wire import frames, pickling
from ..common import TERM_SIGNAL
from . import validate
from .map_results import Chunk
from .packing import Packer, plainly
from .results import ApplyResult, Callbacks, callbacks_of
from .slots import Slot, Slots

_HOOKS: Final = ("callback", "error_callback", "accept_callback", "timeout_callback")


class Submitting:
    """The methods of a pool that take one call."""

    # the pool's, made in its constructor
    _engine: Engine
    _packer: Packer
    _function_ids: dict[int, int]
    _has_defaults: bool  # whether a call has options even if it was given none
    _is_celerys: bool
    _putlock: Any
    _claiming: dict[int, None]  # threads that are about to submit a call that needs a slot
    soft_timeout: float | None
    timeout: float | None
    on_timeout_set: Callable[..., Any] | None
    on_timeout_cancel: Callable[..., Any] | None
    putlocks: bool
    synack: bool
    threads: bool

    def _check_running(self) -> None:
        if self._engine.core.worker_set.pool_state or self._engine.closed:
            self._refuse()

    def _refuse(self) -> None:
        """Raise why nothing can be submitted."""
        raise self._refusal()

    def _refusal(self) -> Exception:
        raise NotImplementedError

    @property
    def _processes(self) -> int:
        return self._engine.core.worker_set.size

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] = {}) -> Any:
        """Call ``func(*args, **kwds)`` in a worker, wait, and return its value or raise its error."""
        self._check_running()
        job = self._job(func, args, kwds)
        if self._has_defaults and self._set_options(job):
            self._submit_in_slot(job)
        else:
            self._engine.submit(job)
        try:
            # the caller waits, so its buffers need not be copied
            return job.get()
        except BaseException:
            if job.kind & frames.LARGE and not job.state:
                self._own(job)  # Ctrl-C: it waits no more
            raise
        finally:
            del job  # the error's traceback keeps this frame, which would keep the error: only a collection would free it

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
        callbacks_propagate: type[BaseException] | Iterable[type[BaseException]] | None = None,
        correlation_id: Any = None,
    ) -> ApplyResult:
        """Have ``func(*args, **kwds)`` called in a worker; returns its handle at once.

        callback(value), error_callback(ExceptionInfo): how it ended. accept_callback(pid, monotonic time): a worker took it.
        timeout_callback(soft=bool, timeout=seconds): a limit was exceeded. waitforslot: wait until fewer calls than the pool
        has slots are under way (default: `putlocks`). soft_timeout, timeout: limits of this call (default: the pool's).
        callbacks_propagate: exceptions of callbacks that are to leave `turn` (``threads=False``). correlation_id: kept on
        the handle. Raises ValueError when the pool is closed, WorkerLostError or RestartFreqExceeded when it has given up,
        TypeError for what is not callable, and whatever pickling raises.
        """
        engine = self._engine
        submit: Callable[[ApplyResult], None] = engine.submit
        if engine.core.worker_set.pool_state or engine.closed:
            self._refuse()
        job = self._job(func, args, kwds)
        if (
            error_callback is not None or accept_callback is not None or timeout_callback is not None or waitforslot
            or soft_timeout is not None or timeout is not None or lost_worker_timeout is not None
            or callbacks_propagate is not None or correlation_id is not None or self._has_defaults
        ):  # fmt: skip
            in_slot = self._set_options(
                job, callback, error_callback, accept_callback, timeout_callback, waitforslot, soft_timeout, timeout,
                lost_worker_timeout, callbacks_propagate, correlation_id,
            )  # fmt: skip
            if in_slot:
                submit = self._submit_in_slot
        elif callback is not None:
            # the most common option, for a third of what all of them cost
            if not callable(callback):
                validate.callable_or_none("callback", callback)
            callbacks = Callbacks()
            callbacks.success = callback
            job.callbacks, job.watched = callbacks, True
        submit(job)
        if job.kind & frames.LARGE:
            self._own(job)
        return job

    def _submit_in_slot(self, job: ApplyResult) -> None:
        """Submit `job` when there is a slot for it."""
        me, claiming = threading.get_ident(), self._claiming
        nested = me in claiming
        try:
            slot = Slot(self._putlock) if type(self._putlock) is Slots else self._putlock
            claiming[me] = None
            while not self._acquire_slot(slot, nested or self._engine.interrupted()):
                claiming.pop(me, None)  # what runs in here may wait for a slot too
                self._engine.turn(-1.0)
                claiming[me] = None
            job.callbacks.slot = slot  # type: ignore[union-attr]  # `_set_options` has made them
            # By now: that wait may have been long. Celery's worker, which is ending too, would take the error for its own.
            if (self._engine.pool_state or self._engine.closed) and not self._is_celerys:
                slot.release()
                self._refuse()
            self._engine.submit(job)
        finally:
            if not nested:
                claiming.pop(me, None)

    def _acquire_slot(self, slot: Any, at_once: bool) -> bool:
        """Whether there was one. With threads, wait for it."""
        if slot.acquire(False):
            return True
        if at_once:
            raise RuntimeError(
                "a signal handler cannot wait for a slot (putlocks): it interrupted the pool, or one who is about to submit,"
                " and these go on only when it returns"
            )
        if self.threads:
            self._engine.driver.wake_supervisor()
            slot.acquire()
        return self.threads

    def _job(self, func: Any, args: Any, kwds: Any) -> ApplyResult:
        function_id = self._function_ids.get(id(func), 0)
        if function_id and not kwds and type(args) is tuple and (call := plainly(args)):
            # the hot path: a known function and arguments that refer to nothing
            return ApplyResult(self, func, frames.CALL, function_id, call, len(call))
        return self._careful_job(func, function_id, args, kwds)

    def _set_options(
        self, job: ApplyResult, callback: Any = None, error_callback: Any = None, accept_callback: Any = None,
        timeout_callback: Any = None, waitforslot: Any = None, soft_timeout: Any = None, timeout: Any = None,
        lost_worker_timeout: Any = None, callbacks_propagate: Any = None, correlation_id: Any = None,
    ) -> bool:  # fmt: skip
        """Set what was asked for. Returns whether the call needs a slot."""
        hooks = (callback, error_callback, accept_callback, timeout_callback)
        told = False
        for hook in hooks:
            if hook is not None:
                told = True
                if not callable(hook):
                    for name, given in zip(_HOOKS, hooks, strict=True):
                        validate.callable_or_none(name, given)
        if lost_worker_timeout is not None:
            validate.number("lost_worker_timeout", lost_worker_timeout)
        soft_s, hard_s = self.soft_timeout, self.timeout
        if soft_timeout is not None or timeout is not None:
            if self._is_celerys:
                soft_given_s, hard_given_s = validate.sent_limits(soft_timeout, timeout)
            else:
                soft_given_s, hard_given_s = validate.limits(soft_timeout, timeout, ordered=True)
            soft_s, hard_s = soft_given_s or soft_s, hard_given_s or hard_s
        hooked = False
        if soft_s is not None or hard_s is not None:
            job.limit(soft_s, hard_s)
            hooked = self.on_timeout_set is not None or self.on_timeout_cancel is not None
        if correlation_id is not None:
            job.correlation_id = correlation_id
        wanted = self.putlocks if waitforslot is None else waitforslot
        if accept_callback is not None or hooked or self.synack:
            job.kind |= frames.ACCEPT | (frames.SYNACK if self.synack else 0)
            self._engine.channels.accepting = True
        if wanted or hooked or told or callbacks_propagate is not None:
            callbacks = callbacks_of(*hooks)
            if callbacks_propagate is not None:
                callbacks.propagate = validate.exception_classes("callbacks_propagate", callbacks_propagate)
            job.callbacks, job.watched = callbacks, True
        return bool(wanted)

    def _careful_job(self, func: Any, function_id: int, args: Any, kwds: Any) -> ApplyResult:
        """A job whatever the function and the arguments are."""
        validate.function(func)
        function_id = function_id or self._packer.function_id(func)
        args, kind = args if type(args) is tuple else tuple(validate.items("args", args)), frames.KWCALL
        args, pure = pickling.lighten_all(args)
        payload: Any = args
        if not function_id:
            payload = (func, args, validate.mapping("kwds", kwds))
        elif kwds:
            payload = (args, validate.mapping("kwds", kwds))
        else:
            kind = frames.CALL
        try:
            call, size, large = self._packer.pack(payload, pure and payload is args)
        except Exception as exc:
            named = [*((f"args[{i}]", arg) for i, arg in enumerate(args)), *dict(kwds or ()).items()]
            self._packer.explain(exc, func, [(f"argument {name}", value) for name, value in named])
            raise
        return ApplyResult(self, func, kind | large, function_id, call, size)

    def _own(self, job: ApplyResult | Chunk) -> None:
        """The caller may change its buffers once we return: they are copied, in case they are to be sent yet, or again."""
        call = job.call
        if call is None:  # it has ended already
            return
        try:
            job.call = [part if isinstance(part, bytes) else bytes(part) for part in call]
            self._engine.own(job)
        except MemoryError:
            # whoever is told so has no handle of it, and may change its buffers
            self._engine.terminate_job(job, TERM_SIGNAL)
            raise
