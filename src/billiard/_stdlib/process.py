"""``multiprocessing``'s process, with what billiard adds.

May import: the standard library; ``common`` and ``_stdlib.context`` at call time.  May not: re-implement.  The child
still goes through ``multiprocessing.process.BaseProcess._bootstrap``, so after-fork hooks, finalizers, logging locks,
coverage and ``multiprocessing.current_process()`` work as for any other process, and the set of live children is the
one that ``multiprocessing`` keeps: its exit function ends daemons and waits for the rest (billiard 4 left orphans).
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from multiprocessing import context, process

from .._typing import Any

__all__ = ["BaseProcess"]

# The published types leave out the private half, which a subclass cannot do without.
mp_context: Any = context
mp_process: Any = process


def name_main_file() -> None:
    """Tell the program's main file in the environment: in here its module has another name, and Celery names tasks by it."""
    main_file = getattr(sys.modules.get("__main__"), "__file__", None)
    if main_file:
        os.environ["MP_MAIN_FILE"] = main_file


class BaseProcess(process.BaseProcess):
    """A process. Unlike the standard library's, a daemonic one may have children of its own.

    Unknown keyword arguments are ignored, as billiard always did.
    """

    #: Set by :meth:`terminate_controlled`: the exit is wanted, so nobody need log its status.
    _controlled_termination = False
    #: Set by a pool that signalled this process because of one job.
    _job_terminated = False

    # Of the base class, which publishes no types for them.
    _check_closed: Callable[[], None]
    _Popen: Callable[[Any], Any]
    _popen: Any
    _parent_pid: int
    _config: dict[str, Any]
    _target: Any
    _args: Any
    _kwargs: Any

    # Start methods at the time of start(), billiard's and multiprocessing's: the child starts with the same ones.
    _billiard_start_method: str | None = None
    _multiprocessing_start_method: str | None = None

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        daemon: bool | None = None,
        **_kw: Any,
    ) -> None:
        super().__init__(group, target, name, args, kwargs, daemon=daemon)

    def start(self) -> None:
        """Start the child process.

        The standard library's steps without its ban on children of daemonic processes: a pool's workers are daemonic,
        and their tasks may start processes and pools.
        """
        self._check_closed()
        assert self._popen is None, "cannot start a process twice"
        assert self._parent_pid == os.getpid(), "can only start a process object created by current process"
        mp_process._cleanup()
        default = mp_context._default_context
        self._billiard_start_method = self._resolve_start_method()
        self._multiprocessing_start_method = default.get_start_method(allow_none=True)
        try:
            self._popen = self._Popen(self)
        finally:
            # multiprocessing's spawn settles its default start method as a side effect. It is not ours to settle:
            # a later multiprocessing.set_start_method() of the application would fail.
            if self._multiprocessing_start_method is None and default._actual_context is default._default_context:
                default._actual_context = None
        self._sentinel = self._popen.sentinel
        # A reference cycle through the target would keep the finished process alive.
        del self._target, self._args, self._kwargs
        mp_process._children.add(self)

    def _resolve_start_method(self) -> str:
        from .context import _default_context

        method: str | None = getattr(self, "_start_method", None)
        return method or str(_default_context.get_start_method())

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        if self._billiard_start_method is not None:
            # imported here only: in a process just forked, finding what is imported already copies forty pages
            from .context import _force_start_method

            _force_start_method(self._billiard_start_method)
        if self._multiprocessing_start_method is None:
            mp_context._default_context._actual_context = None
        if self._billiard_start_method in ("spawn", "forkserver"):
            name_main_file()
            if "_MP_FORK_LOGLEVEL_" in os.environ:
                import_module("billiard.spawn")._setup_logging_in_child_hack()
        # Hides the class attribute from the base class, which would else settle multiprocessing's start method in the
        # child: a task that calls multiprocessing.set_start_method("spawn") must not fail because a pool runs it.
        self.__dict__["_start_method"] = None
        status: int = super()._bootstrap(parent_sentinel)  # type: ignore[misc]  # exists, but is not published
        return status

    def terminate(self) -> None:
        """Send the terminating signal (SIGTERM, unless ``REMAP_SIGTERM`` says otherwise)."""
        from .. import common

        self._check_closed()
        if common.REMAP_SIGTERM:
            self._popen._send_signal(common.TERM_SIGNAL)
        else:
            self._popen.terminate()

    def terminate_controlled(self) -> None:
        """Terminate, and mark the exit as intended."""
        self._controlled_termination = True
        self.terminate()

    def _is_alive(self) -> bool:
        """Like :meth:`is_alive`, for any caller: it does not insist on being in the parent."""
        self._check_closed()
        return self._popen is not None and self._popen.poll() is None

    # Names of billiard's past.
    @property
    def _counter(self) -> Any:
        return mp_process._process_counter

    @property
    def _children(self) -> set[Any]:
        children: set[Any] = mp_process._children
        return children

    @property
    def _authkey(self) -> bytes:
        return self.authkey

    @property
    def _daemonic(self) -> bool:
        return self.daemon

    @property
    def _tempdir(self) -> str | None:
        return self._config.get("tempdir")
