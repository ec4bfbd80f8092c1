"""The engine's log. `logging` is imported with the first thing to say: `import billiard` must not pay for it."""

from __future__ import annotations

from .._typing import Any


def logger() -> Any:
    """``multiprocessing``'s logger, which is billiard's too."""
    import logging

    return logging.getLogger("multiprocessing")
