"""What the engine has to say goes to ``multiprocessing``'s logger, which is billiard's too.

May not raise: a handler that fails (a log server that is gone) would otherwise end the thread that every limit and callback
depends on. `logging` is imported with the first thing to say: `import billiard` must not pay for it.
"""

from __future__ import annotations

import contextlib
import sys

from .._typing import Any


def prepare() -> None:
    """Import it now, and not in a thread that needs it: a process forked while a thread imports, such as the next pool's
    template, waits for that import for ever as soon as it wants the same module."""
    import logging  # noqa: F401 - see above


def warning(message: str, *args: Any) -> None:
    """Something that needs no help."""
    _say("warning", message, args)


def error(message: str, *args: Any, exc_info: BaseException | None = None) -> None:
    """Something that somebody should look at."""
    _say("error", message, args, exc_info)


def _say(level: str, message: str, args: tuple[Any, ...], exc_info: BaseException | None = None) -> None:
    import logging

    try:
        getattr(logging.getLogger("multiprocessing"), level)(message, *args, exc_info=exc_info)
    except Exception:
        with contextlib.suppress(Exception):
            sys.excepthook(*sys.exc_info())
