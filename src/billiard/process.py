"""Public module: processes."""

from multiprocessing import process as _mp_process
from multiprocessing.process import current_process, parent_process

from ._stdlib.context import active_children
from ._stdlib.mirror import mirror
from ._stdlib.process import BaseProcess
from ._typing import Any

__all__ = ["BaseProcess", "Process", "active_children", "current_process", "parent_process"]

#: The plain class; :class:`billiard.context.Process` is the one that can be started.
Process = BaseProcess

# _children, _current_process and their like are rebound in every child: they are looked up there, when asked for.
__getattr__, __dir__ = mirror("process")


def _set_current_process(process: Any) -> None:
    """Make ``process`` what :func:`current_process` returns, here and in ``multiprocessing``."""
    _mp_process._current_process = process  # type: ignore[attr-defined]  # exists, but is not published


def _maybe_flush(file: Any) -> None:
    """Flush a stream that may be missing, closed or broken."""
    try:
        file.flush()
    except (AttributeError, OSError, ValueError):
        pass
